//! How far a writer is, for whoever watches it.
//!
//! One commit of a caller may be many of the database, each with a sync of its own: on a slow card all of them
//! together take longer than any that hangs. So the writer says when it comes to the next step, and the watchdog
//! times each.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Counts the steps of a writer: odd while it is at one, even while it waits for work.
#[derive(Clone, Debug, Default)]
pub(super) struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// There is work, or the last of it is done.
    pub(super) fn turn(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The next step of the same work begins.
    pub(super) fn beat(&self) {
        self.0.fetch_add(2, Ordering::Relaxed);
    }

    /// The step that the writer is at, if any.
    pub(super) fn step(&self) -> Option<u64> {
        let count = self.0.load(Ordering::Relaxed);
        (count % 2 == 1).then_some(count)
    }
}

/// For how long the same step has been seen.
#[derive(Debug, Default)]
pub(super) struct Watched(Option<(u64, Instant)>);

impl Watched {
    /// Takes a look in.
    pub(super) fn look(&mut self, step: Option<u64>, now: Instant) -> Duration {
        let before = self.0.filter(|(before, _)| Some(*before) == step);
        self.0 = before.or_else(|| Some((step?, now)));
        self.0.map_or(Duration::ZERO, |(_, since)| now - since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_is_timed_alone_and_a_pause_between_two_works_is_none() {
        let (pulse, mut watched, mut now) = (Pulse::default(), Watched::default(), Instant::now());
        let mut look = |pulse: &Pulse| {
            now += Duration::from_secs(20);
            watched.look(pulse.step(), now).as_secs()
        };
        assert_eq!((look(&pulse), look(&pulse)), (0, 0), "there is no work");
        pulse.turn();
        assert_eq!((look(&pulse), look(&pulse), look(&pulse)), (0, 20, 40));
        pulse.beat();
        assert_eq!((look(&pulse), look(&pulse)), (0, 20));
        pulse.turn();
        assert_eq!((look(&pulse), look(&pulse)), (0, 0));
        pulse.turn();
        assert_eq!((look(&pulse), look(&pulse)), (0, 20), "other work");
    }
}
