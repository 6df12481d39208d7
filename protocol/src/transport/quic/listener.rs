//! cloudcore's UDP socket: handshakes come in, identified connections go out.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use quinn::{Endpoint, TokioRuntime, VarInt};
use rustls::pki_types::CertificateDer;
use thiserror::Error;
use tokio::time::{Instant, timeout};

use super::{
    config,
    connection::{Quic, why},
    gate::Gate,
};
use crate::{
    clock::Clock,
    tls::{IdentityError, peer_identity},
    transport::{CloseCode, Connection, HANDSHAKE_LIMIT, ReceiveBudget, TransportError},
};

/// Why the port could not be listened on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The socket could not be bound.
    #[error("cannot listen on UDP {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The TLS configuration does not suit QUIC.
    #[error("the TLS configuration does not suit QUIC")]
    Tls(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// Listens for edges.
#[derive(Clone, Debug)]
pub struct QuicListener {
    endpoint: Endpoint,
    clock: Clock,
    budget: ReceiveBudget,
    server: Arc<quinn::ServerConfig>,
}

impl QuicListener {
    /// Binds `address`; `[::]` takes IPv4 too, and becomes `0.0.0.0` where there is no IPv6.
    ///
    /// `reset_key` is the same for all replicas, and secret. What edges send and nobody has read is
    /// bounded by `budget`.
    pub fn bind(
        address: SocketAddr,
        tls: Arc<rustls::ServerConfig>,
        reset_key: [u8; 32],
        clock: &Clock,
        budget: &ReceiveBudget,
    ) -> Result<Self, ListenError> {
        let socket = bind(address).map_err(|source| ListenError::Bind { address, source })?;
        let server = config::server(tls)?;
        let endpoint = Endpoint::new(
            config::endpoint(reset_key),
            Some(server.clone()),
            socket,
            Arc::new(TokioRuntime),
        )
        .map_err(|source| ListenError::Bind { address, source })?;
        Ok(Self {
            endpoint,
            clock: clock.clone(),
            budget: budget.clone(),
            server: Arc::new(server),
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The next handshake; `None` once closed.
    pub async fn accept(&self) -> Option<Incoming> {
        let inner = self.endpoint.accept().await?;
        Some(Incoming {
            inner,
            clock: self.clock.clone(),
            budget: self.budget.clone(),
            server: Arc::clone(&self.server),
        })
    }

    /// Takes no more handshakes; connections live on.
    pub fn stop_accepting(&self) {
        self.endpoint.set_server_config(None);
    }

    /// Closes every connection.
    pub fn close(&self, code: CloseCode, reason: &str) {
        self.endpoint
            .close(VarInt::from_u32(code as u32), reason.as_bytes());
    }

    /// Waits until every close has reached its peer, or has tried to.
    pub async fn wait_idle(&self) {
        self.endpoint.wait_idle().await;
    }
}

fn bind(address: SocketAddr) -> std::io::Result<UdpSocket> {
    UdpSocket::bind(address).or_else(|error| {
        if without_ipv6(&error) && address.ip().is_unspecified() {
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, address.port()))
        } else {
            Err(error)
        }
    })
}

/// The kernel has no IPv6, or it is switched off (`EAFNOSUPPORT`, `EADDRNOTAVAIL`).
fn without_ipv6(error: &std::io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.raw_os_error() == Some(EAFNOSUPPORT) || error.kind() == std::io::ErrorKind::AddrNotAvailable
}

/// A handshake that waits for a verdict.
#[derive(Debug)]
pub struct Incoming {
    inner: quinn::Incoming,
    clock: Clock,
    budget: ReceiveBudget,
    server: Arc<quinn::ServerConfig>,
}

impl Incoming {
    /// Where it comes from, if that is true; see [`validated`](Self::validated).
    pub fn remote(&self) -> SocketAddr {
        let remote = self.inner.remote_address();
        SocketAddr::new(remote.ip().to_canonical(), remote.port())
    }

    /// Whether the source was proven by a retry.
    pub fn validated(&self) -> bool {
        self.inner.remote_address_validated()
    }

    /// Asks the source to prove itself; where it did already, refuses it.
    pub fn retry(self) {
        if let Err(proven) = self.inner.retry() {
            proven.into_incoming().refuse();
        }
    }

    /// Says no.
    pub fn refuse(self) {
        self.inner.refuse();
    }

    /// Makes the connection and reads who is there.
    ///
    /// A resumed session brings the certificate of the first one, which is judged again here;
    /// bans are the caller's to check, by [`Connection::peer`].
    pub async fn handshake(self) -> Result<Arc<dyn Connection>, TransportError> {
        let remote = self.remote();
        let Some(share) = self.budget.share() else {
            self.refuse();
            return Err(TransportError::NoRoom);
        };
        let gate = Arc::new(Gate::new(Instant::now()));
        let server = config::gated(&self.server, Arc::clone(&gate));
        let connecting = self
            .inner
            .accept_with(server)
            .map_err(|error| why(remote, &error))?;
        let connected = timeout(HANDSHAKE_LIMIT, connecting).await;
        let inner = connected
            .map_err(|_| TransportError::TimedOut { remote })?
            .map_err(|error| why(remote, &error))?;
        let peer = identity(&inner).and_then(|chain| peer_identity(&chain, remote, self.clock.now()));
        match peer {
            Ok(peer) => Ok(Arc::new(Quic::cloud(inner, gate, peer, share))),
            Err(source) => {
                inner.close(
                    VarInt::from_u32(CloseCode::Forbidden as u32),
                    source.to_string().as_bytes(),
                );
                Err(TransportError::Nobody { remote, source })
            }
        }
    }
}

fn identity(connection: &quinn::Connection) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let identity = connection.peer_identity().ok_or(IdentityError::Missing)?;
    identity
        .downcast()
        .map(|chain| *chain)
        .map_err(|_| IdentityError::Unreadable)
}
