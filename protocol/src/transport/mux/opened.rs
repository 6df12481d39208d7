//! Which streams an end has opened, and how many it may.

use super::STREAMS;

/// Why a stream is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// Too many are open. A [`Wake::Open`](super::Wake::Open) comes when that changes.
    TooMany,
    /// The process has no room for what would come on it.
    NoRoom,
}

/// Streams of one opener.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) next: u32,
    count: u32,
    pub(super) limit: u32,
}

impl Opened {
    pub(super) const fn new(first: u32) -> Self {
        Self {
            next: first,
            count: 0,
            limit: STREAMS,
        }
    }

    /// The next id, if one more may be opened.
    pub(super) const fn open(&mut self) -> Option<u32> {
        if self.count == self.limit || self.next > u32::MAX - 2 {
            return None;
        }
        let id = self.next;
        self.next += 2;
        self.count += 1;
        Some(id)
    }
}
