//! One request to the port's HTTP side: TLS to cloudcore, a JSON body out, a bounded answer back.
//!
//! What it is for: enrolling, and renewing a certificate that has ended. Both go over TCP, through the
//! proxy where there is one.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use protocol::clock::Clock;
use protocol::join::{ChannelValue, CsrError};
use protocol::join::{ENROLL_BODY_MAX, EnrollAnswer, EnrollRefusal, RENEW_PATH, RefusalCode, RenewRequest};
use protocol::name::shown;
use protocol::tls::{self, ClientTls, SERVER_NAME, TlsSetupError};
use rustls_pki_types::ServerName;
use serde::Serialize;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::reach::reach;
use crate::config::{Address, Proxy};
use crate::identity::{Identity, IdentityFault};

/// How long one address may take to be found, reached and greeted, each.
const CONNECT_LIMIT: Duration = Duration::from_secs(8);
/// How long cloudcore may take over the request: it asks the API server meanwhile.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Why a certificate that has ended was not renewed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RenewError {
    /// Nobody fit to ask was found, or the answer was lost.
    #[error("it could not be renewed over TCP: {0}")]
    Unreached(String),
    /// The cluster says no.
    #[error("cloudcore does not renew it: {text}")]
    Refused {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, in the server's words.
        text: String,
    },
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    /// The key cannot sign.
    #[error(transparent)]
    Key(#[from] CsrError),
    /// The new certificate is not one to keep.
    #[error(transparent)]
    Unfit(#[from] IdentityFault),
}

impl RenewError {
    /// Whether the cluster has decided: asking it in another way would only repeat it.
    pub(super) fn is_verdict(&self) -> bool {
        match self {
            // An older cloudcore knows nothing of renewals, and calls the request a bad one.
            Self::Refused { code, .. } => !code.is_temporary() && *code != RefusalCode::BadRequest,
            Self::Unreached(_) | Self::Tls(_) | Self::Key(_) | Self::Unfit(_) => false,
        }
    }
}

/// Reaches an address and checks by `client` who is there. Nothing of ours is sent but a TLS hello.
pub(crate) async fn greet(
    address: &Address,
    proxy: Option<&Proxy>,
    client: &ClientTls,
) -> Result<TlsStream<TcpStream>, String> {
    let slow = |what: &str| format!("{what} took longer than {} s", CONNECT_LIMIT.as_secs());
    let (tcp, _) = timeout(CONNECT_LIMIT, reach(address, proxy))
        .await
        .map_err(|_| slow("connecting"))?
        .map_err(|error| error.to_string())?;
    let name = ServerName::try_from(SERVER_NAME).map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(Arc::clone(&client.config));
    let handshake = timeout(CONNECT_LIMIT, connector.connect(name, tcp)).await;
    handshake
        .map_err(|_| slow("the TLS handshake"))?
        .map_err(|error| {
            client
                .faults
                .take()
                .map_or_else(|| format!("no TLS there: {error}"), |fault| fault.to_string())
        })
}

/// Sends one request and reads its answer.
pub(crate) async fn post<T: Serialize>(
    stream: TlsStream<TcpStream>,
    path: &str,
    request: &T,
) -> Result<(StatusCode, Vec<u8>), String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let body = serde_json::to_vec(request).map_err(|e| told(&e))?;
    let request = Request::post(path)
        .header(header::HOST, SERVER_NAME)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(bytes::Bytes::from(body)))
        .map_err(|e| told(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| told(&e))?;
    // Ends with this call: the set is dropped.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let response = sender.send_request(request).await.map_err(|e| told(&e))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ENROLL_BODY_MAX)
        .collect()
        .await
        .map_err(|e| told(&e))?;
    Ok((status, body.to_bytes().to_vec()))
}

/// Renews a certificate that has ended, and keeps the new one.
pub(super) async fn renew(
    address: &Address,
    proxy: Option<&Proxy>,
    identity: &Identity,
    clock: &Clock,
) -> Result<(), RenewError> {
    // Read first: somebody may have put another one there.
    // What is on the disk may be newer.
    let _held = identity.current().await?;
    if !identity.has_ended() {
        return Ok(());
    }
    let answer = ask(address, proxy, identity, clock).await?;
    Ok(identity.renewed(&answer.certificate).await?)
}

/// Asks for the next certificate, whether or not this one has ended; nothing is kept. What the cluster says is
/// also its word on whether it still takes this name and key.
pub(crate) async fn ask(
    address: &Address,
    proxy: Option<&Proxy>,
    identity: &Identity,
    clock: &Clock,
) -> Result<EnrollAnswer, RenewError> {
    let held = identity.current().await?;
    let client = tls::renewing_client(&held.authority, clock)?;
    let stream = greet(address, proxy, &client)
        .await
        .map_err(RenewError::Unreached)?;
    let channel = ChannelValue::of_client(stream.get_ref().1);
    let channel = channel.map_err(|error| RenewError::Unreached(error.to_string()))?;
    let request = RenewRequest {
        certificate: held.certificate_pem(),
        proof: identity.prove(&channel)?,
    };
    let sent = timeout(ANSWER_LIMIT, post(stream, RENEW_PATH, &request)).await;
    let late = || format!("no answer within {} s", ANSWER_LIMIT.as_secs());
    let (status, body) = sent
        .unwrap_or_else(|_| Err(late()))
        .map_err(RenewError::Unreached)?;
    let unread = |what: &str| RenewError::Unreached(format!("{address} answered HTTP {status} and {what}"));
    if !status.is_success() {
        let refusal: EnrollRefusal = serde_json::from_slice(&body).map_err(|_| unread("no reason"))?;
        clock.saw_server_millis(refusal.server_time_ms);
        return Err(RenewError::Refused {
            code: refusal.code,
            text: shown(&refusal.text),
        });
    }
    let answer: EnrollAnswer = serde_json::from_slice(&body).map_err(|_| unread("no certificate"))?;
    clock.saw_server_millis(answer.server_time_ms);
    Ok(answer)
}
