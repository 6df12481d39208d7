//! What is to be published, and what was published and is not acknowledged yet. Pure.
//!
//! ```text
//! push ──► waiting ──next──► handed over ──sent──► in flight ──acknowledged, refused──► gone
//!             ▲                                        │
//!             └──────────────── lost ──────────────────┘
//! ```
//!
//! **Invariant:** an answer stays until the broker has acknowledged or refused it; everything else may be
//! dropped when there is no room, and is counted by the caller.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::arrivals::Arrival;

/// So many messages wait before new work is put off.
const CROWDED: usize = 4096;
/// So many bytes.
const CROWDED_BYTES: usize = 8 << 20;
/// What answers no one is dropped beyond this many times what makes it crowded.
const OVERFULL: usize = 2;

/// A message to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    /// Where to.
    pub(super) topic: String,
    /// What.
    pub(super) payload: Bytes,
    /// The message that it answers: done once this is acknowledged.
    pub(super) answers: Option<Arrival>,
}

/// Everything on its way out.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    number: u64,
    waiting: VecDeque<(u64, Outgoing)>,
    handed_over: VecDeque<(u64, Outgoing)>,
    in_flight: HashMap<u16, (u64, Outgoing)>,
    bytes: usize,
}

impl Outbox {
    /// Puts a message at the end; false if there was no room for one that answers nothing.
    pub(super) fn push(&mut self, outgoing: Outgoing) -> bool {
        let full = self.waiting.len() >= OVERFULL * CROWDED || self.bytes >= OVERFULL * CROWDED_BYTES;
        if full && outgoing.answers.is_none() {
            return false;
        }
        self.bytes += outgoing.payload.len();
        self.number += 1;
        self.waiting.push_back((self.number, outgoing));
        true
    }

    /// Whether so much waits that new work had better wait too.
    pub(super) fn is_crowded(&self) -> bool {
        self.waiting.len() >= CROWDED || self.bytes >= CROWDED_BYTES
    }

    /// Whether what nobody waits for had better not be said.
    pub(super) fn is_filling(&self) -> bool {
        self.waiting.len() >= CROWDED / 2 || self.bytes >= CROWDED_BYTES / 2
    }

    /// The message that would be handed over next.
    pub(super) fn peek(&self) -> Option<&Outgoing> {
        self.waiting.front().map(|(_, outgoing)| outgoing)
    }

    /// Gives that message another payload, or takes it away; returns what is not answered then.
    pub(super) fn replace(&mut self, payload: Option<Bytes>) -> Option<Arrival> {
        let (number, mut outgoing) = self.waiting.pop_front()?;
        self.bytes -= outgoing.payload.len();
        let Some(payload) = payload else {
            return outgoing.answers;
        };
        self.bytes += payload.len();
        outgoing.payload = payload;
        self.waiting.push_front((number, outgoing));
        None
    }

    /// The next message to be handed to the connection.
    pub(super) fn next(&mut self) -> Option<Outgoing> {
        let (number, outgoing) = self.waiting.pop_front()?;
        self.handed_over.push_back((number, outgoing.clone()));
        Some(outgoing)
    }

    /// The oldest one that was handed over went out under this number.
    pub(super) fn sent(&mut self, packet: u16) {
        if let Some(sent) = self.handed_over.pop_front() {
            self.in_flight.insert(packet, sent);
        }
    }

    /// The broker has it; returns the message that it answers.
    pub(super) fn acknowledged(&mut self, packet: u16) -> Option<Arrival> {
        self.refused(packet)?.answers
    }

    /// The broker will not have it, and would not the next time; returns it.
    pub(super) fn refused(&mut self, packet: u16) -> Option<Outgoing> {
        let (_, outgoing) = self.in_flight.remove(&packet)?;
        self.bytes -= outgoing.payload.len();
        Some(outgoing)
    }

    /// The connection is gone: what was not acknowledged is to be sent again, before the rest.
    pub(super) fn lost(&mut self) {
        let mut again: Vec<_> = self.in_flight.drain().map(|(_, sent)| sent).collect();
        again.extend(self.handed_over.drain(..));
        again.sort_unstable_by_key(|(number, _)| *number);
        for entry in again.into_iter().rev() {
            self.waiting.push_front(entry);
        }
    }

    /// How many bytes are on their way.
    #[cfg(test)]
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is on its way.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.handed_over.is_empty() && self.in_flight.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(topic: &str, answers: Option<Arrival>) -> Outgoing {
        Outgoing {
            topic: topic.to_owned(),
            payload: Bytes::from_static(b"payload"),
            answers,
        }
    }

    fn topics(outbox: &mut Outbox) -> Vec<String> {
        std::iter::from_fn(|| outbox.next())
            .map(|outgoing| outgoing.topic)
            .collect()
    }

    #[test]
    fn what_was_not_acknowledged_is_sent_again_in_its_old_order() {
        let mut outbox = Outbox::default();
        for (topic, answers) in [("a", Some(1)), ("b", None), ("c", Some(3)), ("d", None)] {
            assert!(outbox.push(message(topic, answers)));
        }
        for packet in 1..=3 {
            outbox.next();
            outbox.sent(packet);
        }
        assert_eq!(outbox.acknowledged(2), None);
        assert_eq!(outbox.acknowledged(1), Some(1));
        assert_eq!(outbox.acknowledged(1), None, "once");
        outbox.lost();
        assert_eq!(topics(&mut outbox), ["c", "d"]);
        for packet in [1, 2] {
            outbox.sent(packet);
            outbox.acknowledged(packet);
        }
        assert!(outbox.is_empty());
        assert_eq!(outbox.bytes, 0);
    }

    #[test]
    fn many_in_flight_are_sent_again_in_the_order_of_their_numbers() {
        let mut outbox = Outbox::default();
        let names: Vec<String> = (0..50).map(|number| number.to_string()).collect();
        for (name, packet) in names.iter().zip(1..) {
            outbox.push(message(name, None));
            outbox.next();
            outbox.sent(packet);
        }
        outbox.lost();
        assert_eq!(topics(&mut outbox), names);
    }

    #[test]
    fn without_room_answers_stay_and_the_rest_is_dropped() {
        let mut outbox = Outbox::default();
        while outbox.push(message("document", None)) {}
        assert!(outbox.is_crowded());
        assert!(outbox.push(message("result", Some(1))));
        assert!(!outbox.push(message("document", None)));
    }
}
