//! How many bytes each stream may have on its way, or in wait: shares of one bound.
//!
//! A share may grow to a quarter of what it and the free part of its pool have together: whoever
//! takes much leaves something to the next, and paused streams cannot use a pool up.
//!
//! **Invariant:** what is granted and unread, of all streams together, is at most [`CONNECTION`].

use crate::class::Class;

/// All streams' granted and unread bytes.
pub const CONNECTION: u64 = 1 << 20;
/// One stream's.
pub const STREAM: u64 = 256 << 10;
/// Streams of one opener: 256 tunnels, three flows, and room for what ends while something begins.
pub const STREAMS: u32 = 270;
/// What every stream has whatever the others do: it may send so much without asking.
pub const BASE: u64 = 512;
/// What a stream would like to have on its way at first. Tunnels are many, and most carry little:
/// all 256 of them may have this.
pub(super) const fn first(class: Class) -> u64 {
    match pool(class) {
        0 | 1 => 16 << 10,
        _ => 2 << 10,
    }
}

/// Both ends may open streams.
const BASES: u64 = 2 * STREAMS as u64 * BASE;
/// What control, the flows, and everything else share.
const RECEIVE: [u64; 3] = [32 << 10, 192 << 10, CONNECTION - BASES - (224 << 10)];
/// What they may have in wait to be sent: interactive and below never more than half.
const SEND: [u64; 3] = [32 << 10, 96 << 10, 128 << 10];

/// The pools of one direction of a connection.
#[derive(Debug)]
pub(super) struct Pools {
    free: [u64; 3],
}

/// Which pool a class draws from: beats never depend on anybody else's reading.
const fn pool(class: Class) -> usize {
    match class {
        Class::Control => 0,
        Class::Desired | Class::Reported => 1,
        Class::Interactive | Class::MessagesCritical | Class::MessagesNormal | Class::Bulk => 2,
    }
}

impl Pools {
    pub(super) const fn receive() -> Self {
        Self { free: RECEIVE }
    }

    pub(super) const fn send() -> Self {
        Self { free: SEND }
    }

    /// What a stream of `class` that holds `held` may hold at most.
    pub(super) const fn most(&self, class: Class, held: u64) -> u64 {
        (held + self.free[pool(class)]) / 4
    }

    /// A stream that held `before` holds `now`, which is no more than [`most`](Self::most) allows
    /// or than it held.
    pub(super) const fn change(&mut self, class: Class, before: u64, now: u64) {
        let free = &mut self.free[pool(class)];
        *free = (*free + before).saturating_sub(now);
    }

    #[cfg(test)]
    pub(super) fn is_whole(&self) -> bool {
        self.free == RECEIVE || self.free == SEND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tunnels_that_there_may_be_get_what_they_want_at_first() {
        let mut pools = Pools::receive();
        for _ in 0..256 {
            let wanted = first(Class::Interactive) - BASE;
            assert!(pools.most(Class::Interactive, 0) >= wanted);
            pools.change(Class::Interactive, 0, wanted);
        }
    }

    #[test]
    fn many_paused_streams_leave_something_to_the_next() {
        let mut pools = Pools::receive();
        let mut take = |class| {
            let share = pools.most(class, 0).min(STREAM);
            pools.change(class, 0, share);
            share
        };
        let shares: Vec<_> = (0..8).map(|_| take(Class::Bulk)).collect();
        assert!(
            shares.is_sorted_by(|a, b| a > b) && shares[0] > 100 << 10,
            "{shares:?}"
        );
        assert!(shares[7] > 12 << 10, "{shares:?}");
        assert_eq!(take(Class::Control), 8 << 10);
        assert_eq!(take(Class::Desired), 48 << 10);
    }
}
