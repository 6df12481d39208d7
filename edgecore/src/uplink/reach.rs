//! From an address of cloudcore to a TCP socket that leads there, straight or through a proxy.
//!
//! A proxy sees where the socket goes and how much passes; TLS is between this device and
//! cloudcore.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::name::shown;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::race::{interleaved, staggered};
use crate::config::{Address, Proxy, ProxyPasswordError};

/// An address that does not answer for so long is joined by the next one (RFC 8305).
const NEXT_AFTER: Duration = Duration::from_millis(250);
/// How long all of them together may take: the kernel alone would try for two minutes.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a proxy may take to answer.
const PROXY_LIMIT: Duration = Duration::from_secs(10);
/// The longest answer of a proxy.
const ANSWER: usize = 8 << 10;

/// Why there is no socket.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReachError {
    /// The name has no address.
    #[error("the name is not found: {0}")]
    Unresolved(String),
    /// No address took the connection.
    #[error("{}", .0.join(", "))]
    Refused(Vec<String>),
    /// The proxy could not be reached.
    #[error("the proxy {proxy} is not reached: {why}")]
    NoProxy {
        /// Where it is said to be.
        proxy: String,
        /// What happened.
        why: String,
    },
    /// The proxy wants a password, or another one.
    #[error("the proxy {0} wants a user and password, or other ones")]
    Unauthorized(String),
    /// The proxy does not lead there.
    #[error("the proxy {proxy} does not lead to cloudcore: {answer}")]
    Proxy {
        /// Where it is.
        proxy: String,
        /// Its answer.
        answer: String,
    },
    /// The password could not be read.
    #[error(transparent)]
    Password(#[from] ProxyPasswordError),
}

/// A socket that leads to `address`, and where it goes first.
pub async fn reach(address: &Address, proxy: Option<&Proxy>) -> Result<(TcpStream, SocketAddr), ReachError> {
    let Some(proxy) = proxy else {
        return connect(address).await;
    };
    let (mut socket, remote) = connect(&proxy.address)
        .await
        .map_err(|error| ReachError::NoProxy {
            proxy: proxy.address.to_string(),
            why: error.to_string(),
        })?;
    let asked = timeout(PROXY_LIMIT, ask(&mut socket, address, proxy)).await;
    asked.unwrap_or_else(|_| Err(no_answer(proxy, "no answer in time")))?;
    Ok((socket, remote))
}

/// Tries every address that a name has, of both families.
async fn connect(address: &Address) -> Result<(TcpStream, SocketAddr), ReachError> {
    let found = resolve(address).await?;
    let ways = found
        .into_iter()
        .map(|remote| -> futures::future::BoxFuture<'_, _> {
            Box::pin(async move {
                let connected = TcpStream::connect(remote).await;
                connected
                    .map(|socket| (socket, remote))
                    .map_err(|error| format!("{remote}: {error}"))
            })
        });
    let connected = timeout(CONNECT_LIMIT, staggered(ways.collect(), NEXT_AFTER, |_| false)).await;
    let late = || vec![format!("no answer within {} s", CONNECT_LIMIT.as_secs())];
    connected
        .unwrap_or_else(|_| Err(late()))
        .map_err(ReachError::Refused)
}

/// The addresses of a name.
pub(super) async fn resolve(address: &Address) -> Result<Vec<SocketAddr>, ReachError> {
    let found = lookup_host((address.host.as_str(), address.port)).await;
    let found = interleaved(found.map_err(|error| ReachError::Unresolved(error.to_string()))?);
    if found.is_empty() {
        return Err(ReachError::Unresolved("it has no address".to_owned()));
    }
    Ok(found)
}

/// Asks the proxy to lead on, and reads its answer up to the last byte of it and no further.
async fn ask(socket: &mut TcpStream, address: &Address, proxy: &Proxy) -> Result<(), ReachError> {
    let credentials = match proxy.credentials().await? {
        Some((user, password)) => {
            let basic = STANDARD.encode(format!("{user}:{password}"));
            format!("Proxy-Authorization: Basic {basic}\r\n")
        }
        None => String::new(),
    };
    let request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n{credentials}\r\n");
    let broken = |error: std::io::Error| no_answer(proxy, &error.to_string());
    socket.write_all(request.as_bytes()).await.map_err(broken)?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == ANSWER {
            return Err(no_answer(proxy, "its answer has no end"));
        }
        answer.push(socket.read_u8().await.map_err(broken)?);
    }
    judge(&String::from_utf8_lossy(&answer), proxy)
}

fn judge(answer: &str, proxy: &Proxy) -> Result<(), ReachError> {
    let status = answer.lines().next().unwrap_or_default();
    let code = status
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1));
    match code {
        Some(code) if code.starts_with('2') => Ok(()),
        Some("407") => Err(ReachError::Unauthorized(proxy.address.to_string())),
        Some(_) | None => Err(no_answer(proxy, &shown(status))),
    }
}

fn no_answer(proxy: &Proxy, answer: &str) -> ReachError {
    ReachError::Proxy {
        proxy: proxy.address.to_string(),
        answer: answer.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxys_answer_is_told_by_its_first_line() {
        let proxy: Proxy = "http://user:geheim@proxy:3128".parse().unwrap();
        assert!(judge("HTTP/1.1 200 Connection established\r\n\r\n", &proxy).is_ok());
        assert!(judge("HTTP/1.0 200\r\n\r\n", &proxy).is_ok());
        let told = |answer: &str| judge(answer, &proxy).unwrap_err().to_string();
        assert!(told("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").contains("wants a user"));
        assert!(told("HTTP/1.1 403 Forbidden\r\n\r\n").contains("403 Forbidden"));
        assert!(told("SSH-2.0-x\r\n\r\n").contains("SSH"));
        assert!(!told("HTTP/1.1 403 Forbidden\r\n\r\n").contains("geheim"));
    }
}
