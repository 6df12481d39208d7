//! When to say a beat, and when to give the session up. Pure but for the instants it is given.

use std::time::Duration;

use tokio::time::Instant;

/// A beat that goes unanswered this long is said again.
const PROBE_AFTER: Duration = Duration::from_secs(3);
/// And after this long the session is given up.
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(6);

/// When to say a beat, and when to give up. Pure but for the instants it is given.
#[derive(Debug)]
pub(super) struct Beats {
    every: Duration,
    seq: u64,
    next: Instant,
    /// The first beat that has no answer.
    waiting_since: Option<Instant>,
}

impl Beats {
    pub(super) fn new(every: Duration) -> Self {
        Self {
            every,
            seq: 0,
            next: Instant::now(),
            waiting_since: None,
        }
    }

    pub(super) fn due(&self) -> Instant {
        self.next
    }

    /// The number of the beat to say now; nothing when the cloud was silent for too long.
    pub(super) fn next(&mut self, now: Instant) -> Option<u64> {
        if self
            .waiting_since
            .is_some_and(|since| now >= since + SILENT_AFTER)
        {
            return None;
        }
        self.waiting_since = self.waiting_since.or(Some(now));
        self.next = now + PROBE_AFTER;
        self.seq += 1;
        Some(self.seq)
    }

    pub(super) fn answered(&mut self, seq: u64, now: Instant) {
        if seq <= self.seq && self.waiting_since.take().is_some() {
            self.next = now + self.every;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answered_beat_is_followed_by_a_whole_keepalive() {
        let mut beats = Beats::new(Duration::from_secs(25));
        let now = Instant::now();
        assert_eq!(beats.next(now), Some(1));
        beats.answered(1, now);
        assert_eq!(beats.due(), now + Duration::from_secs(25));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unanswered_beat_is_probed_and_then_given_up() {
        let mut beats = Beats::new(Duration::from_secs(25));
        let now = Instant::now();
        assert_eq!(beats.next(now), Some(1));
        assert_eq!(beats.due(), now + PROBE_AFTER);
        assert_eq!(beats.next(now + PROBE_AFTER), Some(2));
        assert_eq!(beats.next(now + SILENT_AFTER), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_nothing_changes_nothing() {
        let mut beats = Beats::new(Duration::from_secs(25));
        let due = beats.due();
        beats.answered(9, Instant::now());
        assert_eq!(beats.due(), due);
    }
}
