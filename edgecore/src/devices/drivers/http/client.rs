//! One request on one connection: no redirects, no proxy, bounded in time and size.
//!
//! Devices have few sockets and forget connections; a new one each time is what all of them can do.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::body::Question;
use super::config::Endpoint;
use super::place::Place;
use crate::devices::credentials::{self, Credentials, NoCredentials};
use crate::devices::tls::{self, NoTls};

/// The most bytes of a body.
pub(super) const MOST: usize = 64 * 1024;
/// The most bytes of headers.
const HEADERS: usize = 16 * 1024;

/// As whom a server is asked.
#[derive(Clone)]
pub(crate) struct Access {
    authorization: Option<HeaderValue>,
    tls: Option<TlsConnector>,
}

/// Why there is none.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum NoAccess {
    /// There are no credentials.
    #[error(transparent)]
    Credentials(#[from] NoCredentials),
    /// There is no TLS.
    #[error(transparent)]
    Tls(#[from] NoTls),
    /// Both a token and a user, or what cannot be sent.
    #[error("the credentials {0} must have either token or username and password, in plain letters")]
    Unsendable(String),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Failure {
    /// The device was not reached.
    #[error("{0}")]
    Away(String),
    /// It was asked, and did not answer, or not in time: it may have done what was asked.
    #[error("{0}")]
    Unanswered(String),
    /// It answered that it will not.
    #[error("HTTP {}{}", .0.as_u16(), reason(*.0))]
    Status(StatusCode),
    /// Its answer is of no use.
    #[error("{0}")]
    Answer(String),
}

impl Failure {
    /// Why nothing came from the device, if nothing did.
    pub(crate) fn silence(&self) -> Option<&str> {
        match self {
            Self::Away(why) | Self::Unanswered(why) => Some(why),
            Self::Status(_) | Self::Answer(_) => None,
        }
    }
}

fn reason(status: StatusCode) -> String {
    if status.is_redirection() {
        return ": redirects are not followed".to_owned();
    }
    let name = status.canonical_reason();
    name.map(|name| format!(" {name}")).unwrap_or_default()
}

impl Access {
    /// Reads the credentials of an endpoint anew.
    pub(crate) fn read(endpoint: &Endpoint, directory: &Path) -> Result<Self, NoAccess> {
        let name = endpoint.credentials.as_ref();
        let credentials = name
            .map(|name| credentials::load(directory, name, &endpoint.namespace))
            .transpose()?;
        let own = credentials.as_ref();
        let tls = endpoint.place.tls.then(|| tls::client(own)).transpose()?;
        Ok(Self {
            authorization: own
                .map(|own| authorization(own, name.map_or("", String::as_str)))
                .transpose()?
                .flatten(),
            tls: tls.map(|config| TlsConnector::from(Arc::new(config))),
        })
    }
}

fn authorization(own: &Credentials, name: &str) -> Result<Option<HeaderValue>, NoAccess> {
    let unsendable = || NoAccess::Unsendable(name.to_owned());
    let text = match (&own.token, own.login()) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err(unsendable()),
        (Some(token), None) => format!("Bearer {token}"),
        (None, Some((user, password))) => {
            let both = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
            format!("Basic {both}")
        }
    };
    let mut value = HeaderValue::try_from(text).map_err(|_| unsendable())?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Asks once; the body of the answer.
pub(crate) async fn ask(
    place: &Place,
    access: &Access,
    question: &Question,
    time: Duration,
) -> Result<Bytes, Failure> {
    let ends = Instant::now() + time;
    let late = || "timeout".to_owned();
    let request = request(place, access, question)?;
    let stream = timeout_at(ends, connect(place, access)).await;
    let stream = stream.unwrap_or_else(|_| Err(Failure::Away(late())))?;
    let answer = timeout_at(ends, exchange(request, stream)).await;
    answer.unwrap_or_else(|_| Err(Failure::Unanswered(late())))
}

async fn connect(place: &Place, access: &Access) -> Result<Either<TcpStream, TlsStream<TcpStream>>, Failure> {
    let tcp = TcpStream::connect((place.host.as_str(), place.port)).await;
    let tcp = tcp.map_err(|error| Failure::Away(format!("{place}: {error}")))?;
    let Some(tls) = &access.tls else {
        return Ok(Either::Left(tcp));
    };
    let name = ServerName::try_from(place.host.clone()).map_err(|error| Failure::Away(error.to_string()))?;
    let stream = tls.connect(name, tcp).await;
    let stream = stream.map_err(|error| Failure::Away(format!("TLS to {place}: {error}")))?;
    Ok(Either::Right(stream))
}

fn request(place: &Place, access: &Access, question: &Question) -> Result<Request<Full<Bytes>>, Failure> {
    let wrong = |error: &dyn ToString| Failure::Answer(error.to_string());
    let mut builder = Request::builder()
        .method(&question.method)
        .uri(question.target.as_str())
        .header(HOST, place.authority())
        .header(USER_AGENT, "tombolo")
        .header(ACCEPT, "application/json, */*;q=0.5")
        .header(CONNECTION, "close");
    if let Some(authorization) = &access.authorization {
        builder = builder.header(AUTHORIZATION, authorization);
    }
    let body = match &question.body {
        None => Bytes::new(),
        Some((content_type, body)) => {
            builder = builder.header(CONTENT_TYPE, content_type);
            Bytes::from(body.clone())
        }
    };
    builder.body(Full::new(body)).map_err(|error| wrong(&error))
}

async fn exchange(
    request: Request<Full<Bytes>>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
) -> Result<Bytes, Failure> {
    let broken = |error: hyper::Error| Failure::Unanswered(error.to_string());
    crate::exchange::exchange((stream, HEADERS), request, read, broken).await
}

async fn read(response: http::Response<Incoming>) -> Result<Bytes, Failure> {
    let (head, body) = response.into_parts();
    if !head.status.is_success() {
        return Err(Failure::Status(head.status));
    }
    let whole = Limited::new(body, MOST).collect().await;
    let whole = whole.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            return Failure::Answer(format!("the answer is longer than {MOST} bytes"));
        }
        Failure::Unanswered(format!("the answer breaks off: {error}"))
    })?;
    Ok(whole.to_bytes())
}
