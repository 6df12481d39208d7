//! What the handles of one connection and its task share.

use std::{
    collections::HashMap,
    net::SocketAddr,
    task::{Context, Waker},
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::transport::{
    CloseCode, TransportError,
    budget::Share,
    mux::{Mux, Side, Wake},
};

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    Here,
    ByPeer(CloseCode, String),
    /// The socket failed, or the peer broke the protocol.
    Failed(TransportError),
}

/// What the handles of one connection and its task share.
pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) remote: SocketAddr,
    /// A stream has come.
    pub(super) arrived: Notify,
    /// A stream may be opened.
    pub(super) room: Notify,
    /// Fires when nothing more can be done on the connection.
    pub(super) over: CancellationToken,
    /// Fires when the last word has gone, too, or was given up.
    pub(super) gone: CancellationToken,
}

struct State {
    mux: Mux,
    end: Option<End>,
    driver: Option<Waker>,
    readers: HashMap<u32, Waker>,
    writers: HashMap<u32, Waker>,
}

impl Shared {
    pub(super) fn new(side: Side, remote: SocketAddr, share: Option<Share>) -> Self {
        Self {
            state: Mutex::new(State {
                mux: Mux::within(side, share),
                end: None,
                driver: None,
                readers: HashMap::new(),
                writers: HashMap::new(),
            }),
            remote,
            arrived: Notify::new(),
            room: Notify::new(),
            over: CancellationToken::new(),
            gone: CancellationToken::new(),
        }
    }

    /// Does something to the core, and wakes whom that concerns.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Mux) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state.mux);
        self.wake(&mut state);
        if let Some(driver) = state.driver.take() {
            driver.wake();
        }
        result
    }

    /// The same, for the connection's own task.
    pub(super) fn drive<T>(&self, cx: &Context<'_>, change: impl FnOnce(&mut Mux) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state.mux);
        self.wake(&mut state);
        state.driver = Some(cx.waker().clone());
        result
    }

    /// Remembers who reads a stream.
    pub(super) fn reader(&self, id: u32, waker: &Waker) {
        self.state.lock().readers.insert(id, waker.clone());
    }

    /// Remembers who writes a stream.
    pub(super) fn writer(&self, id: u32, waker: &Waker) {
        self.state.lock().writers.insert(id, waker.clone());
    }

    pub(super) fn forget_reader(&self, id: u32) {
        self.state.lock().readers.remove(&id);
    }

    pub(super) fn forget_writer(&self, id: u32) {
        self.state.lock().writers.remove(&id);
    }

    /// Closes the connection, unless it has ended already.
    pub(super) fn close(&self, code: CloseCode, reason: &str) {
        let mut state = self.state.lock();
        // In one step: the task must not look for the last word before it is there.
        if state.end.is_none() {
            state.mux.close(code, reason);
            self.finish(&mut state, End::Here);
        }
    }

    /// The connection ended so, unless it has ended already.
    pub(super) fn end(&self, end: End) {
        let mut state = self.state.lock();
        if state.end.is_none() {
            self.finish(&mut state, end);
        }
    }

    fn finish(&self, state: &mut State, end: End) {
        state.end = Some(end);
        let waiting = state.readers.drain().chain(state.writers.drain());
        waiting.for_each(|(_, waker)| waker.wake());
        self.over.cancel();
    }

    /// How it ended.
    pub(super) fn why(&self) -> TransportError {
        match &self.state.lock().end {
            Some(End::ByPeer(code, reason)) => TransportError::ClosedByPeer {
                code: *code,
                reason: reason.clone(),
            },
            Some(End::Failed(error)) => copied(error),
            Some(End::Here) | None => TransportError::ClosedHere,
        }
    }

    fn wake(&self, state: &mut State) {
        while let Some(wake) = state.mux.poll_wake() {
            let waiting = match wake {
                Wake::Read(id) => state.readers.remove(&id),
                Wake::Write(id) => state.writers.remove(&id),
                Wake::Accept => {
                    self.arrived.notify_one();
                    None
                }
                Wake::Open => {
                    self.room.notify_waiters();
                    None
                }
            };
            if let Some(waker) = waiting {
                waker.wake();
            }
        }
    }
}

/// The error once more: each who asks gets one of its own.
fn copied(error: &TransportError) -> TransportError {
    match error {
        TransportError::Reset => TransportError::Reset,
        TransportError::NoRoom => TransportError::NoRoom,
        TransportError::TimedOut { remote } => TransportError::TimedOut { remote: *remote },
        TransportError::CertificateRefused(why) => TransportError::CertificateRefused(why.clone()),
        TransportError::CertificateExpired => TransportError::CertificateExpired,
        TransportError::Tls(fault) => TransportError::Tls(fault.clone()),
        TransportError::Socket { remote, source } => TransportError::Socket {
            remote: *remote,
            source: std::io::Error::new(source.kind(), source.to_string()),
        },
        TransportError::ClosedByPeer { .. }
        | TransportError::ClosedHere
        | TransportError::Nobody { .. }
        | TransportError::Open(_)
        | TransportError::Failed(_) => TransportError::Failed(error.to_string()),
    }
}
