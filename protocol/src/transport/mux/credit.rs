//! How many bytes each stream may have on its way, or in wait: shares of one bound.
//!
//! A share may grow to a quarter of what it and the free part of its pool have together: whoever
//! takes much leaves something to the next, and paused streams cannot use a pool up.
//!
//! **Invariant:** what is granted and unread, of all streams together, is at most [`CONNECTION`].

use crate::{
    class::Class,
    transport::budget::{SESSION, Share},
};

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

/// Of a share of the process's budget, what each pool has whatever the others do, and all bases.
/// Beats and flows go on when the budget is used up; tunnels then have their bases.
const SURE: [u64; 3] = [4 << 10, 8 << 10, 0];
const SURE_BASES: u64 = SESSION - SURE[0] - SURE[1];

/// The pools of one direction of a connection.
#[derive(Debug)]
pub(super) struct Pools {
    all: [u64; 3],
    free: [u64; 3],
    bases: u64,
    /// Where the process has a budget: this connection's part of it.
    share: Option<Share>,
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
    pub(super) const fn receive(share: Option<Share>) -> Self {
        Self::of(RECEIVE, share)
    }

    pub(super) const fn send() -> Self {
        Self::of(SEND, None)
    }

    const fn of(all: [u64; 3], share: Option<Share>) -> Self {
        Self {
            all,
            free: all,
            bases: 0,
            share,
        }
    }

    /// What a stream of `class` that holds `held` may hold at most.
    pub(super) fn most(&self, class: Class, held: u64) -> u64 {
        let pool = pool(class);
        let most = (held + self.free[pool]) / 4;
        let Some(share) = &self.share else {
            return most;
        };
        let sure = held + SURE[pool].saturating_sub(self.used(pool)) / 2;
        let fair = (held + share.most()).saturating_sub(share.held());
        most.min(fair.max(sure.min(SURE[pool])))
    }

    /// A stream that held `before` holds `now`, which is no more than it held.
    pub(super) fn give(&mut self, class: Class, before: u64, now: u64) {
        self.change(class, before, now);
        self.settle();
    }

    /// A stream that held `before` wants to hold `wanted`, which is no more than
    /// [`most`](Self::most) allows or than it held; what it holds now.
    pub(super) fn take(&mut self, class: Class, before: u64, wanted: u64) -> u64 {
        self.change(class, before, wanted);
        if self.settle() {
            return wanted;
        }
        // Another connection was faster.
        self.change(class, wanted, before);
        before
    }

    /// One more stream may send [`BASE`] bytes; false when there is no room for them.
    pub(super) fn base(&mut self) -> bool {
        self.bases += 1;
        let taken = self.settle();
        if !taken {
            self.bases -= 1;
        }
        taken
    }

    /// A stream is over.
    pub(super) fn base_is_free(&mut self) {
        self.bases = self.bases.saturating_sub(1);
        self.settle();
    }

    const fn change(&mut self, class: Class, before: u64, now: u64) {
        let free = &mut self.free[pool(class)];
        *free = (*free + before).saturating_sub(now);
    }

    const fn used(&self, pool: usize) -> u64 {
        debug_assert!(self.free[pool] <= self.all[pool], "more came back than was taken");
        self.all[pool].saturating_sub(self.free[pool])
    }

    /// Holds of the process's budget what is used; false when there is not so much.
    fn settle(&mut self) -> bool {
        let pools = (0..3).map(|pool| self.used(pool).max(SURE[pool]));
        let needed = pools.sum::<u64>() + (self.bases * BASE).max(SURE_BASES);
        self.share.as_mut().is_none_or(|share| share.set(needed))
    }

    #[cfg(test)]
    pub(super) fn is_whole(&self) -> bool {
        self.free == self.all && self.bases == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tunnels_that_there_may_be_get_what_they_want_at_first() {
        let mut pools = Pools::receive(None);
        for _ in 0..256 {
            let wanted = first(Class::Interactive) - BASE;
            assert!(pools.most(Class::Interactive, 0) >= wanted);
            pools.take(Class::Interactive, 0, wanted);
        }
    }

    #[test]
    fn many_paused_streams_leave_something_to_the_next() {
        let mut pools = Pools::receive(None);
        let mut take = |class| {
            let share = pools.most(class, 0).min(STREAM);
            pools.take(class, 0, share);
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
