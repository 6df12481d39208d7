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
    silent: BTreeMap<u8, Silence>,
    overruns: u64,
}

/// A unit that did not answer the last read.
#[derive(Clone, Copy, Debug)]
struct Silence {
    rest: Duration,
    writes: Writes,
}

/// Whether a unit that answers no reads takes writes, as simple relays do. One that is dead costs the others a
/// timeout with each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    /// None since it was last read in vain: one may show it.
    Untried,
    /// It answered the last one.
    Answered,
    /// It did not answer the last one.
    Unanswered,
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
        let before = self.silent.get(&read.unit);
        let rest = before.map_or(FIRST_REST, |before| (before.rest * 2).min(LONGEST_REST));
        let writes = match before.map(|before| before.writes) {
            Some(Writes::Answered) => Writes::Answered,
            Some(Writes::Untried | Writes::Unanswered) | None => Writes::Untried,
        };
        self.silent.insert(read.unit, Silence { rest, writes });
        let until = now + rest;
        for (due, other) in &mut self.reads {
            if other.unit == read.unit {
                *due = (*due).max(until);
            }
        }
    }

    /// Whether a unit that answers no reads may be written to now.
    pub(crate) fn may_write(&self, unit: u8) -> bool {
        let silence = self.silent.get(&unit);
        silence.is_some_and(|silence| silence.writes != Writes::Unanswered)
    }

    /// Whether a unit answers writes, and no reads.
    pub(crate) fn only_writes(&self, unit: u8) -> bool {
        let silence = self.silent.get(&unit);
        silence.is_some_and(|silence| silence.writes == Writes::Answered)
    }

    /// A unit that answers no reads was written to. The first answer may mean that it is back: it is read at once.
    /// Returns whether it is such a first answer.
    pub(crate) fn wrote(&mut self, unit: u8, answered: bool, now: Instant) -> bool {
        let Some(silence) = self.silent.get_mut(&unit) else {
            return false;
        };
        let after = if answered {
            Writes::Answered
        } else {
            Writes::Unanswered
        };
        let before = std::mem::replace(&mut silence.writes, after);
        let is_first = answered && before != Writes::Answered;
        if is_first {
            for (due, read) in &mut self.reads {
                if read.unit == unit {
                    *due = (*due).min(now);
                }
            }
        }
        is_first
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
        assert_eq!(rounds.silent[&1].rest, FIRST_REST);
    }

    #[test]
    fn a_unit_that_answers_no_reads_is_written_to_once_for_each_of_them_unless_it_answers_that() {
        let (mut rounds, start) = (Rounds::default(), Instant::now());
        let (deaf, live) = (read(1, 100), read(2, 100));
        rounds.replan(vec![deaf.clone(), live.clone()], start);
        assert!(!rounds.may_write(1), "nothing is known of it");
        for _ in 0..3 {
            rounds.silent(&deaf, start);
            assert!(rounds.may_write(1) && !rounds.may_write(2));
            assert!(!rounds.wrote(1, false, start));
            assert!(!rounds.may_write(1));
        }
        rounds.silent(&deaf, start);
        assert_eq!(rounds.due(start), Some(live.clone()));
        rounds.done(&live, start);
        assert_eq!(rounds.due(start), None);
        assert!(rounds.wrote(1, true, start));
        assert_eq!(rounds.due(start), Some(deaf.clone()), "it may be back");
        rounds.silent(&deaf, start);
        assert!(rounds.may_write(1) && !rounds.wrote(1, true, start));
        assert_eq!(rounds.due(start), None, "it is not, and that is known");
        assert!(!rounds.wrote(1, false, start));
        assert!(!rounds.may_write(1));
        rounds.done(&deaf, start);
        assert!(!rounds.wrote(1, true, start), "it is read again");
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
