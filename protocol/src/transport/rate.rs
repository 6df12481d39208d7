//! So many bytes a second: what is over it waits.
//!
//! Pure: the time is the caller's to know. What was too much is owed, and nothing goes until it is
//! paid; what was not used is good for [`SAVED`].

use std::time::Duration;

use tokio::time::Instant;

/// How long what was not used is good.
const SAVED: Duration = Duration::from_millis(250);

/// A limit on bytes a second.
#[derive(Debug)]
pub(super) struct Rate {
    a_second: u64,
    /// When everything that went is paid; in the past while there is something saved.
    paid_at: Option<Instant>,
}

impl Rate {
    pub(super) const fn new(a_second: u64) -> Self {
        Self {
            a_second,
            paid_at: None,
        }
    }

    /// Until when nothing may go; none when something may.
    pub(super) fn waits(&self, now: Instant) -> Option<Instant> {
        self.paid_at.filter(|paid| *paid > now)
    }

    /// So much went.
    pub(super) fn went(&mut self, bytes: usize, now: Instant) {
        let oldest = now.checked_sub(SAVED).unwrap_or(now);
        let from = self.paid_at.map_or(oldest, |paid| paid.max(oldest));
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(self.a_second.max(1));
        let costs = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.paid_at = from.checked_add(costs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_long_run_just_so_much_goes() {
        let start = Instant::now();
        let (mut rate, mut now, mut went) = (Rate::new(1000), start, 0);
        while now < start + Duration::from_mins(1) {
            rate.went(333, now);
            went += 333;
            now = rate.waits(now).unwrap_or(now);
        }
        assert!((60_000..=60_000 + 250 + 333).contains(&went), "{went}");
    }

    #[test]
    fn who_was_silent_for_long_has_saved_a_quarter_of_a_second() {
        let start = Instant::now();
        let mut rate = Rate::new(1000);
        rate.went(250, start);
        assert_eq!(rate.waits(start), None);
        rate.went(1, start);
        assert!(rate.waits(start).is_some());
        let later = start + Duration::from_hours(1);
        rate.went(500, later);
        assert_eq!(rate.waits(later), Some(later + Duration::from_millis(250)));
    }
}
