//! httpGet probes and hooks, as the kubelet makes them.
//!
//! One connection a request, no proxy, no verification, at most 10 redirects and none to another host.
//!
//! **Invariant:** at most 10 KiB of a body and 64 KiB of headers are read.

use std::io;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::dial::{dial_error, join};
use super::machine::Outcome;
use super::tls;

const BODY_LIMIT: usize = 10 * 1024;
const HEADER_LIMIT: usize = 64 * 1024;
const REDIRECTS: usize = 10;

/// A request that is made again and again.
#[derive(Clone, Debug)]
pub(crate) struct HttpGet {
    url: Url,
    headers: HeaderMap,
}

/// Who asks, for the `User-Agent` header.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asker {
    Probe,
    Hook,
}

/// Why there was no answer.
pub(crate) struct NoAnswer {
    /// For people.
    pub(crate) why: String,
    /// TLS was tried with somebody who speaks plain HTTP.
    pub(crate) speaks_plainly: bool,
}

impl From<String> for NoAnswer {
    fn from(why: String) -> Self {
        Self {
            why,
            speaks_plainly: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Url {
    tls: bool,
    host: String,
    port: u16,
    /// Path and query, encoded.
    path: String,
}

struct Answer {
    status: StatusCode,
    location: Option<String>,
    body: Vec<u8>,
}

impl HttpGet {
    pub(super) fn new(get: &HTTPGetAction, pod_ip: &str, port: u16, asker: Asker) -> Result<Self, String> {
        let host = get
            .host
            .as_deref()
            .filter(|host| !host.is_empty())
            .unwrap_or(pod_ip)
            .to_owned();
        let tls = get
            .scheme
            .as_deref()
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case("HTTPS"));
        let url = Url {
            tls,
            host,
            port,
            path: encoded(get.path.as_deref().unwrap_or_default()),
        };
        Ok(Self {
            url,
            headers: headers(get, asker)?,
        })
    }

    /// One probe, redirects followed.
    pub(super) async fn run(&self) -> Outcome {
        match self.answer().await {
            Ok(answer) => judged(&answer),
            Err(none) => Outcome::Failure(none.why),
        }
    }

    /// Asks once; any answer will do.
    pub(crate) async fn call(&self) -> Result<(), NoAnswer> {
        self.answer().await.map(drop)
    }

    /// The same request without TLS, and without what was meant to go through TLS alone.
    pub(crate) fn plainly(&self) -> Self {
        let mut plain = self.clone();
        plain.url.tls = false;
        plain.headers.remove(AUTHORIZATION);
        plain
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> String {
        join(&self.url.host, self.url.port)
    }

    async fn answer(&self) -> Result<Answer, NoAnswer> {
        let mut url = self.url.clone();
        for _ in 0..=REDIRECTS {
            let answer = self.ask(&url).await.map_err(|none| NoAnswer {
                why: format!("Get {:?}: {}", url.text(), none.why),
                ..none
            })?;
            match answer
                .location
                .as_deref()
                .filter(|_| answer.status.is_redirection())
                .map(|to| url.follow(to))
            {
                Some(Some(next)) if next.host == self.url.host => url = next,
                _ => return Ok(answer),
            }
        }
        Err(format!("Get {:?}: stopped after {REDIRECTS} redirects", url.text()).into())
    }

    /// What to say when [`run`](Self::run) took too long.
    pub(super) fn timed_out(&self) -> String {
        format!(
            "Get {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            self.url.text()
        )
    }

    async fn ask(&self, url: &Url) -> Result<Answer, NoAnswer> {
        let tcp = TcpStream::connect((url.host.as_str(), url.port)).await;
        let tcp = tcp.map_err(|error| dial_error(&url.host, url.port, &error))?;
        if !url.tls {
            return Ok(self.exchange(url, tcp).await?);
        }
        let name = ServerName::try_from(url.host.clone()).map_err(|error| error.to_string())?;
        let stream = TlsConnector::from(tls::config()?).connect(name, tcp).await;
        let stream = stream.map_err(|error| not_encrypted(&error))?;
        Ok(self.exchange(url, stream).await?)
    }

    async fn exchange(
        &self,
        url: &Url,
        stream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> Result<Answer, String> {
        let request = self.request(url)?;
        let broken = |error: hyper::Error| error.to_string();
        Box::pin(crate::exchange::exchange(
            (stream, HEADER_LIMIT),
            request,
            read,
            broken,
        ))
        .await
    }

    fn request(&self, url: &Url) -> Result<Request<Empty<Bytes>>, String> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = url.path.parse().map_err(|error| format!("{error}"))?;
        *request.headers_mut() = self.headers.clone();
        if !request.headers().contains_key(HOST) {
            let host = HeaderValue::try_from(url.authority()).map_err(|error| error.to_string())?;
            request.headers_mut().insert(HOST, host);
        }
        Ok(request)
    }
}

impl Url {
    fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    fn text(&self) -> String {
        format!("{}://{}{}", self.scheme(), join(&self.host, self.port), self.path)
    }

    /// As the `Host` header has it: without the scheme's own port.
    fn authority(&self) -> String {
        let own = if self.tls { 443 } else { 80 };
        let with_port = join(&self.host, self.port);
        let suffix = format!(":{own}");
        if self.port == own {
            with_port.trim_end_matches(suffix.as_str()).to_owned()
        } else {
            with_port
        }
    }

    /// Where a redirect leads; nowhere when it does not parse.
    fn follow(&self, location: &str) -> Option<Self> {
        let absolute = if location.starts_with("//") {
            format!("{}:{location}", self.scheme())
        } else {
            location.to_owned()
        };
        if let Some((scheme, rest)) = absolute
            .split_once("://")
            .filter(|(scheme, _)| matches!(*scheme, "http" | "https"))
        {
            let uri: http::Uri = format!("{scheme}://{rest}").parse().ok()?;
            let tls = scheme == "https";
            let host = uri.host()?.trim_matches(['[', ']']).to_owned();
            let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
            return Some(Self {
                tls,
                host,
                port,
                path: encoded(uri.path_and_query().map_or("/", |path| path.as_str())),
            });
        }
        let path = self.path.split('?').next().unwrap_or_default();
        let base = if location.starts_with('/') {
            ""
        } else {
            path.rsplit_once('/').map_or("/", |(dir, _)| dir)
        };
        let joint = if location.starts_with('/') { "" } else { "/" };
        Some(Self {
            path: encoded(&format!("{base}{joint}{location}")),
            ..self.clone()
        })
    }
}

fn not_encrypted(error: &io::Error) -> NoAnswer {
    let cause = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => NoAnswer {
            why: "http: server gave HTTP response to HTTPS client".to_owned(),
            speaks_plainly: true,
        },
        _ => error.to_string().into(),
    }
}

async fn read(response: http::Response<Incoming>) -> Result<Answer, String> {
    let (head, mut body) = response.into_parts();
    let location = head
        .headers
        .get(LOCATION)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let mut bytes = Vec::new();
    while bytes.len() < BODY_LIMIT {
        let Some(frame) = body.frame().await else { break };
        if let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    bytes.truncate(BODY_LIMIT);
    Ok(Answer {
        status: head.status,
        location,
        body: bytes,
    })
}

/// The body of a failure is never told: it may hold what only the pod's owner should see.
fn judged(answer: &Answer) -> Outcome {
    if answer.status.is_redirection() {
        let body = String::from_utf8_lossy(&answer.body);
        Outcome::Warning(format!("Probe terminated redirects, Response body: {body}"))
    } else if answer.status.is_success() {
        Outcome::Success
    } else {
        Outcome::Failure(format!(
            "HTTP probe failed with statuscode: {}",
            answer.status.as_u16()
        ))
    }
}

fn headers(get: &HTTPGetAction, asker: Asker) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for header in get.http_headers.iter().flatten() {
        let name = HeaderName::try_from(header.name.as_str()).map_err(|error| error.to_string())?;
        headers.append(
            name,
            HeaderValue::try_from(header.value.as_str()).map_err(|error| error.to_string())?,
        );
    }
    let name = match asker {
        Asker::Probe => "kube-probe/1.36",
        Asker::Hook => "kube-lifecycle/1.36",
    };
    headers
        .entry(USER_AGENT)
        .or_insert(HeaderValue::from_static(name));
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    if headers.get(ACCEPT).is_some_and(HeaderValue::is_empty) {
        headers.remove(ACCEPT);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(headers)
}

/// A path as it may stand in a request line.
fn encoded(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        out.push('/');
    }
    for byte in path.bytes() {
        if byte.is_ascii_graphic()
            && !matches!(
                byte,
                b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | b'#'
            )
        {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&hex::encode_upper([byte]));
        }
    }
    out
}

#[cfg(test)]
mod tests;
