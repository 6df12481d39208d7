//! A quinn connection behind the [`Connection`] seam, and the edge's way to make one.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use futures::{StreamExt, stream::FuturesUnordered};
use quinn::{
    ConnectError, ConnectionError, Endpoint, EndpointConfig, RecvStream, SendStream, TokioRuntime, VarInt,
};
use tokio::{
    sync::Mutex,
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    config,
    gate::Gate,
    socket::one_by_one,
    window::{Room, Roomed, Window},
    writer::Gated,
};
use crate::{
    class::Class,
    tls::{ClientTls, PeerIdentity, SERVER_NAME, TlsFault},
    transport::{
        BoxFuture, ByteReader, CloseCode, Connection, HANDSHAKE_LIMIT, Stream, Transport, TransportError,
        alert::certificate_refused, budget::Share,
    },
    wire::{FrameReader, FrameWriter, Open},
};

/// Dials a replica, from a socket of its own.
pub async fn connect(remote: SocketAddr, tls: &ClientTls) -> Result<Arc<dyn Connection>, TransportError> {
    let endpoint = endpoint(remote).map_err(|source| TransportError::Socket { remote, source })?;
    let gate = Arc::new(Gate::new(Instant::now()));
    let config = config::client(Arc::clone(&tls.config), Arc::clone(&gate))
        .map_err(|e| TransportError::Failed(e.to_string()))?;
    tls.faults.take();
    let connecting = endpoint
        .connect_with(config, remote, SERVER_NAME)
        .map_err(|error| refused_to_try(remote, &error))?;
    match timeout(HANDSHAKE_LIMIT, connecting).await {
        Ok(Ok(inner)) => Ok(Arc::new(Quic::edge(inner, gate, endpoint))),
        Ok(Err(error)) => Err(tls
            .faults
            .take()
            .map_or_else(|| why(remote, &error), TransportError::Tls)),
        Err(_) => Err(TransportError::TimedOut { remote }),
    }
}

fn endpoint(remote: SocketAddr) -> io::Result<Endpoint> {
    let any_port: SocketAddr = if remote.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = one_by_one(UdpSocket::bind(any_port)?)?;
    Endpoint::new_with_abstract_socket(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))
}

fn turns(connection: &quinn::Connection, gate: &Arc<Gate>) -> JoinSet<()> {
    let (connection, gate) = (connection.clone(), Arc::clone(gate));
    let mut turns = JoinSet::new();
    turns.spawn(async move { gate.serve(connection.closed()).await });
    turns
}

fn refused_to_try(remote: SocketAddr, error: &ConnectError) -> TransportError {
    TransportError::Failed(format!("cannot dial {remote}: {error}"))
}

type Opening = BoxFuture<'static, Option<(Open, Stream)>>;

/// A QUIC connection.
pub(super) struct Quic {
    inner: quinn::Connection,
    gate: Arc<Gate>,
    /// Gives the gate's turns.
    _turns: JoinSet<()>,
    peer: Option<PeerIdentity>,
    /// In the cloud: what streams may have unread.
    window: Option<Arc<Window>>,
    /// Streams whose first frame has not come.
    opening: Mutex<FuturesUnordered<Opening>>,
    /// The edge's socket lives as long as its one connection.
    _endpoint: Option<Endpoint>,
}

impl Quic {
    fn edge(inner: quinn::Connection, gate: Arc<Gate>, endpoint: Endpoint) -> Self {
        Self {
            _turns: turns(&inner, &gate),
            inner,
            gate,
            peer: None,
            window: None,
            opening: Mutex::default(),
            _endpoint: Some(endpoint),
        }
    }

    pub(super) fn cloud(inner: quinn::Connection, gate: Arc<Gate>, peer: PeerIdentity, share: Share) -> Self {
        Self {
            window: Some(Window::new(inner.clone(), share)),
            _turns: turns(&inner, &gate),
            inner,
            gate,
            peer: Some(peer),
            opening: Mutex::default(),
            _endpoint: None,
        }
    }

    fn why(&self, error: &ConnectionError) -> TransportError {
        why(self.remote(), error)
    }
}

impl Drop for Quic {
    fn drop(&mut self) {
        self.inner.close(VarInt::from_u32(CloseCode::Done as u32), b"");
        self.gate.end();
    }
}

impl Connection for Quic {
    fn open(&self, open: Open) -> BoxFuture<'_, Result<Stream, TransportError>> {
        Box::pin(async move {
            let room = room(self.window.as_ref(), &open).ok_or(TransportError::NoRoom)?;
            let (send, recv) = self.inner.open_bi().await.map_err(|error| self.why(&error))?;
            let class = prioritise(&send, &open);
            let mut writer = FrameWriter::new(send);
            writer.write(&open).await?;
            Ok(Stream {
                recv: reader(recv, room),
                send: Box::new(Gated::new(writer.into_inner(), Arc::clone(&self.gate), class)),
            })
        })
    }

    fn accept(&self) -> BoxFuture<'_, Result<(Open, Stream), TransportError>> {
        Box::pin(async move {
            let mut opening = self.opening.lock().await;
            loop {
                tokio::select! {
                    accepted = self.inner.accept_bi() => {
                        let (send, recv) = accepted.map_err(|error| self.why(&error))?;
                        opening.push(Box::pin(first_frame(
                            send,
                            recv,
                            Arc::clone(&self.gate),
                            self.window.clone(),
                        )));
                    }
                    Some(opened) = opening.next(), if !opening.is_empty() => {
                        if let Some(opened) = opened {
                            return Ok(opened);
                        }
                    }
                }
            }
        })
    }

    fn peer(&self) -> Option<&PeerIdentity> {
        self.peer.as_ref()
    }

    fn transport(&self) -> Transport {
        Transport::Quic
    }

    fn remote(&self) -> SocketAddr {
        self.inner.remote_address()
    }

    fn close(&self, code: CloseCode, reason: &str) {
        self.inner.close(VarInt::from_u32(code as u32), reason.as_bytes());
    }

    fn closed(&self) -> BoxFuture<'_, TransportError> {
        Box::pin(async move { self.why(&self.inner.closed().await) })
    }
}

/// Reads the frame that says what a stream is; `None` when it is late or not one, or when there is no
/// room for the stream.
async fn first_frame(
    send: SendStream,
    recv: RecvStream,
    gate: Arc<Gate>,
    window: Option<Arc<Window>>,
) -> Option<(Open, Stream)> {
    let mut reader = FrameReader::new(recv);
    let read = timeout(HANDSHAKE_LIMIT, reader.read::<Open>()).await;
    let recv = reader.into_inner();
    let Ok(Ok(Some(open))) = read else {
        tracing::debug!(outcome = ?read.map(|frame| frame.map(drop)), "a stream did not say what it is");
        refuse(send, recv, CloseCode::Protocol);
        return None;
    };
    let Some(room) = room(window.as_ref(), &open) else {
        tracing::debug!("there is no room for what would come on a stream");
        refuse(send, recv, CloseCode::Busy);
        return None;
    };
    let class = prioritise(&send, &open);
    let (recv, send) = (self::reader(recv, room), Box::new(Gated::new(send, gate, class)));
    Some((open, Stream { recv, send }))
}

fn refuse(mut send: SendStream, mut recv: RecvStream, code: CloseCode) {
    let refused = VarInt::from_u32(code as u32);
    // Both fail only when the stream is gone already.
    let _ = send.reset(refused);
    let _ = recv.stop(refused);
}

/// Room for a stream, where that is counted: at the edge there always is.
#[expect(
    clippy::option_option,
    reason = "no room, and room that is not counted, are two things"
)]
fn room(window: Option<&Arc<Window>>, open: &Open) -> Option<Option<Room>> {
    window.map_or(Some(None), |window| window.room(open).map(Some))
}

fn reader(recv: RecvStream, room: Option<Room>) -> ByteReader {
    match room {
        Some(room) => Box::new(Roomed(recv, room)),
        None => Box::new(recv),
    }
}

fn prioritise(send: &SendStream, open: &Open) -> Class {
    let class = Class::of(open);
    // Fails only on a stream that is closed already, and then says nothing new.
    let _ = send.set_priority(class.priority());
    class
}

/// Puts quinn's reason into ours.
pub(super) fn why(remote: SocketAddr, error: &ConnectionError) -> TransportError {
    match error {
        ConnectionError::ApplicationClosed(close) => TransportError::ClosedByPeer {
            code: CloseCode::from(close.error_code.into_inner()),
            reason: crate::name::shown(&String::from_utf8_lossy(&close.reason)),
        },
        ConnectionError::ConnectionClosed(close) => refused(u64::from(close.error_code), &close.to_string()),
        ConnectionError::TransportError(fault) => TransportError::Tls(TlsFault::Other(fault.to_string())),
        ConnectionError::Reset => TransportError::Reset,
        ConnectionError::TimedOut => TransportError::TimedOut { remote },
        ConnectionError::LocallyClosed => TransportError::ClosedHere,
        ConnectionError::VersionMismatch | ConnectionError::CidsExhausted => {
            TransportError::Failed(error.to_string())
        }
    }
}

/// The peer's transport closed: a TLS alert says that it did not take our certificate.
fn refused(code: u64, text: &str) -> TransportError {
    const CRYPTO: u64 = 0x100;
    let alert = code
        .checked_sub(CRYPTO)
        .and_then(|alert| u8::try_from(alert).ok());
    alert
        .and_then(certificate_refused)
        .unwrap_or_else(|| TransportError::Failed(crate::name::shown(text)))
}
