//! How long a container that keeps ending is left alone, with the kubelet's numbers.
//!
//! Pure: instants come in, on the monotonic clock, so a wrong wall clock at boot changes nothing.
//!
//! **Invariant:** a delay only grows, up to [`BackOff::LIMIT`], until the container has run for twice that long.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// The back-offs of one pod's containers, by name and hash.
#[derive(Clone, Debug, Default)]
pub struct BackOff {
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    delay: Duration,
    updated: Instant,
}

impl BackOff {
    /// The first delay.
    pub const FIRST: Duration = Duration::from_secs(10);
    /// The longest delay.
    pub const LIMIT: Duration = Duration::from_mins(5);

    /// How long the container is left alone, counted from its end, if it ended at `ended`.
    pub fn delay(&self, key: &str, ended: Instant) -> Duration {
        self.entry(key, ended).map_or(Duration::ZERO, |entry| entry.delay)
    }

    /// Notes that the container is started again at `now`, having ended at `ended`.
    pub fn restarted(&mut self, key: &str, ended: Instant, now: Instant) {
        let delay = self
            .entry(key, ended)
            .map_or(Self::FIRST, |e| (e.delay * 2).min(Self::LIMIT));
        self.entries.insert(key.to_owned(), Entry { delay, updated: now });
    }

    /// The entry, unless the container ran so long that it counts as healthy again.
    fn entry(&self, key: &str, ended: Instant) -> Option<&Entry> {
        let entry = self.entries.get(key)?;
        (ended.saturating_duration_since(entry.updated) <= Self::LIMIT * 2).then_some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn delays_double_from_ten_seconds_to_five_minutes() {
        let mut backoff = BackOff::default();
        let mut now = Instant::now();
        let mut delays = Vec::new();
        for _ in 0..8 {
            let delay = backoff.delay("c", now);
            delays.push(delay.as_secs());
            backoff.restarted("c", now, now + delay);
            now += delay;
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[tokio::test(start_paused = true)]
    async fn ten_minutes_of_health_forgive_everything() {
        let mut backoff = BackOff::default();
        let start = Instant::now();
        backoff.restarted("c", start, start);
        backoff.restarted("c", start, start);
        assert_eq!(backoff.delay("c", start + Duration::from_mins(9)).as_secs(), 20);
        assert_eq!(backoff.delay("c", start + Duration::from_mins(11)).as_secs(), 0);
    }
}
