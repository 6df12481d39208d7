//! How long to wait before dialling again: quick at first, patient later.

use std::time::Duration;

use crate::backoff::Pace;

/// The first pause is at most this long.
const FIRST: Duration = Duration::from_millis(250);
/// The longest pause while the last good session is fresh.
const LONGEST_FRESH: Duration = Duration::from_secs(8);
/// The longest pause later.
const LONGEST: Duration = Duration::from_mins(1);
/// How long a good session counts as fresh.
const FRESH: Duration = Duration::from_mins(5);

/// The pauses `since_good` after the last good session (or the start).
pub fn pace(since_good: Duration) -> Pace {
    Pace {
        first: FIRST,
        longest: if since_good < FRESH {
            LONGEST_FRESH
        } else {
            LONGEST
        },
        // All edges of a replica that fails begin at once.
        sure: 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::Backoff;

    #[test]
    fn pauses_double_to_eight_seconds_while_the_last_session_is_fresh() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..8)
            .map(|_| backoff.pause(pace(Duration::ZERO), 1.0).as_millis())
            .collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 8000, 8000]);
    }

    #[test]
    fn pauses_grow_to_a_minute_later() {
        let mut backoff = Backoff::default();
        let last = (0..20).map(|_| backoff.pause(pace(FRESH), 1.0)).last();
        assert_eq!(last, Some(LONGEST));
    }

    #[test]
    fn jitter_is_full() {
        let pause = Backoff::default().pause(pace(Duration::ZERO), 0.0);
        assert_eq!(pause, Duration::ZERO);
    }
}
