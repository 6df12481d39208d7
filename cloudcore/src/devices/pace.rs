//! In which order and how fast devices are written. Pure: time is given.
//!
//! **Invariant:** a replica makes at most `REPLICA` writes a second and `NODE` for a node, and
//! nodes that wait take turns: one that reports much costs the others one place each.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use protocol::name::NodeName;
use tokio::time::Instant;

use crate::gcra::{Gcra, Rate};

/// Writes for all nodes: 500 a second.
const REPLICA: Rate = Rate {
    every: Duration::from_millis(2),
    burst: 100,
};
/// Writes for one node: 20 a second.
const NODE: Rate = Rate {
    every: Duration::from_millis(50),
    burst: 100,
};
/// Changed values of one device: one a second, and never two within less than this and a part of it. A little
/// less than the second: else a device that reports every second and was late once would be late for ever.
const DEVICE: Rate = Rate {
    every: Duration::from_millis(900),
    burst: 1,
};
/// What a device that reports every second may come early, so that jitter delays nothing.
const DEVICE_EARLY: Duration = Duration::from_millis(200);

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(u64);

/// Who is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This one, now.
    Go(Ticket),
    /// Somebody, then.
    At(Instant),
    /// Nobody waits.
    Nobody,
}

#[derive(Debug, Default)]
struct Line {
    written: Gcra,
    waiting: VecDeque<Ticket>,
}

/// All who wait.
#[derive(Debug, Default)]
pub(super) struct Pace {
    written: Gcra,
    lines: BTreeMap<NodeName, Line>,
    /// The node that went last.
    last: Option<NodeName>,
    tickets: u64,
}

impl Pace {
    /// Joins the queue of a node.
    pub(super) fn enter(&mut self, node: &NodeName) -> Ticket {
        self.tickets += 1;
        let line = self.lines.entry(node.clone()).or_default();
        line.waiting.push_back(Ticket(self.tickets));
        Ticket(self.tickets)
    }

    /// Leaves it before its turn.
    pub(super) fn leave(&mut self, node: &NodeName, ticket: Ticket) {
        if let Some(line) = self.lines.get_mut(node) {
            line.waiting.retain(|waiting| *waiting != ticket);
        }
    }

    /// Whose turn it is.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        // A node that waits for nothing and may do all is as good as never seen.
        self.lines
            .retain(|_, line| !line.waiting.is_empty() || !line.written.rested(now));
        let due = |line: &Line| {
            line.written
                .opens(NODE, now)
                .max(self.written.opens(REPLICA, now))
        };
        let waiting = || self.lines.iter().filter(|(_, line)| !line.waiting.is_empty());
        let ready = |(_, line): &(&NodeName, &Line)| due(line) <= now;
        let after = waiting()
            .filter(|(node, _)| Some(*node) > self.last.as_ref())
            .find(ready);
        let Some((node, _)) = after.or_else(|| waiting().find(ready)) else {
            return waiting()
                .map(|(_, line)| due(line))
                .min()
                .map_or(Next::Nobody, Next::At);
        };
        let node = node.clone();
        let ticket = self.lines.get_mut(&node).and_then(|line| {
            line.written.take(NODE, now);
            line.waiting.pop_front()
        });
        self.written.take(REPLICA, now);
        self.last = Some(node);
        ticket.map_or(Next::Nobody, Next::Go)
    }
}

/// When the next changed value of one device may be written.
#[derive(Clone, Copy, Debug, Default)]
pub struct DevicePace(Gcra);

impl DevicePace {
    /// When the next write may be made; now, or later.
    pub fn due(&self, now: Instant) -> Instant {
        self.0.opens_early(DEVICE_EARLY, now)
    }

    /// A write was made.
    pub fn take(&mut self, now: Instant) {
        self.0.take(DEVICE, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    /// Goes through the queue for so long; which tickets went.
    fn run(pace: &mut Pace, mut now: Instant, lasting: Duration) -> Vec<Ticket> {
        let (end, mut went) = (now + lasting, Vec::new());
        while now < end {
            match pace.next(now) {
                Next::Go(ticket) => went.push(ticket),
                Next::At(at) => {
                    assert!(at > now);
                    now = at;
                }
                Next::Nobody => break,
            }
        }
        went
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_has_its_burst_and_then_its_rate() {
        let mut pace = Pace::default();
        for _ in 0..1_000 {
            pace.enter(&node("e1"));
        }
        let went = run(&mut pace, Instant::now(), Duration::from_secs(10));
        assert!((295..=301).contains(&went.len()), "{}", went.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_keeps_its_rate_and_its_nodes_take_turns() {
        let mut pace = Pace::default();
        let flood: Vec<_> = (0..50).map(|number| node(&format!("e{number}"))).collect();
        for _ in 0..100 {
            for node in &flood {
                pace.enter(node);
            }
        }
        let quiet = pace.enter(&node("z"));
        let went = run(&mut pace, Instant::now(), Duration::from_secs(2));
        assert!((1_095..=1_101).contains(&went.len()), "{}", went.len());
        let turn = went.iter().position(|ticket| *ticket == quiet);
        assert!(turn.is_some_and(|turn| turn <= flood.len()), "{turn:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_costs_nothing() {
        let mut pace = Pace::default();
        let (first, second) = (pace.enter(&node("e1")), pace.enter(&node("e1")));
        pace.leave(&node("e1"), first);
        let now = Instant::now();
        assert_eq!(pace.next(now), Next::Go(second));
        assert_eq!(pace.next(now), Next::Nobody);
        pace.next(now + Duration::from_mins(1));
        assert!(pace.lines.is_empty(), "nothing is remembered of idle nodes");
    }

    #[tokio::test(start_paused = true)]
    async fn one_device_is_written_once_a_second_and_jitter_delays_nothing() {
        let (mut pace, start) = (DevicePace::default(), Instant::now());
        for second in 0..100 {
            let early = Duration::from_millis(if second % 2 == 1 { 150 } else { 0 });
            let now = start + Duration::from_secs(second) - early.min(Duration::from_secs(second));
            assert!(pace.due(now) <= now, "{second}");
            pace.take(now);
        }
        let (mut pace, mut now, mut written) = (DevicePace::default(), start, 0);
        while pace.due(now).max(now) < start + Duration::from_secs(10) {
            now = now.max(pace.due(now));
            pace.take(now);
            written += 1;
        }
        assert!((10..=12).contains(&written), "{written}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_reports_every_second_and_was_late_once_is_in_time_again() {
        let (mut pace, start) = (DevicePace::default(), Instant::now());
        pace.take(start);
        pace.take(pace.due(start));
        let mut late = Vec::new();
        for second in 1..=10 {
            let report = start + Duration::from_secs(second);
            let written = pace.due(report).max(report);
            pace.take(written);
            late.push(written - report);
        }
        assert!(late.first() > Some(&Duration::from_millis(500)), "{late:?}");
        assert_eq!(late.last(), Some(&Duration::ZERO), "{late:?}");
    }
}
