//! From an address to a connection whose other end is proven to be cloudcore.

use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use protocol::clock::Clock;
use protocol::tls::{self, Credentials, TlsSetupError};
use protocol::transport::{Connection, TransportError, quic};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use tokio::net::lookup_host;

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

/// Makes connections to cloudcore, each from a socket of its own.
pub trait Dial: Send + Sync {
    /// A connection to whoever answers at `address`, if that is cloudcore.
    ///
    /// # Cancel safety
    ///
    /// Safe: what was begun is closed.
    fn dial<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Result<Arc<dyn Connection>, DialError>>;
}

/// Dials by QUIC.
pub struct Quic {
    /// Who this node is.
    pub credentials: Credentials,
    /// The CA that cloudcore must be signed by.
    pub authority: CertificateDer<'static>,
    /// The one clock.
    pub clock: Clock,
}

impl Dial for Quic {
    fn dial<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Result<Arc<dyn Connection>, DialError>> {
        Box::pin(async move {
            let tls = tls::client(&self.authority, &self.credentials, &self.clock)?;
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
        })
    }
}

async fn resolve(address: &Address) -> Result<Vec<SocketAddr>, DialError> {
    let found = lookup_host((address.host.as_str(), address.port)).await;
    let found = found.map_err(|error| DialError::Unresolved {
        address: address.to_string(),
        why: error.to_string(),
    })?;
    Ok(found.collect())
}
