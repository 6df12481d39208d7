//! Connections that never leave the process, so that hours pass at once.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use protocol::tls::PeerIdentity;
use protocol::transport::{CloseCode, Connection, Stream, Transport, TransportError};
use protocol::wire::Open;
use tokio::io::{duplex, split};
use tokio::sync::{Mutex, Notify, mpsc, watch};

use super::super::{Dial, DialError, Dialling, RenewError, Renewing, Ways};
use crate::config::Address;

/// One end of a connection.
pub(super) struct Memory {
    opened: mpsc::Sender<(Open, Stream)>,
    incoming: Mutex<mpsc::Receiver<(Open, Stream)>>,
    transport: Transport,
    /// Shared by both ends.
    closed: Arc<watch::Sender<bool>>,
}

impl Memory {
    pub(super) fn pair(transport: Transport) -> (Self, Self) {
        let closed = Arc::new(watch::channel(false).0);
        let (a, from_a) = mpsc::channel(16);
        let (b, from_b) = mpsc::channel(16);
        let end = |opened, incoming, closed| Self {
            opened,
            incoming: Mutex::new(incoming),
            transport,
            closed,
        };
        (end(a, from_b, Arc::clone(&closed)), end(b, from_a, closed))
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.closed.send_replace(true);
    }
}

impl Connection for Memory {
    fn open(&self, open: Open) -> BoxFuture<'_, Result<Stream, TransportError>> {
        Box::pin(async move {
            let (here, there) = duplex(64 << 10);
            let sent = self.opened.send((open, stream(there))).await;
            match sent {
                Ok(()) if !self.is_closed() => Ok(stream(here)),
                Ok(()) | Err(_) => Err(TransportError::ClosedHere),
            }
        })
    }

    fn accept(&self) -> BoxFuture<'_, Result<(Open, Stream), TransportError>> {
        Box::pin(async move {
            let mut incoming = self.incoming.lock().await;
            tokio::select! {
                stream = incoming.recv() => stream.ok_or(TransportError::ClosedHere),
                error = self.closed() => Err(error),
            }
        })
    }

    fn peer(&self) -> Option<&PeerIdentity> {
        None
    }

    fn transport(&self) -> Transport {
        self.transport
    }

    fn remote(&self) -> SocketAddr {
        ([127, 0, 0, 1], 10_000).into()
    }

    fn close(&self, _code: CloseCode, _reason: &str) {
        self.closed.send_replace(true);
    }

    fn closed(&self) -> BoxFuture<'_, TransportError> {
        Box::pin(async move {
            let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
            TransportError::ClosedHere
        })
    }
}

fn stream(end: tokio::io::DuplexStream) -> Stream {
    let (recv, send) = split(end);
    Stream {
        recv: Box::new(recv),
        send: Box::new(send),
    }
}

/// Whoever dials waits until the test lets it in.
pub(super) struct Gate {
    dials: mpsc::Sender<(Address, Memory)>,
    open: Notify,
    /// What a dial leads to; a probe always leads to QUIC.
    pub(super) won: parking_lot::Mutex<Transport>,
    pub(super) ways: Ways,
    /// What the next dials fail of.
    pub(super) faults: parking_lot::Mutex<VecDeque<TransportError>>,
    /// What comes of the next renewals; then nobody answers.
    pub(super) renewals: parking_lot::Mutex<VecDeque<Result<(), RenewError>>>,
}

impl Gate {
    pub(super) fn new() -> (Arc<Self>, mpsc::Receiver<(Address, Memory)>) {
        let (dials, dialled) = mpsc::channel(4);
        let gate = Self {
            dials,
            open: Notify::new(),
            won: parking_lot::Mutex::new(Transport::Quic),
            ways: Ways::default(),
            faults: parking_lot::Mutex::default(),
            renewals: parking_lot::Mutex::default(),
        };
        (Arc::new(gate), dialled)
    }

    /// The next dial, or the one that waits, gets through.
    pub(super) fn let_one_in(&self) {
        self.open.notify_one();
    }

    fn knock<'a>(&'a self, address: &'a Address, transport: Transport) -> Dialling<'a> {
        Box::pin(async move {
            let (here, there) = Memory::pair(transport);
            let _ = self.dials.send((address.clone(), there)).await;
            self.open.notified().await;
            let fault = self.faults.lock().pop_front();
            fault.map_or_else(
                || Ok(Arc::new(here) as _),
                |source| {
                    Err(DialError::Transport {
                        transport,
                        remote: ([127, 0, 0, 1], 10_000).into(),
                        source,
                    })
                },
            )
        })
    }
}

impl Dial for Gate {
    fn dial<'a>(&'a self, address: &'a Address) -> Dialling<'a> {
        self.knock(address, *self.won.lock())
    }

    fn probe<'a>(&'a self, address: &'a Address) -> Dialling<'a> {
        self.knock(address, Transport::Quic)
    }

    fn renew<'a>(&'a self, _address: &'a Address) -> Renewing<'a> {
        let answer = self.renewals.lock().pop_front();
        Box::pin(
            async move { answer.unwrap_or_else(|| Err(RenewError::Unreached("nobody is there".to_owned()))) },
        )
    }

    fn ways(&self) -> &Ways {
        &self.ways
    }
}
