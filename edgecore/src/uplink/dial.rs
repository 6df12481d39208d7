//! From an address to a connection whose other end is proven to be cloudcore.

use std::net::SocketAddr;
use std::sync::Arc;

use protocol::tls::{self, TlsSetupError};
use protocol::transport::{Connection, TransportError, quic};
use thiserror::Error;
use tokio::net::lookup_host;

use super::Uplink;
use crate::config::Address;

/// Why there is no connection.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DialError {
    /// The name has no address.
    #[error("{address} has no address: {why}")]
    Unresolved {
        /// What was asked for.
        address: String,
        /// What the resolver said.
        why: String,
    },
    /// The node's key or certificate cannot be used.
    #[error("this node's identity cannot be used; join again")]
    Identity(#[from] TlsSetupError),
    /// No answer, or the wrong one.
    #[error("{remote}: {source}")]
    Transport {
        /// Where it was tried last.
        remote: SocketAddr,
        /// What went wrong.
        source: TransportError,
    },
}

pub(super) async fn dial(address: &Address, uplink: &Uplink) -> Result<Arc<dyn Connection>, DialError> {
    let tls = tls::client(&uplink.authority, &uplink.credentials, &uplink.clock)?;
    let mut failed = DialError::Unresolved {
        address: address.to_string(),
        why: "the name is not known".to_owned(),
    };
    for remote in resolve(address).await? {
        match quic::connect(remote, &tls).await {
            Ok(connection) => return Ok(connection),
            Err(source) => failed = DialError::Transport { remote, source },
        }
    }
    Err(failed)
}

async fn resolve(address: &Address) -> Result<Vec<SocketAddr>, DialError> {
    let found = lookup_host((address.host.as_str(), address.port)).await;
    let found = found.map_err(|error| DialError::Unresolved {
        address: address.to_string(),
        why: error.to_string(),
    })?;
    Ok(found.collect())
}
