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
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gcra {
    /// When all of it would have had its time.
    due: Option<Instant>,
}

impl Gcra {
    /// When it may happen once more; now, or later.
    pub(crate) fn opens(&self, rate: Rate, now: Instant) -> Instant {
        self.opens_early(rate.every * (rate.burst - 1), now)
    }

    /// As [`opens`](Self::opens), where so much too early is in time, whatever the burst.
    pub(crate) fn opens_early(&self, early: Duration, now: Instant) -> Instant {
        let opens = self.due.and_then(|due| due.checked_sub(early));
        opens.unwrap_or(now).max(now)
    }

    /// It happens.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) {
        self.due = Some(self.due.unwrap_or(now).max(now) + rate.every);
    }

    /// Whether it is as good as new.
    pub(crate) fn rested(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now)
    }
}
