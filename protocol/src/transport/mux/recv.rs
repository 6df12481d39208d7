//! The receiving half of a stream: what arrived and was not read, and the credit for more.

use bytes::{Buf, BytesMut};

use super::{
    Violation,
    credit::{BASE, Pools, STREAM, first},
};
use crate::class::Class;

/// After so many windows that were read at once, the window grows.
const EARNED: u64 = 4;

/// What a read gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes.
    Bytes(usize),
    /// Nothing yet; a [`Wake::Read`](super::Wake::Read) will come.
    Wait,
    /// The end.
    End,
    /// The peer broke off.
    Reset(u32),
}

/// How far the peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arriving {
    More,
    Complete,
    Reset(u32),
}

#[derive(Debug)]
pub(super) struct Recv {
    arrived: BytesMut,
    state: Arriving,
    granted: u64,
    received: u64,
    read: u64,
    /// What it holds of its pool, over [`BASE`].
    held: u64,
    /// What it would like to have on its way; grows when the peer has used all of it up, and with
    /// what a reader who keeps up has had: evenly as a peer sends, it seldom uses all of it up.
    window: u64,
    /// What had come when the window grew last.
    grew_at: u64,
    /// Whose pool it draws from is known. Before that it has [`BASE`] and nothing of a pool.
    classified: bool,
    waits: bool,
    released: bool,
    /// To be told to the peer.
    credit: u32,
    stop: Option<u32>,
}

impl Recv {
    /// A stream of a class that may not be known yet.
    pub(super) fn new(class: Option<Class>) -> Self {
        Self {
            arrived: BytesMut::new(),
            state: Arriving::More,
            granted: BASE,
            received: 0,
            read: 0,
            held: 0,
            window: class.map_or(BASE, first),
            grew_at: 0,
            classified: class.is_some(),
            waits: false,
            released: false,
            credit: 0,
            stop: None,
        }
    }

    /// Bytes came; true when a reader waits for them.
    pub(super) fn data(&mut self, stream: u32, bytes: &[u8], last: bool) -> Result<bool, Violation> {
        if self.state != Arriving::More {
            return Err(Violation::AfterEnd(stream));
        }
        self.received += bytes.len() as u64;
        if self.received > self.granted {
            return Err(Violation::OverCredit(stream));
        }
        if !self.released {
            self.keep(bytes);
        }
        if last {
            self.state = Arriving::Complete;
        }
        Ok(std::mem::take(&mut self.waits))
    }

    /// Copied, so that memory follows the bytes and not the messages that they came in; and grown
    /// by little, since what nobody reads may stay for long.
    fn keep(&mut self, bytes: &[u8]) {
        let needed = self.arrived.len() + bytes.len();
        if needed > self.arrived.capacity() {
            let mut larger = BytesMut::with_capacity(needed + needed / 8);
            larger.extend_from_slice(&self.arrived);
            self.arrived = larger;
        }
        self.arrived.extend_from_slice(bytes);
    }

    /// The peer broke off; true when a reader waits.
    pub(super) fn reset(&mut self, stream: u32, code: u32) -> Result<bool, Violation> {
        if self.state != Arriving::More {
            return Err(Violation::AfterEnd(stream));
        }
        self.state = Arriving::Reset(code);
        self.arrived = BytesMut::new();
        Ok(std::mem::take(&mut self.waits))
    }

    pub(super) fn read(&mut self, out: &mut [u8]) -> Read {
        if let Arriving::Reset(code) = self.state {
            return Read::Reset(code);
        }
        let bytes = self.arrived.len().min(out.len());
        if bytes == 0 && self.state == Arriving::Complete && self.arrived.is_empty() {
            return Read::End;
        }
        if self.arrived.is_empty() {
            self.waits = true;
            return Read::Wait;
        }
        self.arrived.copy_to_slice(&mut out[..bytes]);
        self.read += bytes as u64;
        if self.arrived.is_empty() {
            self.arrived = BytesMut::new();
        }
        Read::Bytes(bytes)
    }

    /// Grants what is worth a frame, and gives back what is of no more use; true when the peer is
    /// to be told.
    pub(super) fn grant(&mut self, class: Class, pools: &mut Pools) -> bool {
        let before = self.held;
        if self.state != Arriving::More || self.released {
            self.held = before.min(self.arrived.len() as u64);
            pools.give(class, before, self.held);
            return false;
        }
        let carried = self.received - self.grew_at;
        let keeps_up = self.arrived.is_empty() && carried >= self.window * EARNED;
        if self.classified && (self.received == self.granted || keeps_up) {
            self.window = (self.window * 2).min(STREAM);
            self.grew_at = self.received;
        }
        let unread = self.granted - self.read;
        let most = pools.most(class, before).min(self.window - BASE);
        let share = most.max(unread.saturating_sub(BASE));
        let more = (BASE + share).saturating_sub(unread);
        if more * 2 < BASE + share {
            return false;
        }
        self.held = pools.take(class, before, share);
        let more = (BASE + self.held).saturating_sub(unread);
        self.granted += more;
        self.credit = self
            .credit
            .saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
        self.credit > 0
    }

    /// It is known now which class the stream is of.
    pub(super) fn classify(&mut self, class: Class) {
        debug_assert!(
            !self.classified && self.held == 0,
            "it holds nothing of a pool yet"
        );
        self.window = first(class);
        self.grew_at = self.received;
        self.classified = true;
    }

    /// Whether it is known which class the stream is of.
    pub(super) const fn is_classified(&self) -> bool {
        self.classified
    }

    /// Nobody will read any more; true when the peer is to be told.
    pub(super) fn release(&mut self, code: u32) -> bool {
        self.released = true;
        self.arrived = BytesMut::new();
        self.credit = 0;
        let goes_on = self.state == Arriving::More;
        self.stop = goes_on.then_some(code);
        goes_on
    }

    pub(super) const fn take_stop(&mut self) -> Option<u32> {
        self.stop.take()
    }

    pub(super) fn take_credit(&mut self) -> Option<u32> {
        let credit = std::mem::take(&mut self.credit);
        (credit > 0 && self.state == Arriving::More).then_some(credit)
    }

    /// Neither the peer nor a reader has anything more to do with it.
    pub(super) fn is_over(&self) -> bool {
        self.released && self.state != Arriving::More
    }

    /// What is held for the reader: bytes, and the memory for them.
    #[cfg(test)]
    pub(super) fn holds(&self) -> (usize, usize) {
        (self.arrived.len(), self.arrived.capacity())
    }

    /// What the peer may have sent that was not read.
    #[cfg(test)]
    pub(super) const fn unread(&self) -> u64 {
        self.granted - self.read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_who_keeps_up_is_granted_more_though_the_peer_never_uses_it_up() {
        let (class, mut pools) = (Class::Interactive, Pools::receive(None));
        let mut recv = Recv::new(Some(class));
        recv.grant(class, &mut pools);
        for _ in 0..1000 {
            recv.data(1, &[0; 256], false).unwrap();
            recv.read(&mut [0; 256]);
            assert!(recv.received < recv.granted);
            recv.grant(class, &mut pools);
        }
        assert!(recv.unread() > 32 << 10, "{}", recv.unread());
    }
}
