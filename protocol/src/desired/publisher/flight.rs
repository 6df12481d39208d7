//! Closures on their way: numbered, and bounded in bytes. One closure may always be in flight,
//! however large it is.

use std::collections::VecDeque;

use crate::desired::Violation;

/// Bytes of closures not yet applied, beyond which no further one starts.
const WINDOW: usize = 256 * 1024;

/// Closures not yet applied, beyond which no further one starts.
const CLOSURES: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Flight {
    last: u64,
    open: VecDeque<(u64, usize)>,
    bytes: usize,
}

impl Flight {
    /// Whether another closure may start.
    pub(super) fn has_room(&self) -> bool {
        self.open.is_empty() || (self.bytes < WINDOW && self.open.len() < CLOSURES)
    }

    /// Starts a closure; its number.
    pub(super) fn start(&mut self, bytes: usize) -> u64 {
        self.last += 1;
        self.open.push_back((self.last, bytes));
        self.bytes += bytes;
        self.last
    }

    /// The edge has settled everything up to `seq`.
    pub(super) fn applied(&mut self, seq: u64) -> Result<(), Violation> {
        if seq > self.last {
            return Err(Violation::NeverSent { seq });
        }
        while self.open.front().is_some_and(|&(open, _)| open <= seq) {
            self.bytes -= self.open.pop_front().map_or(0, |(_, bytes)| bytes);
        }
        Ok(())
    }

    /// Whether nothing was sent after `seq`.
    pub(super) const fn ends_with(&self, seq: u64) -> bool {
        self.last == seq
    }
}
