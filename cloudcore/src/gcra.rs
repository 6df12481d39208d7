//! So many at once, and one more in each span of time: a GCRA, as in ATM's traffic policing. Pure: time is given.

use std::time::Duration;

use tokio::time::Instant;

/// How often something may happen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// Once in this time, on the average.
    pub(crate) every: Duration,
    /// So often at once.
    pub(crate) burst: u32,
}

/// What has happened so far.
#[derive(Debug)]
pub(crate) struct Gcra {
    /// When all of it would have had its time.
    due: Instant,
}

impl Gcra {
    pub(crate) const fn new(now: Instant) -> Self {
        Self { due: now }
    }

    /// When it may happen once more; now, or later.
    pub(crate) fn opens(&self, rate: Rate, now: Instant) -> Instant {
        let opens = self.due.checked_sub(rate.every * (rate.burst - 1));
        opens.unwrap_or(now).max(now)
    }

    /// It happens.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) {
        self.due = self.due.max(now) + rate.every;
    }

    /// Whether it is as good as new.
    pub(crate) fn rested(&self, now: Instant) -> bool {
        self.due <= now
    }
}
