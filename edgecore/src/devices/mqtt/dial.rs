//! When and how the next connection is made. Pure: the dice are the caller's.

use std::time::Duration;

use super::version::{Greeting, Lost};
use crate::backoff::{Backoff, Pace};

/// A broker that restarts is back soon, and asking a closed port on the node itself costs next to nothing.
const PACE: Pace = Pace {
    first: Duration::from_millis(200),
    longest: Duration::from_secs(30),
    sure: 0.5,
};
/// A connection that lasted so long was a good one. A shorter one may have been taken over by a
/// client of the same name, and two such clients must not throw each other out without a pause.
const GOOD: Duration = Duration::from_secs(5);

/// How the next connection is made.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Dial {
    /// How it begins.
    pub(super) greeting: Greeting,
    backoff: Backoff,
}

impl Dial {
    /// A connection ended that had stood for so long, if it stood at all. Returns the pause before
    /// the next; `dice` is a fresh random number from 0 to 1.
    pub(super) fn lost(&mut self, lost: &Lost, stood: Option<Duration>, dice: f64) -> Duration {
        let at_once = self.greeting.lost(lost, stood.is_some());
        if stood.is_some_and(|stood| stood >= GOOD) {
            self.backoff.reset();
        }
        if at_once {
            return Duration::ZERO;
        }
        self.backoff.pause(PACE, dice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Lost {
        Lost::Broken("refused".to_owned())
    }

    #[test]
    fn pauses_double_to_half_a_minute_and_start_anew_after_a_good_connection() {
        let mut dial = Dial::default();
        let pauses: Vec<_> = (0..10)
            .map(|_| dial.lost(&refused(), None, 1.0).as_millis())
            .collect();
        assert_eq!(
            pauses,
            [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]
        );
        let short = dial.lost(&refused(), Some(Duration::from_secs(1)), 1.0);
        assert_eq!(short, PACE.longest, "it may have been taken over");
        assert_eq!(dial.lost(&refused(), Some(GOOD), 0.0), PACE.first / 2);
    }
}
