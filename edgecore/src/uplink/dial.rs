//! From an address to a connection whose other end is proven to be cloudcore.
//!
//! ```text
//! QUIC ────────────────no answer for 2.5 s, or a failure────────► both run on; the first that
//!                                        └──► WebSocket           has proven itself wins
//! ```
//!
//! Which of them begins, [`Ways`] knows. Where that is a WebSocket because QUIC falls silent after its handshake,
//! QUIC begins only when the WebSocket has failed or had all its time: on a slow path the quicker handshake would win,
//! and fall silent again. Nothing but a TLS handshake is made on the loser.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use protocol::clock::Clock;
use protocol::tls::{self, ClientTls};
use protocol::transport::{CloseCode, Connection, Transport, TransportError, quic, websocket};
use thiserror::Error;
use tokio::time::timeout;

use super::enrolment::{self, RenewError};
use super::race::staggered;
use super::reach::{ReachError, reach, resolve};
use super::ways::Ways;
use crate::config::{Address, Proxy};
use crate::identity::{Identity, IdentityFault};

/// How long the first transport is alone.
const HEAD_START: Duration = Duration::from_millis(2_500);
/// How long a WebSocket is alone where QUIC has been struck out: a socket and a handshake have ten seconds each.
const WHOLE_LIMIT: Duration = Duration::from_secs(20);
/// How long one UDP address is alone: a handshake takes a round trip or two.
const NEXT_AFTER: Duration = Duration::from_secs(1);
/// How long the other end has to refuse what was only tried: a round trip, even over a poor link.
const SECOND_THOUGHT: Duration = Duration::from_millis(500);

/// Why there is no connection.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DialError {
    /// The node's key or certificate cannot be used.
    #[error("this node's identity cannot be used; join again")]
    Identity(#[source] IdentityFault),
    /// No socket leads there.
    #[error("{transport}: {source}")]
    Unreached {
        /// By which way.
        transport: Transport,
        /// What went wrong.
        source: ReachError,
    },
    /// No answer, or the wrong one.
    #[error("{transport} to {remote}: {source}")]
    Transport {
        /// By which way.
        transport: Transport,
        /// Where it was tried last.
        remote: SocketAddr,
        /// What went wrong.
        source: TransportError,
    },
    /// No way led there.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NoWay(Vec<DialError>),
}

impl DialError {
    /// Whether cloudcore did not take the node's certificate because it has ended.
    pub(super) fn certificate_has_ended(&self) -> bool {
        match self {
            Self::Transport { source, .. } => matches!(source, TransportError::CertificateExpired),
            Self::NoWay(ways) => ways.iter().any(Self::certificate_has_ended),
            Self::Identity(_) | Self::Unreached { .. } => false,
        }
    }

    /// How long ago cloudcore's certificate ended by the clock, if that is why it was not taken.
    pub(super) fn server_ended(&self) -> Option<Duration> {
        match self {
            Self::Transport {
                source: TransportError::Tls(tls::TlsFault::Expired { by }),
                ..
            } => Some(*by),
            Self::NoWay(ways) => ways.iter().find_map(Self::server_ended),
            Self::Transport { .. } | Self::Identity(_) | Self::Unreached { .. } => None,
        }
    }

    /// Whether somebody has answered, and that holds for any way: another would only repeat it.
    const fn is_verdict(&self) -> bool {
        match self {
            Self::Identity(_) => true,
            Self::Transport { source, .. } => matches!(
                source,
                TransportError::Tls(tls::TlsFault::Expired { .. })
                    | TransportError::CertificateRefused(_)
                    | TransportError::CertificateExpired
            ),
            Self::Unreached { .. } | Self::NoWay(_) => false,
        }
    }
}

/// A dial, under way.
pub type Dialling<'a> = BoxFuture<'a, Result<Arc<dyn Connection>, DialError>>;

/// A renewal, under way.
pub type Renewing<'a> = BoxFuture<'a, Result<(), RenewError>>;

/// Makes connections to cloudcore, each from a socket of its own.
pub trait Dial: Send + Sync {
    /// A connection to whoever answers at `address`, if that is cloudcore.
    ///
    /// # Cancel safety
    ///
    /// Safe: what was begun is closed.
    fn dial<'a>(&'a self, address: &'a Address) -> Dialling<'a>;

    /// The same, by QUIC only: whether UDP works (again).
    fn probe<'a>(&'a self, address: &'a Address) -> Dialling<'a>;

    /// Renews the node's certificate, which has ended, at `address`.
    fn renew<'a>(&'a self, address: &'a Address) -> Renewing<'a>;

    /// Where sessions say how their way carried: dials go by that.
    fn ways(&self) -> &Ways;
}

/// Dials by QUIC, and by WebSocket where that gets no answer.
pub struct Dialer {
    identity: Arc<Identity>,
    clock: Clock,
    proxy: Option<Proxy>,
    ways: Ways,
}

impl Dialer {
    /// Dials as the node of `identity`, to what its CA has signed. UDP goes past the proxy: it carries
    /// none.
    pub fn new(identity: Arc<Identity>, clock: Clock, proxy: Option<Proxy>) -> Self {
        Self {
            identity,
            clock,
            proxy,
            ways: Ways::default(),
        }
    }

    /// Each transport apart, QUIC first, for those who want to know which works. Nothing but a handshake
    /// is made, and what is known of the ways is not touched.
    pub fn each_way<'a>(&'a self, address: &'a Address) -> [BoxFuture<'a, Result<(), DialError>>; 2] {
        [
            Box::pin(async move { tried(self.by_quic(address).await?).await }),
            Box::pin(async move { tried(self.by_websocket(address).await?).await }),
        ]
    }

    async fn tls(&self) -> Result<ClientTls, DialError> {
        let held = self.identity.current().await.map_err(DialError::Identity)?;
        let client = tls::client(&held.authority, &held.credentials, &self.clock);
        client.map_err(|error| DialError::Identity(error.into()))
    }

    async fn by_quic(&self, address: &Address) -> Result<Arc<dyn Connection>, DialError> {
        let transport = Transport::Quic;
        let tls = &self.tls().await?;
        let found = resolve(address).await;
        let found = found.map_err(|source| DialError::Unreached { transport, source })?;
        let ways = found.into_iter().map(|remote| -> Dialling<'_> {
            Box::pin(async move {
                let connected = quic::connect(remote, tls).await;
                connected.map_err(|source| DialError::Transport {
                    transport,
                    remote,
                    source,
                })
            })
        });
        first(ways.collect(), NEXT_AFTER).await
    }

    async fn by_websocket(&self, address: &Address) -> Result<Arc<dyn Connection>, DialError> {
        let transport = Transport::WebSocket;
        let tls = self.tls().await?;
        let reached = reach(address, self.proxy.as_ref()).await;
        let (socket, remote) = reached.map_err(|source| DialError::Unreached { transport, source })?;
        let connected = websocket::connect(socket, remote, &tls).await;
        connected.map_err(|source| DialError::Transport {
            transport,
            remote,
            source,
        })
    }
}

/// Closes a connection that was only a try, unless the other end did: in TLS 1.3 it refuses a certificate
/// when the handshake is over on this side.
async fn tried(connection: Arc<dyn Connection>) -> Result<(), DialError> {
    if let Ok(source) = timeout(SECOND_THOUGHT, connection.closed()).await {
        return Err(DialError::Transport {
            transport: connection.transport(),
            remote: connection.remote(),
            source,
        });
    }
    connection.close(CloseCode::Done, "only looking");
    Ok(())
}

/// The first connection of several ways.
async fn first(ways: Vec<Dialling<'_>>, pause: Duration) -> Result<Arc<dyn Connection>, DialError> {
    staggered(ways, pause, DialError::is_verdict).await.map_err(told)
}

/// A verdict is told alone: what failed before it does not matter any more.
fn told(mut failed: Vec<DialError>) -> DialError {
    match failed.pop() {
        Some(last) if failed.is_empty() || last.is_verdict() => last,
        Some(last) => {
            failed.push(last);
            DialError::NoWay(failed)
        }
        None => DialError::NoWay(failed),
    }
}

/// Both ways, in the order and with the head start that `known` advises; what won is noted there.
pub(super) async fn raced<'a>(
    known: &Ways,
    quic: Dialling<'a>,
    websocket: Dialling<'a>,
) -> Result<Arc<dyn Connection>, DialError> {
    let mut ways = vec![quic, websocket];
    if known.first() == Transport::WebSocket {
        ways.reverse();
    }
    let alone = if known.quic_is_out() {
        WHOLE_LIMIT
    } else {
        HEAD_START
    };
    let connected = first(ways, alone).await;
    let won = connected.as_ref().ok().map(|connection| connection.transport());
    known.dialled(won);
    connected
}

impl Dial for Dialer {
    fn dial<'a>(&'a self, address: &'a Address) -> Dialling<'a> {
        let (quic, websocket) = (self.by_quic(address), self.by_websocket(address));
        Box::pin(raced(&self.ways, Box::pin(quic), Box::pin(websocket)))
    }

    fn probe<'a>(&'a self, address: &'a Address) -> Dialling<'a> {
        Box::pin(self.by_quic(address))
    }

    fn renew<'a>(&'a self, address: &'a Address) -> Renewing<'a> {
        Box::pin(enrolment::renew(
            address,
            self.proxy.as_ref(),
            &self.identity,
            &self.clock,
        ))
    }

    fn ways(&self) -> &Ways {
        &self.ways
    }
}
