//! Connections between an edge and a replica, whatever carries them.
//!
//! A [`Connection`] opens and accepts streams that each begin with an [`Open`] frame. Above this
//! seam nothing knows whether QUIC or a WebSocket is underneath.
//!
//! **Invariant:** a stream that is handed out has had its [`Open`] read (or written), and both ends
//! gave it the same [`Class`](crate::class::Class).

mod alert;
mod budget;
mod flight;
pub mod mux;
pub mod quic;
mod rate;
mod traffic;
mod tunnel;
pub mod websocket;

use std::{net::SocketAddr, pin::Pin, time::Duration};

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

pub use budget::{ReceiveBudget, SESSION};
pub use traffic::{Carried, Traffic, counted};
pub use tunnel::{TunnelError, dial};

use crate::{
    tls::{IdentityError, PeerIdentity, TlsFault},
    wire::{Open, WireError},
};

/// A future in a box, as trait objects need it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The receiving half of a stream.
pub type ByteReader = Box<dyn AsyncRead + Send + Unpin>;

/// The sending half of a stream; its `shutdown` is the half-close.
pub type ByteWriter = Box<dyn AsyncWrite + Send + Unpin>;

/// How long a handshake, and the first frame of a stream, may take.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// A stream, past its [`Open`] frame.
pub struct Stream {
    /// What the other end sends.
    pub recv: ByteReader,
    /// What this end sends.
    pub send: ByteWriter,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream")
    }
}

/// What carries a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Quic,
    /// TCP, where UDP is blocked.
    WebSocket,
}

impl Transport {
    /// How often the edge sends a beat: NATs forget a UDP path after 30 s, and a TCP one after
    /// minutes.
    pub const fn keepalive(self) -> Duration {
        match self {
            Self::Quic => Duration::from_secs(25),
            Self::WebSocket => Duration::from_secs(40),
        }
    }

    /// How many missed beats end the session.
    pub const fn missed(self) -> u32 {
        match self {
            Self::Quic => 3,
            Self::WebSocket => 2,
        }
    }
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Quic => "QUIC",
            Self::WebSocket => "WebSocket",
        })
    }
}

/// A connection to one peer. Dropping the last handle closes it.
pub trait Connection: Send + Sync + 'static {
    /// Opens a stream of `open`'s class and sends `open` on it.
    fn open(&self, open: Open) -> BoxFuture<'_, Result<Stream, TransportError>>;

    /// The next stream that the peer opened. A stream whose `Open` is late or not one is reset
    /// and passed over: it delays no other.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    fn accept(&self) -> BoxFuture<'_, Result<(Open, Stream), TransportError>>;

    /// The node at the other end; `None` when that is cloudcore.
    fn peer(&self) -> Option<&PeerIdentity>;

    /// What carries it.
    fn transport(&self) -> Transport;

    /// Where the other end is.
    fn remote(&self) -> SocketAddr;

    /// Ends the connection now, telling the peer why.
    fn close(&self, code: CloseCode, reason: &str);

    /// Waits for the end, whoever made it.
    fn closed(&self) -> BoxFuture<'_, TransportError>;
}

/// Why a connection was closed; the numbers stand on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CloseCode {
    /// Nothing is wrong.
    Done = 0,
    /// A newer session of the node exists.
    Superseded = 1,
    /// The identity is not accepted (any more).
    Forbidden = 2,
    /// The peer broke the protocol.
    Protocol = 3,
    /// This end shuts down.
    GoingAway = 4,
    /// The peer was silent, or too slow.
    Silent = 5,
    /// There is no room.
    Busy = 6,
    /// A code of a newer peer.
    Other = 7,
}

impl From<u64> for CloseCode {
    fn from(code: u64) -> Self {
        match code {
            0 => Self::Done,
            1 => Self::Superseded,
            2 => Self::Forbidden,
            3 => Self::Protocol,
            4 => Self::GoingAway,
            5 => Self::Silent,
            6 => Self::Busy,
            _ => Self::Other,
        }
    }
}

/// Why a connection could not be made, or is no more.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The peer closed the connection.
    #[error("the peer closed the connection ({code:?}): {reason}")]
    ClosedByPeer {
        /// Why.
        code: CloseCode,
        /// In words.
        reason: String,
    },
    /// This end closed it.
    #[error("the connection was closed by this end")]
    ClosedHere,
    /// Nothing was heard for too long, or the handshake took too long.
    #[error("the peer at {remote} did not answer in time")]
    TimedOut {
        /// Where it should be.
        remote: SocketAddr,
    },
    /// The peer does not know this connection (any more): it was restarted.
    #[error("the peer does not know the connection any more")]
    Reset,
    /// The server's certificate was not taken.
    #[error(transparent)]
    Tls(#[from] TlsFault),
    /// The peer did not take our certificate.
    #[error("the peer refused this certificate: {0}")]
    CertificateRefused(String),
    /// Our certificate has ended, by the peer's clock.
    #[error("the peer refused this certificate: it has expired by the peer's clock")]
    CertificateExpired,
    /// The client's certificate is not a node's.
    #[error("the client at {remote} is nobody")]
    Nobody {
        /// Where it is.
        remote: SocketAddr,
        /// The cause.
        source: IdentityError,
    },
    /// This process has promised to hold as much as it may.
    #[error("there is no room to receive more: the receive budget of this process is used up")]
    NoRoom,
    /// The first frame of a stream did not pass.
    #[error("a stream could not be opened")]
    Open(#[from] WireError),
    /// The socket failed.
    #[error("the socket to {remote} failed")]
    Socket {
        /// The other end.
        remote: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// Anything else.
    #[error("the connection failed: {0}")]
    Failed(String),
}
