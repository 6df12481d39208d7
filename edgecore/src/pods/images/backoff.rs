//! When a failed pull may be tried again.
//!
//! Pure: the time is handed in. **Invariant:** the table holds only what failed within the last 10 minutes.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_mins(5);
const FORGOTTEN: Duration = Duration::from_mins(10);

/// A pod's UID and the image as it names it.
pub(super) type Key = (String, String);

/// The failures that still count.
#[derive(Default)]
pub(super) struct Attempts {
    failures: HashMap<Key, Failure>,
}

struct Failure {
    at: Instant,
    delay: Duration,
    cause: String,
}

impl Attempts {
    /// How long a try must wait still, and what failed last.
    pub(super) fn holds_back(&self, key: &Key, now: Instant) -> Option<(Duration, String)> {
        let failure = self.failures.get(key)?;
        let left = (failure.at + failure.delay).saturating_duration_since(now);
        (!left.is_zero()).then(|| (left, failure.cause.clone()))
    }

    /// A pull failed.
    pub(super) fn failed(&mut self, key: Key, cause: String, now: Instant) {
        self.failures
            .retain(|_, failure| now.saturating_duration_since(failure.at) < FORGOTTEN);
        let delay = self
            .failures
            .get(&key)
            .map_or(FIRST, |before| (before.delay * 2).min(LONGEST));
        self.failures.insert(
            key,
            Failure {
                at: now,
                delay,
                cause,
            },
        );
    }

    /// A pull succeeded.
    pub(super) fn succeeded(&mut self, key: &Key) {
        self.failures.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_five_minutes_and_are_forgotten_after_ten() {
        let (mut attempts, key) = (Attempts::default(), ("u".to_owned(), "i".to_owned()));
        let mut now = Instant::now();
        for seconds in [10, 20, 40, 80, 160, 300, 300] {
            attempts.failed(key.clone(), "no".to_owned(), now);
            assert_eq!(
                attempts.holds_back(&key, now).unwrap().0,
                Duration::from_secs(seconds)
            );
            now += Duration::from_secs(seconds);
            assert!(attempts.holds_back(&key, now).is_none());
        }
        attempts.failed(key.clone(), "no".to_owned(), now + FORGOTTEN);
        assert_eq!(attempts.holds_back(&key, now + FORGOTTEN).unwrap().0, FIRST);
    }
}
