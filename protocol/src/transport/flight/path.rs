//! How long the path is without a queue: at first what the fastest answer took, then what was seen with
//! half of the window.

use std::time::Duration;

use tokio::time::Instant;

/// For how long is known how long the path is.
pub(super) const KNOWN: Duration = Duration::from_secs(10);
/// Of so many rounds no more than one may be a look's.
const ROUNDS: u32 = 16;

/// The shortest round trip of the last [`KNOWN`], twice that at most.
#[derive(Clone, Debug)]
pub(super) struct Shortest {
    since: Instant,
    now: Option<Duration>,
    before: Option<Duration>,
}

impl Shortest {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            since: now,
            now: None,
            before: None,
        }
    }

    pub(super) fn get(&self) -> Option<Duration> {
        self.now.into_iter().chain(self.before).min()
    }

    pub(super) fn saw(&mut self, now: Instant, trip: Duration) {
        let since = now.saturating_duration_since(self.since);
        if since >= KNOWN {
            self.before = self.now.take().or(self.before).filter(|_| since < KNOWN * 2);
            self.since = now;
        }
        self.now = Some(self.now.map_or(trip, |least| least.min(trip)));
    }
}

/// The path as it was seen with half of the window.
#[derive(Clone, Debug)]
pub(super) struct Look {
    /// What a round took then, or since, if that was less.
    pub(super) path: Option<Duration>,
    /// When one took about as long.
    pub(super) at: Instant,
    /// What came in a second before, and what a round took.
    pub(super) rate: u64,
    pub(super) trip: Duration,
}

impl Look {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            path: None,
            at: now,
            rate: 0,
            trip: Duration::ZERO,
        }
    }

    pub(super) fn is_due(&self, now: Instant, trip: Duration) -> bool {
        now.saturating_duration_since(self.at) >= KNOWN.max(trip * ROUNDS)
    }

    /// Whether half of the window fills the link as well: in half of the time as much comes.
    pub(super) fn saw_a_queue(&self, rate: u64, took: Duration) -> bool {
        rate >= self.rate / 10 * 9 && took <= self.trip * 5 / 8
    }
}
