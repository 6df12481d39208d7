//! When to say a beat, and when to give the session up. Pure but for the instants it is given.

use std::time::Duration;

use tokio::time::Instant;

/// A beat that goes unanswered this long is said again.
const PROBE_AFTER: Duration = Duration::from_secs(3);
/// After this long another connection is tried beside this one.
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(6);
/// After this long the session ends: time enough for one dial beside it, and no more, because the
/// beats of a device that hears nothing may still arrive and keep its lease.
pub(super) const LOST_AFTER: Duration = Duration::from_secs(20);

/// When to say a beat, and when to give up. Pure but for the instants it is given.
#[derive(Debug)]
pub(super) struct Beats {
    every: Duration,
    seq: u64,
    next: Instant,
    /// The first beat that has no answer.
    waiting_since: Option<Instant>,
    last_answer: Instant,
}

impl Beats {
    pub(super) fn new(every: Duration) -> Self {
        Self {
            every,
            seq: 0,
            next: Instant::now(),
            waiting_since: None,
            last_answer: Instant::now(),
        }
    }

    pub(super) fn due(&self) -> Instant {
        self.next
    }

    /// The way may be another one now: the next beat is said at once, unless one waits for its answer, which
    /// is said again soon enough.
    pub(super) fn probe(&mut self, now: Instant) {
        if self.waiting_since.is_none() {
            self.next = now;
        }
    }

    /// The number of the beat to say now; nothing when the session is lost.
    pub(super) fn next(&mut self, now: Instant) -> Option<u64> {
        if self.waited(now) >= LOST_AFTER {
            return None;
        }
        self.waiting_since = self.waiting_since.or(Some(now));
        self.next = now + PROBE_AFTER;
        self.seq += 1;
        Some(self.seq)
    }

    /// Whether an answer is overdue.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.waited(now) >= SILENT_AFTER
    }

    /// Takes an answer; false when nothing was asked.
    pub(super) fn answered(&mut self, seq: u64, now: Instant) -> bool {
        let awaited = seq <= self.seq && self.waiting_since.take().is_some();
        if awaited {
            self.next = now + self.every;
            self.last_answer = now;
        }
        awaited
    }

    /// When the last answer came; the start before that.
    pub(super) const fn last_answer(&self) -> Instant {
        self.last_answer
    }

    fn waited(&self, now: Instant) -> Duration {
        self.waiting_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
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
        assert!(beats.answered(1, now));
        assert_eq!(beats.due(), now + Duration::from_secs(25));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unanswered_beat_is_probed_then_doubted_and_given_up() {
        let mut beats = Beats::new(Duration::from_secs(25));
        let now = Instant::now();
        assert_eq!(beats.next(now), Some(1));
        assert_eq!(beats.due(), now + PROBE_AFTER);
        assert_eq!(beats.next(now + PROBE_AFTER), Some(2));
        assert!(!beats.is_silent(now + PROBE_AFTER));
        assert_eq!(beats.next(now + SILENT_AFTER), Some(3));
        assert!(beats.is_silent(now + SILENT_AFTER));
        assert_eq!(beats.next(now + LOST_AFTER), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_nudge_makes_the_next_beat_due_and_hurries_no_answer() {
        let mut beats = Beats::new(Duration::from_secs(25));
        let now = Instant::now();
        beats.next(now);
        beats.probe(now);
        assert_eq!(beats.due(), now + PROBE_AFTER);
        beats.answered(1, now);
        beats.probe(now);
        assert_eq!(beats.due(), now);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_ends_the_doubt() {
        let mut beats = Beats::new(Duration::from_secs(25));
        let now = Instant::now();
        assert_eq!(beats.next(now), Some(1));
        assert!(beats.answered(1, now + SILENT_AFTER));
        assert!(!beats.is_silent(now + SILENT_AFTER * 2));
        assert_eq!(beats.last_answer(), now + SILENT_AFTER);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_nothing_changes_nothing() {
        let mut beats = Beats::new(Duration::from_secs(25));
        let due = beats.due();
        assert!(!beats.answered(9, Instant::now()));
        assert_eq!(beats.due(), due);
    }
}
