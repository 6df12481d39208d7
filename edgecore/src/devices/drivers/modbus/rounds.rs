//! When each read is due. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::plan::{Read, apart};
use crate::devices::drivers::overruns::next_cycle;
use crate::devices::drivers::polling::Schedule;

/// The longest time for which a unit that does not answer is left alone.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// The first such time.
const FIRST_REST: Duration = Duration::from_secs(1);

/// All reads of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    reads: Vec<(Instant, Read)>,
    silent: BTreeMap<u8, Duration>,
    overruns: u64,
}

impl Rounds {
    /// Takes over a plan; reads that were there before keep their time.
    pub(crate) fn replan(&mut self, plan: Vec<Read>, now: Instant) {
        let before = std::mem::take(&mut self.reads);
        let due = |read: &Read| {
            before
                .iter()
                .find(|(_, other)| other == read)
                .map_or(now, |(due, _)| *due)
        };
        self.reads = plan.into_iter().map(|read| (due(&read), read)).collect();
    }

    /// The read that has been due for longest.
    pub(crate) fn due(&self, now: Instant) -> Option<Read> {
        let ripe = self.reads.iter().filter(|(due, _)| *due <= now);
        ripe.min_by_key(|(due, _)| *due).map(|(_, read)| read.clone())
    }

    /// A read was answered.
    pub(crate) fn done(&mut self, read: &Read, now: Instant) {
        self.silent.remove(&read.unit);
        self.later(read, now);
    }

    /// A read was not answered: its unit is left alone for a while, longer each time.
    pub(crate) fn silent(&mut self, read: &Read, now: Instant) {
        let rest = self
            .silent
            .get(&read.unit)
            .map_or(FIRST_REST, |rest| (*rest * 2).min(LONGEST_REST));
        self.silent.insert(read.unit, rest);
        let until = now + rest;
        for (due, other) in &mut self.reads {
            if other.unit == read.unit {
                *due = (*due).max(until);
            }
        }
    }

    /// The endpoint is left alone until then.
    pub(crate) fn away(&mut self, until: Instant) {
        for (due, _) in &mut self.reads {
            *due = (*due).max(until);
        }
    }

    /// A merged read was refused: its properties are read one by one from now on. False if it was one
    /// alone already.
    pub(crate) fn split(&mut self, read: &Read, now: Instant) -> bool {
        if read.members.len() < 2 {
            return false;
        }
        self.reads.retain(|(_, other)| other != read);
        self.reads
            .extend(apart(read).into_iter().map(|single| (now, single)));
        true
    }

    fn later(&mut self, read: &Read, now: Instant) {
        let Some((due, _)) = self.reads.iter_mut().find(|(_, other)| other == read) else {
            return;
        };
        let (next, missed) = next_cycle(*due, read.cycle, now);
        *due = next;
        self.overruns += missed;
    }
}

impl Schedule for Rounds {
    fn next(&self) -> Option<Instant> {
        self.reads.iter().map(|(due, _)| *due).min()
    }

    fn overruns(&self) -> u64 {
        self.overruns
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Table;
    use super::*;

    fn read(unit: u8, milliseconds: u64) -> Read {
        Read {
            unit,
            table: Table::Holding,
            address: 0,
            count: 1,
            cycle: Duration::from_millis(milliseconds),
            members: Vec::new(),
        }
    }

    #[test]
    fn a_cycle_that_cannot_be_kept_is_skipped_and_counted() {
        let (mut rounds, start) = (Rounds::default(), Instant::now());
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        rounds.replan(vec![read(1, 100)], start);
        assert!(rounds.due(start).is_some());
        rounds.done(&read(1, 100), after(30));
        assert_eq!((rounds.next(), rounds.overruns()), (Some(after(100)), 0));
        assert_eq!(rounds.due(after(99)), None);
        rounds.done(&read(1, 100), after(350));
        assert_eq!((rounds.next(), rounds.overruns()), (Some(after(400)), 2));
    }

    #[test]
    fn a_unit_that_does_not_answer_rests_longer_each_time_and_delays_no_other() {
        let (mut rounds, start) = (Rounds::default(), Instant::now());
        let (dead, live) = (read(1, 100), read(2, 100));
        rounds.replan(vec![dead.clone(), live.clone()], start);
        let mut rests = Vec::new();
        let mut now = start;
        for _ in 0..7 {
            rounds.silent(&dead, now);
            let due = rounds.reads.iter().find(|(_, read)| *read == dead).unwrap().0;
            rests.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(rounds.due(start), Some(live));
        rounds.done(&dead, now);
        rounds.silent(&dead, now);
        assert_eq!(rounds.silent[&1], FIRST_REST);
    }

    #[test]
    fn a_plan_that_did_not_change_keeps_its_times() {
        let (mut rounds, start) = (Rounds::default(), Instant::now());
        rounds.replan(vec![read(1, 60_000)], start);
        rounds.done(&read(1, 60_000), start);
        rounds.replan(
            vec![read(1, 60_000), read(2, 1000)],
            start + Duration::from_secs(1),
        );
        assert_eq!(rounds.due(start + Duration::from_secs(1)), Some(read(2, 1000)));
    }
}
