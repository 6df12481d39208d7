//! When each path is asked next. Pure.
//!
//! A path is asked once for all properties that are read there, as often as the most eager of them
//! wants.

use std::collections::BTreeMap;
use std::time::Duration;

use http::uri::PathAndQuery;
use protocol::devices::DeviceName;
use tokio::time::Instant;

use crate::devices::drivers::overruns::next_cycle;
use crate::devices::drivers::polling::Schedule;

/// After a write its path is asked so often, until the device says what it was set to.
const HURRY: Duration = Duration::from_secs(1);

/// One property that is read at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// The device.
    pub(crate) device: DeviceName,
    /// The property.
    pub(crate) property: String,
    /// Which of its reads.
    pub(crate) read: usize,
}

#[derive(Debug)]
struct Poll {
    target: PathAndQuery,
    due: Instant,
    cycle: Duration,
    members: Vec<Member>,
}

/// All paths of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Polls {
    polls: BTreeMap<String, Poll>,
    overruns: u64,
}

impl Polls {
    /// Takes over what is read; paths that were there before keep their time.
    pub(crate) fn replan(
        &mut self,
        wanted: impl IntoIterator<Item = (PathAndQuery, Duration, Member)>,
        now: Instant,
    ) {
        let mut before = std::mem::take(&mut self.polls);
        for (target, cycle, member) in wanted {
            let old = before.remove(target.as_str());
            let poll = self
                .polls
                .entry(target.as_str().to_owned())
                .or_insert_with(|| Poll {
                    due: old.as_ref().map_or(now, |old| old.due.min(now + cycle)),
                    target,
                    cycle,
                    members: Vec::new(),
                });
            if cycle < poll.cycle {
                poll.cycle = cycle;
                poll.due = poll.due.min(now + cycle);
            }
            poll.members.push(member);
        }
    }

    /// The path that has been due for longest, and who waits for it.
    pub(crate) fn due(&self, now: Instant) -> Option<(PathAndQuery, Vec<Member>)> {
        let ripe = self.polls.values().filter(|poll| poll.due <= now);
        let poll = ripe.min_by_key(|poll| poll.due)?;
        Some((poll.target.clone(), poll.members.clone()))
    }

    /// It was asked, and the server answered. Where it is `awaited` what a write made of a property, it is
    /// asked again soon.
    pub(crate) fn done(&mut self, target: &PathAndQuery, awaited: bool, now: Instant) {
        let Some(poll) = self.polls.get_mut(target.as_str()) else {
            return;
        };
        if awaited {
            poll.due = now + HURRY.min(poll.cycle);
            return;
        }
        let (due, missed) = next_cycle(poll.due, poll.cycle, now);
        poll.due = due;
        self.overruns += missed;
    }

    /// The server was not there: nothing is asked before then.
    pub(crate) fn away(&mut self, target: &PathAndQuery, now: Instant, until: Instant) {
        if let Some(poll) = self.polls.get_mut(target.as_str()) {
            poll.due = now + poll.cycle;
        }
        for poll in self.polls.values_mut() {
            poll.due = poll.due.max(until);
        }
    }

    /// Something was written: the paths that tell of it are asked now.
    pub(crate) fn hurry(&mut self, device: &DeviceName, property: &str, now: Instant) {
        let tells = |poll: &&mut Poll| {
            let mut members = poll.members.iter();
            members.any(|member| member.device == *device && member.property == property)
        };
        for poll in self.polls.values_mut().filter(tells) {
            poll.due = now;
        }
    }
}

impl Schedule for Polls {
    fn next(&self) -> Option<Instant> {
        self.polls.values().map(|poll| poll.due).min()
    }

    fn overruns(&self) -> u64 {
        self.overruns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> PathAndQuery {
        text.parse().unwrap()
    }

    fn member(property: &str) -> Member {
        Member {
            device: DeviceName::new("hall", "plug"),
            property: property.to_owned(),
            read: 0,
        }
    }

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_path_is_asked_once_for_all_who_read_it_as_often_as_the_most_eager_wants() {
        let (mut polls, start) = (Polls::default(), Instant::now());
        polls.replan(
            [
                (path("/status"), ms(5000), member("a")),
                (path("/status"), ms(1000), member("b")),
                (path("/other"), ms(5000), member("c")),
            ],
            start,
        );
        let (target, members) = polls.due(start).unwrap();
        polls.done(&target, false, start);
        let (other, others) = polls.due(start).unwrap();
        polls.done(&other, false, start);
        assert_eq!(members.len() + others.len(), 3);
        assert_eq!(polls.due(start), None);
        assert_eq!(polls.next(), Some(start + ms(1000)));
    }

    #[test]
    fn a_cycle_that_cannot_be_kept_is_skipped_and_counted() {
        let (mut polls, start) = (Polls::default(), Instant::now());
        polls.replan([(path("/a"), ms(100), member("a"))], start);
        polls.done(&path("/a"), false, start + ms(30));
        assert_eq!((polls.next(), polls.overruns()), (Some(start + ms(100)), 0));
        polls.done(&path("/a"), false, start + ms(350));
        assert_eq!((polls.next(), polls.overruns()), (Some(start + ms(400)), 2));
    }

    #[test]
    fn a_server_that_is_away_is_left_alone_and_that_is_no_overrun() {
        let (mut polls, start) = (Polls::default(), Instant::now());
        polls.replan(
            [
                (path("/a"), ms(100), member("a")),
                (path("/b"), ms(100), member("b")),
            ],
            start,
        );
        polls.away(&path("/a"), start + ms(2000), start + ms(4000));
        assert_eq!(polls.due(start + ms(3999)), None);
        assert!(polls.due(start + ms(4000)).is_some());
        assert_eq!(polls.overruns(), 0);
    }

    #[test]
    fn after_a_write_its_path_is_asked_at_once_and_often() {
        let (mut polls, start) = (Polls::default(), Instant::now());
        polls.replan(
            [
                (path("/a"), ms(60_000), member("a")),
                (path("/b"), ms(60_000), member("b")),
            ],
            start,
        );
        polls.done(&path("/a"), false, start);
        polls.done(&path("/b"), false, start);
        let device = member("a").device;
        polls.hurry(&device, "a", start + ms(10));
        for at in [10, 1010, 2010] {
            let (target, _) = polls.due(start + ms(at)).unwrap();
            assert_eq!(target, path("/a"));
            polls.done(&target, true, start + ms(at));
            assert_eq!(polls.due(start + ms(at)), None);
        }
        polls.done(&path("/a"), false, start + ms(3010));
        assert_eq!((polls.due(start + ms(59_000)), polls.overruns()), (None, 0));
    }

    #[test]
    fn a_changed_plan_keeps_times_and_takes_shorter_cycles_at_once() {
        let (mut polls, start) = (Polls::default(), Instant::now());
        polls.replan([(path("/a"), ms(60_000), member("a"))], start);
        polls.done(&path("/a"), false, start);
        polls.replan([(path("/a"), ms(60_000), member("a"))], start + ms(1));
        assert_eq!(polls.next(), Some(start + ms(60_000)));
        polls.replan([(path("/a"), ms(1000), member("a"))], start + ms(2));
        assert_eq!(polls.next(), Some(start + ms(1002)));
    }
}
