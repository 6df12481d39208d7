//! So many at once, and one more in each span of time: a GCRA, as in ATM's traffic policing. Pure: time is given.

use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::each::{Each, Rests};

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

impl Rests for Mutex<Gcra> {
    fn rested(&self, now: Instant) -> bool {
        self.lock().rested(now)
    }
}

/// One rate for each of many: none takes from another's.
#[derive(Debug)]
pub(crate) struct Rates<K> {
    rate: Rate,
    each: Each<K, Mutex<Gcra>>,
}

impl<K: Eq + Hash + Clone> Rates<K> {
    pub(crate) fn new(rate: Rate) -> Self {
        Self {
            rate,
            each: Each::default(),
        }
    }

    /// Lets it happen once more, or says when it may.
    pub(crate) fn take(&self, key: &K, now: Instant) -> Result<(), Instant> {
        let one = self.each.of(key, now);
        let mut happened = one.lock();
        let opens = happened.opens(self.rate, now);
        if opens > now {
            return Err(opens);
        }
        happened.take(self.rate, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_burst_and_what_has_rested_is_forgotten() {
        let rate = Rate {
            every: Duration::from_secs(2),
            burst: 3,
        };
        let (rates, now) = (Rates::new(rate), Instant::now());
        for _ in 0..rate.burst {
            assert_eq!(rates.take(&"busy", now), Ok(()));
        }
        assert_eq!(rates.take(&"busy", now), Err(now + rate.every));
        assert_eq!(rates.take(&"other", now), Ok(()));
        assert_eq!(rates.take(&"busy", now + rate.every), Ok(()));
        let later = now + rate.every * 3;
        assert_eq!(rates.take(&"third", later), Ok(()));
        assert_eq!(rates.each.len(), 2, "the busy one owes time yet");
    }
}
