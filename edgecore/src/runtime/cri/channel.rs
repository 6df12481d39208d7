//! The channel to the runtime's socket.
//!
//! One HTTP/2 channel carries every call; it dials on first use and again after a break, so a
//! runtime that restarts costs the calls in flight and nothing else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// An endpoint that is not a unix socket's path.
#[derive(Debug, Error)]
#[error("runtime_endpoint {endpoint:?} is not a unix socket; write unix:///run/containerd/containerd.sock")]
pub struct BadEndpoint {
    endpoint: String,
}

/// The channel to `endpoint` (`unix:///path` or `/path`). Does not dial.
pub(super) fn channel(endpoint: &str) -> Result<Channel, BadEndpoint> {
    let bad = || BadEndpoint {
        endpoint: endpoint.to_owned(),
    };
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    if !Path::new(path).is_absolute() {
        return Err(bad());
    }
    dial_lazily(PathBuf::from(path)).map_err(|_| bad())
}

fn dial_lazily(path: PathBuf) -> Result<Channel, tonic::transport::Error> {
    let connector = service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The address is never dialled: the connector knows the socket.
    let endpoint = Endpoint::from_shared("http://runtime.invalid")?.connect_timeout(Duration::from_secs(5));
    Ok(endpoint.connect_with_connector_lazy(connector))
}
