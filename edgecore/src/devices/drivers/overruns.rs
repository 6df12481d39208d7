//! Cycles that could not be kept (`PollOverrun`), as an operator hears of them. Pure.
//!
//! The count stands beside every value that is read there, and changes once a minute: more often it would
//! cost the cluster a write each time.

use std::time::Duration;

use tokio::time::Instant;

/// How often the count is told.
const TELL: Duration = Duration::from_mins(1);

/// When what was due at `due` is due again, and how many cycles were skipped: one that cannot be kept is
/// not made up for, a slow bus or server would never catch up.
pub(crate) fn next_cycle(due: Instant, cycle: Duration, now: Instant) -> (Instant, u64) {
    let cycle = cycle.max(Duration::from_millis(1));
    let late = now.saturating_duration_since(due).as_nanos();
    let missed = u32::try_from(late / cycle.as_nanos()).unwrap_or(u32::MAX - 1);
    (due + cycle.saturating_mul(missed + 1), u64::from(missed))
}

/// How many cycles were skipped, and how many of them are told.
#[derive(Debug)]
pub(crate) struct Overruns {
    told: u64,
    /// When the count is told again.
    next: Instant,
    note: String,
}

impl Overruns {
    /// None so far.
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            told: 0,
            next: now,
            note: String::new(),
        }
    }

    /// So many were skipped in all. How many of them are new, where it is time to say so.
    pub(crate) fn count(&mut self, skipped: u64, now: Instant) -> Option<u64> {
        if now < self.next || (skipped == self.told && self.note.is_empty()) {
            return None;
        }
        let new = skipped - self.told;
        self.told = skipped;
        self.next = now + TELL;
        if new == 0 {
            self.note.clear();
            return None;
        }
        self.note = format!("PollOverrun: {skipped} cycles skipped, the last within a minute");
        Some(new)
    }

    /// What is said with each value; empty if all cycles of the last minute were kept.
    pub(crate) fn note(&self) -> &str {
        &self.note
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_cycles_are_told_at_once_then_once_a_minute_until_there_are_none() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut overruns = Overruns::new(start);
        assert_eq!(overruns.count(0, start), None);
        assert_eq!(overruns.count(2, after(5)), Some(2));
        assert!(overruns.note().starts_with("PollOverrun: 2 cycles"));
        assert_eq!(overruns.count(50, after(20)), None);
        assert!(overruns.note().starts_with("PollOverrun: 2 cycles"));
        assert_eq!(overruns.count(90, after(65)), Some(88));
        assert!(overruns.note().starts_with("PollOverrun: 90 cycles"));
        assert_eq!(overruns.count(90, after(125)), None);
        assert_eq!(overruns.note(), "");
    }
}
