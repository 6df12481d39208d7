//! When something that failed is tried again: each pause is up to twice the one before, with jitter, so
//! that what failed together does not come back together.
//!
//! Pure: the clock and the dice are the caller's.

use std::time::Duration;

/// How long pauses are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// The most of the first pause.
    pub first: Duration,
    /// The most of any pause.
    pub longest: Duration,
    /// The part of a pause that is sure, from 0 to 1; the dice decide on the rest.
    pub sure: f64,
}

/// How often in a row something failed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// It works.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause after one more failure; `dice` is a fresh random number from 0 to 1.
    pub fn pause(&mut self, pace: Pace, dice: f64) -> Duration {
        let most = pace
            .first
            .saturating_mul(1 << self.failures.min(16))
            .min(pace.longest);
        self.failures = self.failures.saturating_add(1);
        most.mul_f64(pace.sure + (1.0 - pace.sure) * dice.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        first: Duration::from_millis(250),
        longest: Duration::from_secs(8),
        sure: 0.5,
    };

    #[test]
    fn pauses_double_to_the_longest_and_start_anew_when_it_works() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..8).map(|_| backoff.pause(PACE, 1.0).as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 8000, 8000]);
        backoff.reset();
        assert_eq!(backoff.pause(PACE, 1.0), PACE.first);
    }

    #[test]
    fn the_dice_decide_on_what_is_not_sure() {
        let pause = |sure, dice| Backoff::default().pause(Pace { sure, ..PACE }, dice);
        assert_eq!(pause(0.0, 0.0), Duration::ZERO);
        assert_eq!(pause(0.5, 0.0), PACE.first / 2);
        assert_eq!(pause(0.5, 7.0), PACE.first);
        let mut old = Backoff { failures: u32::MAX };
        assert_eq!(old.pause(PACE, 1.0), PACE.longest);
    }
}
