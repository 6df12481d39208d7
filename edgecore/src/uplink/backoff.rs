//! When to dial again: full jitter, quick at first, patient later.
//!
//! Pure: the clock and the dice are the caller's.

use std::time::Duration;

/// The first pause is at most this long.
const FIRST: Duration = Duration::from_millis(250);
/// The longest pause while the last good session is fresh.
const LONGEST_FRESH: Duration = Duration::from_secs(8);
/// The longest pause later.
const LONGEST: Duration = Duration::from_mins(1);
/// How long a good session counts as fresh.
const FRESH: Duration = Duration::from_mins(5);

/// Counts failures since the last good session.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// A session was good.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause after one more failure, `since_good` after the last good session (or the start).
    /// `dice` is a fresh random number from 0 to 1.
    pub fn pause(&mut self, since_good: Duration, dice: f64) -> Duration {
        let longest = if since_good < FRESH {
            LONGEST_FRESH
        } else {
            LONGEST
        };
        let most = FIRST.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures = self.failures.saturating_add(1);
        most.mul_f64(dice.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_eight_seconds_while_the_last_session_is_fresh() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..8)
            .map(|_| backoff.pause(Duration::ZERO, 1.0).as_millis())
            .collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 8000, 8000]);
    }

    #[test]
    fn pauses_grow_to_a_minute_later_and_start_anew_after_a_good_session() {
        let mut backoff = Backoff::default();
        let last = (0..20).map(|_| backoff.pause(FRESH, 1.0)).last();
        assert_eq!(last, Some(LONGEST));
        backoff.reset();
        assert_eq!(backoff.pause(FRESH, 1.0), FIRST);
    }

    #[test]
    fn jitter_is_full() {
        assert_eq!(Backoff::default().pause(Duration::ZERO, 0.0), Duration::ZERO);
    }
}
