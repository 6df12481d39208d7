//! What came in and is not acknowledged yet, and what came in before. Pure.
//!
//! The broker repeats, after a reconnect, what it saw no acknowledgement of: in the order in which
//! it delivered it, each marked as a repeat. Most of that was taken already.
//!
//! ```text
//! admit ──► open ──finish──► done ──poll_ack, in order of arrival──► acknowledged
//!             └──lost: the same message comes again and finds its own place by its hash
//! ```
//!
//! **Invariant:** acknowledgements leave in the order of arrival, each once its own message and all
//! before it are done.

use std::collections::{HashSet, VecDeque};

use protocol::devices::DeviceName;

/// How many messages are remembered: as many as a broker has in flight to one client here.
pub(super) const REMEMBERED: usize = 4096;

/// A message, numbered as it came.
pub(super) type Arrival = u64;

/// What tells a message from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Of topic and payload.
    pub(super) hash: [u8; 16],
    /// Whose it is; none if it is no device's.
    pub(super) device: Option<DeviceName>,
    /// Whether its sender marks its messages so that no two are alike.
    pub(super) unique: bool,
}

/// What becomes of a message that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is to be worked on.
    New(Arrival),
    /// It was taken before: it is acknowledged when it is done.
    Known,
}

#[derive(Debug)]
struct Recent {
    arrival: Arrival,
    mark: Mark,
    /// In which connection it came last.
    connection: u64,
    acknowledged: bool,
}

#[derive(Debug)]
struct Waiting {
    packet: u16,
    arrival: Arrival,
}

/// The messages of one broker.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    next: Arrival,
    connection: u64,
    /// Repeats come in order: none is looked for before this one.
    cursor: Arrival,
    waiting: VecDeque<Waiting>,
    open: HashSet<Arrival>,
    recent: VecDeque<Recent>,
}

impl Arrivals {
    /// Takes note of a message; `packet` is its number if it wants an acknowledgement, `repeat` what
    /// the broker says of it.
    pub(super) fn admit(&mut self, packet: Option<u16>, repeat: bool, mark: Mark) -> Admission {
        let Some(packet) = packet else {
            return Admission::New(self.number());
        };
        if repeat && let Some(arrival) = self.known(&mark) {
            self.waiting.push_back(Waiting { packet, arrival });
            return Admission::Known;
        }
        let arrival = self.number();
        self.open.insert(arrival);
        self.waiting.push_back(Waiting { packet, arrival });
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(Recent {
            arrival,
            mark,
            connection: self.connection,
            acknowledged: false,
        });
        Admission::New(arrival)
    }

    /// All that a message asked for was done.
    pub(super) fn finish(&mut self, arrival: Arrival) {
        self.open.remove(&arrival);
    }

    /// The number of the next message that may be acknowledged.
    pub(super) fn poll_ack(&mut self) -> Option<u16> {
        let first = self.waiting.front()?;
        if self.open.contains(&first.arrival) {
            return None;
        }
        let Waiting { packet, arrival } = self.waiting.pop_front()?;
        if let Ok(at) = self
            .recent
            .binary_search_by_key(&arrival, |recent| recent.arrival)
        {
            self.recent[at].acknowledged = true;
        }
        Some(packet)
    }

    /// The connection is gone: what was not acknowledged comes again.
    pub(super) fn lost(&mut self) {
        self.waiting.clear();
        self.connection += 1;
        self.cursor = 0;
    }

    /// The broker has forgotten the session: nothing of it comes again.
    pub(super) fn forgotten(&mut self) {
        self.recent.clear();
    }

    const fn number(&mut self) -> Arrival {
        self.next += 1;
        self.next
    }

    fn known(&mut self, mark: &Mark) -> Option<Arrival> {
        self.unacknowledged(mark).or_else(|| self.acknowledged(mark))
    }

    /// What was never acknowledged comes again for certain, each once.
    fn unacknowledged(&mut self, mark: &Mark) -> Option<Arrival> {
        let (cursor, connection) = (self.cursor, self.connection);
        let expected = self.recent.iter_mut().find(|recent| {
            recent.arrival >= cursor
                && recent.connection != connection
                && !recent.acknowledged
                && recent.mark.hash == mark.hash
        })?;
        expected.connection = connection;
        self.cursor = expected.arrival + 1;
        Some(expected.arrival)
    }

    /// An acknowledgement may have been lost with the connection. But a device that only ever says
    /// on and off says again what it said before: unless its messages are marked, only its newest
    /// one passes for a repeat.
    fn acknowledged(&self, mark: &Mark) -> Option<Arrival> {
        let mut of_device = self
            .recent
            .iter()
            .rev()
            .filter(|recent| recent.mark.device == mark.device);
        let found = if mark.unique {
            of_device.find(|recent| recent.mark.hash == mark.hash)?
        } else {
            of_device.next().filter(|recent| recent.mark.hash == mark.hash)?
        };
        found.acknowledged.then_some(found.arrival)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mark(text: u8) -> Mark {
        Mark {
            hash: [text; 16],
            device: Some(DeviceName::new("a", "b")),
            unique: false,
        }
    }

    fn marked(text: u8) -> Mark {
        Mark {
            unique: true,
            ..mark(text)
        }
    }

    fn new(admission: Admission) -> Arrival {
        match admission {
            Admission::New(arrival) => arrival,
            Admission::Known => panic!("it was taken for a repeat"),
        }
    }

    fn acks(arrivals: &mut Arrivals) -> Vec<u16> {
        std::iter::from_fn(|| arrivals.poll_ack()).collect()
    }

    #[test]
    fn acknowledgements_leave_in_order_of_arrival() {
        let mut arrivals = Arrivals::default();
        let first = new(arrivals.admit(Some(1), false, mark(1)));
        let second = new(arrivals.admit(Some(2), false, mark(2)));
        arrivals.finish(second);
        assert!(acks(&mut arrivals).is_empty());
        arrivals.finish(first);
        assert_eq!(acks(&mut arrivals), [1, 2]);
    }

    #[test]
    fn a_repeat_of_what_is_still_being_worked_on_waits_for_it() {
        let mut arrivals = Arrivals::default();
        let first = new(arrivals.admit(Some(1), false, mark(1)));
        arrivals.lost();
        assert_eq!(arrivals.admit(Some(7), true, mark(1)), Admission::Known);
        assert!(acks(&mut arrivals).is_empty(), "it is not journaled yet");
        arrivals.finish(first);
        assert_eq!(acks(&mut arrivals), [7]);
    }

    #[test]
    fn a_repeat_whose_acknowledgement_was_lost_is_only_acknowledged() {
        let mut arrivals = Arrivals::default();
        for text in [1, 2] {
            let arrival = new(arrivals.admit(Some(u16::from(text)), false, marked(text)));
            arrivals.finish(arrival);
        }
        assert_eq!(acks(&mut arrivals), [1, 2]);
        arrivals.lost();
        assert_eq!(arrivals.admit(Some(3), true, marked(1)), Admission::Known);
        assert_eq!(arrivals.admit(Some(4), true, marked(2)), Admission::Known);
        assert_eq!(acks(&mut arrivals), [3, 4]);
    }

    #[test]
    fn a_switch_that_says_on_again_is_not_taken_for_a_repeat_of_its_first_on() {
        let (on, off) = (mark(1), mark(0));
        let mut arrivals = Arrivals::default();
        for mark in [&on, &off] {
            let arrival = new(arrivals.admit(Some(1), false, mark.clone()));
            arrivals.finish(arrival);
        }
        acks(&mut arrivals);
        arrivals.lost();
        // The broker had sent this one before, and it was never read here.
        new(arrivals.admit(Some(3), true, on));
    }

    #[test]
    fn of_three_alike_that_were_not_acknowledged_each_repeat_finds_its_own() {
        let mut arrivals = Arrivals::default();
        let first: Vec<Arrival> = [1, 0, 1]
            .map(|text| new(arrivals.admit(Some(1), false, mark(text))))
            .into();
        arrivals.lost();
        for (packet, text) in [(11, 1), (12, 0), (13, 1)] {
            assert_eq!(arrivals.admit(Some(packet), true, mark(text)), Admission::Known);
        }
        // A fourth was on its way when the connection broke.
        new(arrivals.admit(Some(14), true, mark(0)));
        arrivals.finish(first[0]);
        arrivals.finish(first[2]);
        assert_eq!(acks(&mut arrivals), [11]);
    }

    #[test]
    fn what_a_forgotten_session_held_explains_no_repeat() {
        let mut arrivals = Arrivals::default();
        new(arrivals.admit(Some(1), false, mark(1)));
        arrivals.lost();
        arrivals.forgotten();
        new(arrivals.admit(Some(2), true, mark(1)));
    }

    #[test]
    fn what_is_no_repeat_is_new_however_often_it_was_said() {
        let mut arrivals = Arrivals::default();
        for _ in 0..3 {
            let arrival = new(arrivals.admit(Some(1), false, marked(1)));
            arrivals.finish(arrival);
            assert_eq!(acks(&mut arrivals), [1]);
        }
        new(arrivals.admit(None, true, marked(1)));
    }

    proptest! {
        #[test]
        fn nothing_unfinished_is_ever_acknowledged_and_nothing_finished_is_forgotten(
            steps in proptest::collection::vec((0..6_u8, 0..4_u8), 1..200)
        ) {
            let mut arrivals = Arrivals::default();
            // What the broker has in flight: its number, its text, whether it was delivered before.
            let (mut packet, mut in_flight) = (0_u16, VecDeque::new());
            let mut open: Vec<(Arrival, u16)> = Vec::new();
            for (step, text) in steps {
                match step {
                    0..=2 => {
                        packet += 1;
                        in_flight.push_back((packet, text));
                        open.push((new(arrivals.admit(Some(packet), false, mark(text))), packet));
                    }
                    3 if !open.is_empty() => {
                        let (arrival, _) = open.swap_remove(usize::from(text) % open.len());
                        arrivals.finish(arrival);
                    }
                    4 => while let Some(acknowledged) = arrivals.poll_ack() {
                        let (first, _) = in_flight.pop_front().unwrap();
                        prop_assert_eq!(acknowledged, first);
                        prop_assert!(open.iter().all(|(_, packet)| *packet != first));
                    },
                    _ => {
                        arrivals.lost();
                        for (packet, text) in &in_flight {
                            prop_assert_eq!(arrivals.admit(Some(*packet), true, mark(*text)), Admission::Known);
                        }
                    }
                }
            }
            for (arrival, _) in open {
                arrivals.finish(arrival);
            }
            prop_assert_eq!(acks(&mut arrivals).len(), in_flight.len());
        }
    }
}
