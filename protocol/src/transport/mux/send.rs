//! The sending half of a stream: what waits for its turn and for the peer's credit.

use bytes::{Bytes, BytesMut};

use super::credit::{BASE, Pools};
use crate::class::Class;

/// What one stream may have in wait.
const MOST: u64 = 32 << 10;
/// A writer is woken for so much room, or when nothing of it waits any more.
const WORTHWHILE: u64 = 1 << 10;

/// The peer reads no more, or this end has broken off or ended the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    More,
    /// The end is to be sent, after what waits.
    Ending,
    /// A reset is to be sent.
    Breaking(u32),
    /// The end or the reset was sent.
    Over,
}

#[derive(Debug)]
pub(super) struct Send {
    waiting: BytesMut,
    state: Sending,
    /// What the peer takes.
    credit: u64,
    /// What it holds of its pool, over [`BASE`].
    held: u64,
    writer_waits: bool,
    released: bool,
    /// It stands in the queue of its class.
    pub(super) queued: bool,
}

impl Send {
    pub(super) fn new() -> Self {
        Self {
            waiting: BytesMut::new(),
            state: Sending::More,
            credit: BASE,
            held: 0,
            writer_waits: false,
            released: false,
            queued: false,
        }
    }

    /// Takes what there is room for; 0 when there is none, and a wake will come.
    pub(super) fn write(&mut self, class: Class, pools: &mut Pools, bytes: &[u8]) -> Result<usize, Stopped> {
        if self.state != Sending::More {
            return Err(Stopped);
        }
        let room = usize::try_from(self.room(class, pools)).unwrap_or(usize::MAX);
        let taken = room.min(bytes.len());
        self.waiting.extend_from_slice(&bytes[..taken]);
        self.settle(class, pools);
        self.writer_waits = taken == 0;
        Ok(taken)
    }

    fn room(&self, class: Class, pools: &Pools) -> u64 {
        let most = BASE + pools.most(class, self.held).min(MOST - BASE);
        most.saturating_sub(self.waiting.len() as u64)
    }

    /// Holds of the pool what waits, and no more.
    fn settle(&mut self, class: Class, pools: &mut Pools) {
        let now = (self.waiting.len() as u64).saturating_sub(BASE);
        self.held = pools.take(class, self.held, now);
    }

    /// No more will be written.
    pub(super) fn finish(&mut self) {
        if self.state == Sending::More {
            self.state = Sending::Ending;
        }
    }

    /// Breaks off; true when the peer is to be told.
    pub(super) fn reset(&mut self, class: Class, pools: &mut Pools, code: u32) -> bool {
        let goes_on = matches!(self.state, Sending::More | Sending::Ending);
        if goes_on {
            self.state = Sending::Breaking(code);
            self.waiting = BytesMut::new();
            self.settle(class, pools);
        }
        goes_on
    }

    pub(super) fn release(&mut self) {
        self.finish();
        self.released = true;
    }

    pub(super) const fn credit(&mut self, more: u32) {
        self.credit = self.credit.saturating_add(more as u64);
    }

    /// Whether something could go now.
    pub(super) fn is_ready(&self) -> bool {
        match self.state {
            Sending::More => !self.waiting.is_empty() && self.credit > 0,
            Sending::Ending => self.waiting.is_empty() || self.credit > 0,
            Sending::Breaking(_) | Sending::Over => false,
        }
    }

    /// The next bytes, and whether they are the last.
    pub(super) fn take(&mut self, class: Class, pools: &mut Pools, chunk: usize) -> (Bytes, bool) {
        let credit = usize::try_from(self.credit).unwrap_or(usize::MAX);
        let bytes = self
            .waiting
            .split_to(self.waiting.len().min(chunk).min(credit))
            .freeze();
        self.credit -= bytes.len() as u64;
        if self.waiting.is_empty() {
            self.waiting = BytesMut::new();
        }
        self.settle(class, pools);
        let last = self.state == Sending::Ending && self.waiting.is_empty();
        if last {
            self.state = Sending::Over;
        }
        (bytes, last)
    }

    pub(super) const fn take_reset(&mut self) -> Option<u32> {
        let Sending::Breaking(code) = self.state else {
            return None;
        };
        self.state = Sending::Over;
        Some(code)
    }

    /// Whether a writer waits that could go on now; it is woken then.
    pub(super) fn wakes(&mut self, class: Class, pools: &Pools) -> bool {
        let could = self.writer_waits
            && (self.state != Sending::More
                || self.waiting.is_empty()
                || self.room(class, pools) >= WORTHWHILE);
        self.writer_waits &= !could;
        could
    }

    pub(super) fn is_over(&self) -> bool {
        self.released && self.state == Sending::Over
    }
}
