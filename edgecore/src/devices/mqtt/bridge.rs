//! What the bridge decides: what a message asks for, and who is told of what became of it. Pure.
//!
//! The shell hands in what the broker delivers and what the twins answer, carries out the jobs, and
//! empties the outbox. Nothing here waits.
//!
//! ```text
//! broker ──message──► arrivals, lanes ──next_job──► twins
//!    ▲                                               │ done
//!    ├──next_outgoing── result, document, delta ◄────┤
//!    └──next_ack─────── once the result is there     └── told: mappers, drivers, the cluster
//! ```
//!
//! **Invariant:** an update is acknowledged only after the twins took or refused it and the broker
//! has acknowledged its result, or would not take it. What is held is bounded, whatever clients send.

mod requests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::vec::IntoIter;

use bytes::Bytes;
use protocol::devices::DeviceName;

use super::answers::{self, Done, Outcome, Wishes};
use super::arrivals::{Admission, Arrival, Arrivals, Mark};
use super::counters::{Counters, count};
use super::lanes::{Job, Lanes};
use super::message::Message;
use super::outbox::{Outbox, Outgoing};
use super::payload::{self, Update};
use super::topic::{Inbound, Outbound};
use crate::devices::{Origin, Told};

/// Everything that is on its way through the bridge.
pub(super) struct Bridge {
    node: String,
    counters: Arc<Counters>,
    arrivals: Arrivals,
    lanes: Lanes,
    outbox: Outbox,
    /// What is told once there is room, in order. Messages that became one may each be answered with
    /// the same large values, so answers are written out one by one.
    due: VecDeque<(DeviceName, IntoIter<(Arrival, Outcome)>)>,
    /// Devices that were not told, for want of a broker or of room, what they should be.
    missed: BTreeSet<DeviceName>,
    /// Questions for the node's devices, with their marks.
    questions: VecDeque<(Arrival, String)>,
    /// The largest message that the broker takes; none while there is no broker.
    largest: Option<usize>,
    /// What an earlier process was given and did not acknowledge comes again first, and some of it
    /// was taken. One after the other it would make values go back to what they were before.
    gathering: bool,
    /// What comes again first may be older than what is known here.
    lost_power: bool,
    /// Whether the broker has refused anything since it was connected to.
    is_refused: bool,
}

impl Bridge {
    /// A bridge with nothing on it.
    pub(super) fn new(node: String, counters: Arc<Counters>) -> Self {
        Self {
            node,
            counters,
            arrivals: Arrivals::default(),
            lanes: Lanes::default(),
            outbox: Outbox::default(),
            due: VecDeque::new(),
            missed: BTreeSet::new(),
            questions: VecDeque::new(),
            largest: None,
            gathering: true,
            lost_power: false,
            is_refused: false,
        }
    }

    /// The power failed since the last process: what the broker delivers again to this one it may have
    /// delivered, and seen acknowledged, after it last saved what it knows. Whoever sent it and had no
    /// answer says it again.
    pub(super) const fn power_was_lost(&mut self) {
        self.lost_power = true;
    }

    /// The node's name.
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// A broker answers, with or without the old session, and takes messages up to this size.
    pub(super) fn connected(&mut self, session_present: bool, largest: usize) {
        if !session_present {
            self.arrivals.forgotten();
            self.gathering = false;
        }
        self.largest = Some(largest);
        self.is_refused = false;
        self.counters.connected.store(true, Ordering::Relaxed);
    }

    /// The broker has answered the subscription of this process: before that it delivers what it has
    /// to deliver again, and all of that is worked on at once.
    pub(super) const fn gathered(&mut self) {
        self.gathering = false;
    }

    /// The broker is gone.
    pub(super) fn lost(&mut self) {
        self.largest = None;
        self.counters.connected.store(false, Ordering::Relaxed);
        self.counters.subscribed.store(false, Ordering::Relaxed);
        self.arrivals.lost();
        self.outbox.lost();
    }

    /// Whether a broker answers.
    pub(super) const fn is_connected(&self) -> bool {
        self.largest.is_some()
    }

    /// A message came.
    pub(super) fn message(&mut self, message: &Message, now: i64) {
        count(&self.counters.messages_in);
        let inbound = Inbound::parse(&message.topic, &self.node);
        let device = match &inbound {
            Some(Inbound::TwinUpdate(device) | Inbound::TwinGet(device) | Inbound::StateUpdate(device)) => {
                Some(device.clone())
            }
            Some(Inbound::MembershipGet | Inbound::BrokerDropped) | None => None,
        };
        let update = match &inbound {
            Some(Inbound::TwinUpdate(_)) if !message.retained && !message.too_large => {
                Some(payload::update(&message.payload))
            }
            Some(_) | None => None,
        };
        let mark = Mark {
            hash: hash(message),
            device,
            said: update.as_ref().and_then(|update| said(update.as_ref().ok()?)),
        };
        let Admission::New(arrival) = self.arrivals.admit(message.packet, message.repeat, mark) else {
            return count(&self.counters.repeats);
        };
        if message.too_large {
            // MQTT 5 does not even deliver it: in both versions it is not answered.
            count(&self.counters.too_large);
            return self.arrivals.finish(arrival);
        }
        if let Some(Inbound::BrokerDropped) = inbound {
            self.broker_dropped(&message.payload);
            return self.arrivals.finish(arrival);
        }
        if message.retained || self.lost_power && self.gathering && message.repeat {
            count(&self.counters.retained_ignored);
            return self.arrivals.finish(arrival);
        }
        match (inbound, update) {
            (Some(Inbound::TwinUpdate(device)), Some(update)) => {
                self.twin_update(arrival, message, (&device, update), now);
            }
            (Some(Inbound::TwinGet(device)), _) => self.twin_get(arrival, message, &device, now),
            (Some(Inbound::StateUpdate(device)), _) => self.state_update(arrival, message, &device),
            (Some(Inbound::MembershipGet), _) => self.membership_get(arrival, message, now),
            (_, _) => self.arrivals.finish(arrival),
        }
    }

    /// The next thing to be done with the twins, unless too much is on its way out already.
    pub(super) fn next_job(&mut self) -> Option<Job> {
        let waits = self.gathering && !self.lanes.is_filling();
        if waits || self.outbox.is_crowded() || !self.due.is_empty() {
            return None;
        }
        self.lanes.next()
    }

    /// A job was done.
    pub(super) fn done(&mut self, done: Done, now: i64) {
        let Done { device, outcomes } = done;
        self.lanes.done(&device);
        self.due.push_back((device, outcomes.into_iter()));
        self.tell(now);
    }

    /// The twins took something that no client of the broker said; and this is what the device should
    /// be by now.
    pub(super) fn told(&mut self, told: &Told, wishes: &Wishes) {
        if told.origin == Origin::Mqtt {
            return;
        }
        // Answers that wait are older.
        let mut is_told = self.is_connected() && self.due.is_empty();
        if is_told {
            for outgoing in answers::of_others(told, wishes) {
                is_told &= self.send(outgoing);
            }
        } else if self.is_connected() {
            count(&self.counters.dropped_out);
        }
        if !is_told {
            self.missed([told.device.clone()]);
        }
    }

    /// These devices may not know what they should be.
    pub(super) fn missed(&mut self, devices: impl IntoIterator<Item = DeviceName>) {
        self.missed.extend(devices);
    }

    /// The next device that may not know what it should be, while there is room to say it.
    pub(super) fn next_missed(&mut self) -> Option<DeviceName> {
        if !self.is_connected() || !self.due.is_empty() || self.outbox.is_filling() {
            return None;
        }
        self.missed.pop_first()
    }

    /// Says what a device should be and is not.
    pub(super) fn remind(&mut self, device: &DeviceName, wishes: &Wishes, now: i64) {
        if let Some(delta) = answers::delta(device, wishes, now) {
            self.send(delta);
        }
    }

    /// The next question for the node's devices, while there is somebody to answer and room for it.
    pub(super) fn next_question(&mut self) -> Option<(Arrival, String)> {
        if !self.is_connected() || self.outbox.is_filling() {
            return None;
        }
        self.questions.pop_front()
    }

    /// Answers a question for the node's devices.
    pub(super) fn membership(&mut self, arrival: Arrival, payload: Bytes) {
        let node = self.node.clone();
        self.answer(arrival, Outbound::MembershipGetResult(&node), payload);
    }

    /// Publishes something; false if there was no room for it.
    pub(super) fn send(&mut self, outgoing: Outgoing) -> bool {
        let is_taken = self.outbox.push(outgoing);
        if !is_taken {
            count(&self.counters.dropped_out);
        }
        is_taken
    }

    /// The next message for the broker; the caller says with [`sent`](Self::sent) how it is numbered.
    pub(super) fn next_outgoing(&mut self, now: i64) -> Option<Outgoing> {
        let largest = self.largest?;
        self.tell(now);
        loop {
            let next = self.outbox.peek()?;
            if next.topic.len() + next.payload.len() + answers::PACKET_OVERHEAD <= largest {
                return self.outbox.next();
            }
            count(&self.counters.dropped_out);
            let room = largest.saturating_sub(next.topic.len() + answers::PACKET_OVERHEAD);
            let instead = answers::instead(next, now).filter(|instead| instead.len() <= room);
            if let Some(arrival) = self.outbox.replace(instead) {
                self.arrivals.finish(arrival);
            }
        }
    }

    /// The number of the next message that may be acknowledged.
    pub(super) fn next_ack(&mut self) -> Option<u16> {
        self.arrivals.poll_ack()
    }

    /// The connection sent the oldest message that it was given, under this number.
    pub(super) fn sent(&mut self, packet: u16) {
        self.outbox.sent(packet);
    }

    /// The broker has what was sent under this number.
    pub(super) fn acknowledged(&mut self, packet: u16) {
        if let Some(arrival) = self.outbox.acknowledged(packet) {
            self.arrivals.finish(arrival);
        }
    }

    /// The broker will not have what was sent under this number. It is not sent again: an ACL refuses it each
    /// time, and an answer that waited for that would hold up the acknowledgements of all that came after its
    /// question. Who asked has no answer, and asks again. Returns the topic, once in a connection.
    pub(super) fn refused(&mut self, packet: u16) -> Option<String> {
        let outgoing = self.outbox.refused(packet)?;
        count(&self.counters.dropped_out);
        if let Some(arrival) = outgoing.answers {
            self.arrivals.finish(arrival);
        }
        (!std::mem::replace(&mut self.is_refused, true)).then_some(outgoing.topic)
    }

    /// Tells what is due, as far as there is room.
    fn tell(&mut self, now: i64) {
        while !self.outbox.is_crowded()
            && let Some((device, mut outcomes)) = self.due.pop_front()
        {
            if let Some((arrival, outcome)) = outcomes.next() {
                self.outcome(&device, arrival, (outcome, now));
                self.due.push_front((device, outcomes));
            }
        }
    }

    fn outcome(&mut self, device: &DeviceName, arrival: Arrival, (outcome, now): (Outcome, i64)) {
        if outcome.is_refusal() {
            count(&self.counters.refused);
        }
        let answered = answers::of(device, arrival, &outcome, now);
        if answered.iter().all(|outgoing| outgoing.answers.is_none()) {
            self.arrivals.finish(arrival);
        }
        for mut outgoing in answered {
            outgoing.answers = outgoing.answers.filter(|_| self.arrivals.is_open(arrival));
            self.send(outgoing);
        }
    }

    /// The broker holds back those who wait for an acknowledgement. Others may ask faster than answers
    /// leave: they are answered while there is room to spare.
    fn answer(&mut self, arrival: Arrival, topic: Outbound<'_>, payload: Bytes) {
        let answers = self.arrivals.is_open(arrival).then_some(arrival);
        if answers.is_none() && self.outbox.is_filling() {
            return count(&self.counters.dropped_out);
        }
        self.send(Outgoing {
            topic: topic.topic(),
            payload,
            answers,
        });
    }
}

fn hash(message: &Message) -> [u8; 16] {
    hash_of(message.topic.as_bytes(), &message.payload)
}

/// By what the sender tells its updates apart, if by anything.
fn said(update: &Update) -> Option<[u8; 16]> {
    let time = update.timestamp.as_deref().unwrap_or_default();
    let is_marked = !update.event_id.is_empty() || !time.is_empty();
    is_marked.then(|| hash_of(update.event_id.as_bytes(), time.as_bytes()))
}

fn hash_of(first: &[u8], second: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(first);
    hasher.update(&[0]);
    hasher.update(second);
    let mut hash = [0; 16];
    hasher.finalize_xof().fill(&mut hash);
    hash
}
