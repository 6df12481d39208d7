//! What a connection may have unread in the cloud: its share of the process's budget, kept as
//! quinn's connection window.
//!
//! quinn returns a connection's credit only for what was read, so a window smaller than what all
//! streams may have unread would let some that nobody reads stop the others. So the window grows by
//! one stream's as streams come, while the budget lasts; a tunnel that there is no room for is
//! refused. What is granted cannot be taken back, only not be renewed: a window that is made smaller
//! stays promised until as much was read.
//!
//! **Invariant:** what quinn's peer may send unread is at most what the share holds; the session's
//! stream has [`SESSION`]` - `[`STREAM`] bytes for itself.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;
use quinn::{RecvStream, VarInt};
use tokio::io::{AsyncRead, ReadBuf};

use crate::{
    transport::budget::{SESSION, Share},
    wire::{Open, open::Kind},
};

/// What one stream may have unread in the cloud: reports, and what tunnels carry up.
pub(super) const STREAM: u64 = 12 << 10;

/// The window, as a value: what it is, of how much nothing is made, and what was given up.
#[derive(Debug)]
struct Promised {
    share: Share,
    window: u64,
    /// No stream has it now.
    spare: u64,
    /// Given up and not yet read.
    debt: u64,
}

impl Promised {
    const fn new(share: Share) -> Self {
        Self {
            share,
            window: SESSION,
            spare: STREAM,
            debt: 0,
        }
    }

    /// Room for one stream's window; false when there is none.
    fn take(&mut self) -> bool {
        let more = STREAM.saturating_sub(self.spare);
        let held = self.window + self.debt + more;
        if more > 0 && (held > self.share.most() || !self.share.set(held)) {
            return false;
        }
        self.window += more;
        self.spare = (self.spare + more).saturating_sub(STREAM);
        true
    }

    /// So much was read: as much of what nothing is made of may be given up.
    fn read(&mut self, bytes: u64) {
        self.debt -= self.debt.min(bytes);
        if self.share.is_tight() {
            let less = bytes.min(self.spare).min(self.window - SESSION);
            self.spare -= less;
            self.window -= less;
            self.debt += less;
        }
        // Never more than before.
        self.share.set(self.window + self.debt);
    }
}

/// The window of one connection of cloudcore's.
pub(super) struct Window {
    connection: quinn::Connection,
    promised: Mutex<Promised>,
}

/// Room for what comes on one stream; given back when dropped.
pub(super) struct Room {
    window: Arc<Window>,
    bytes: u64,
}

impl Window {
    pub(super) fn new(connection: quinn::Connection, share: Share) -> Arc<Self> {
        let promised = Mutex::new(Promised::new(share));
        Arc::new(Self { connection, promised })
    }

    /// Room for the stream that begins with `open`; none when there is none.
    ///
    /// The session's stream is always read and needs none of its own. A flow goes on without: then it
    /// shares what the session has.
    pub(super) fn room(self: &Arc<Self>, open: &Open) -> Option<Room> {
        let room = |bytes| Room {
            window: Arc::clone(self),
            bytes,
        };
        match open.kind {
            Some(Kind::Session(_)) => Some(room(0)),
            _ if self.change(Promised::take) => Some(room(STREAM)),
            Some(Kind::Desired(_) | Kind::Reported(_) | Kind::Events(_)) => Some(room(0)),
            Some(Kind::Dial(_)) | None => None,
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Promised) -> T) -> T {
        let mut promised = self.promised.lock();
        let before = promised.window;
        let result = change(&mut promised);
        if promised.window != before {
            // It is at most 270 streams' and fits.
            let window = VarInt::from_u64(promised.window).unwrap_or(VarInt::MAX);
            self.connection.set_receive_window(window);
        }
        result
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.window.change(|promised| promised.spare += self.bytes);
    }
}

/// Reads a stream that has room.
pub(super) struct Roomed(pub(super) RecvStream, pub(super) Room);

impl AsyncRead for Roomed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = out.filled().len();
        let read = AsyncRead::poll_read(Pin::new(&mut self.0), cx, out);
        let bytes = out.filled().len() - before;
        if bytes > 0 {
            self.1.window.change(|promised| promised.read(bytes as u64));
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::ReceiveBudget;

    #[test]
    fn one_stream_has_room_whatever_others_hold_and_more_while_the_budget_lasts() {
        let budget = ReceiveBudget::new(SESSION * 2);
        let (mut first, _second) = (budget.share().unwrap(), budget.share().unwrap());
        assert!(!first.set(SESSION + 1));
        let mut alone = Promised::new(first);
        assert!(alone.take() && !alone.take());
        assert_eq!((alone.window, alone.share.held()), (SESSION, SESSION));

        let mut wide = Promised::new(ReceiveBudget::new(64 << 20).share().unwrap());
        let streams = std::iter::from_fn(|| wide.take().then_some(())).count() as u64;
        assert!(streams > 80, "{streams}");
        assert_eq!(wide.window, SESSION + (streams - 1) * STREAM);
    }

    #[test]
    fn the_default_budget_has_room_for_all_flows_of_as_many_edges_as_its_description_says() {
        const DEFAULT: u64 = 256 << 20;
        let budget = ReceiveBudget::new(DEFAULT);
        let connected = || budget.share().map(Promised::new);
        let mut edges: Vec<_> = std::iter::repeat_with(connected).take(5_000).flatten().collect();
        assert_eq!(edges.len(), 5_000);
        // Desired, reported and events.
        let has_all = |edge: &mut Promised| (0..3).all(|_| edge.take());
        assert_eq!(
            edges
                .iter_mut()
                .filter_map(|edge| has_all(edge).then_some(()))
                .count(),
            5_000
        );
    }

    #[test]
    fn what_is_given_up_stays_promised_until_as_much_was_read() {
        let budget = ReceiveBudget::new(2 << 20);
        let mut promised = Promised::new(budget.share().unwrap());
        assert!(promised.take() && promised.take());
        promised.spare = STREAM;
        promised.read(1000);
        assert_eq!(budget.promised(), SESSION + STREAM, "nobody else needs it");

        let mut others: Vec<_> = std::iter::from_fn(|| budget.share()).collect();
        others.pop();
        promised.read(5000);
        assert_eq!((promised.window, promised.debt), (SESSION + STREAM - 5000, 5000));
        assert_eq!(promised.share.held(), SESSION + STREAM);
        promised.read(100);
        assert_eq!(promised.share.held(), SESSION + STREAM - 100);
        for _ in 0..100 {
            promised.read(1000);
        }
        assert_eq!((promised.window, promised.share.held()), (SESSION, SESSION));
    }
}
