//! What a message asks for becomes work, a question, or a refusal. Pure.

use std::sync::atomic::Ordering;

use protocol::devices::DeviceName;

use super::Bridge;
use crate::devices::mqtt::arrivals::{Arrival, REMEMBERED};
use crate::devices::mqtt::counters::count;
use crate::devices::mqtt::lanes::{Batch, Work};
use crate::devices::mqtt::message::Message;
use crate::devices::mqtt::payload::{self, Malformed, Update};
use crate::devices::mqtt::topic::Outbound;

/// So many questions for the node's devices wait: the answers are large.
const MOST_QUESTIONS: usize = REMEMBERED;
/// So many of them that nobody acknowledges.
const MOST_LOOSE_QUESTIONS: usize = 16;

impl Bridge {
    pub(super) fn twin_update(
        &mut self,
        arrival: Arrival,
        message: &Message,
        (device, update): (&DeviceName, Result<Update, Malformed>),
        now: i64,
    ) {
        let topic = Outbound::TwinUpdateResult(device);
        let update = match update {
            Ok(update) => update,
            Err(malformed) => return self.malformed(arrival, topic, (&message.payload, &malformed), now),
        };
        let event_id = update.event_id.clone();
        if self
            .lanes
            .push(device, Work::Update(Batch::one(arrival, update)))
            .is_err()
        {
            self.no_room(arrival, message, topic, (&event_id, now));
        }
    }

    pub(super) fn twin_get(&mut self, arrival: Arrival, message: &Message, device: &DeviceName, now: i64) {
        let topic = Outbound::TwinGetResult(device);
        match payload::event_id(&message.payload) {
            Ok(event_id) => {
                if self
                    .lanes
                    .push(device, Work::Get(arrival, event_id.clone()))
                    .is_err()
                {
                    self.no_room(arrival, message, topic, (&event_id, now));
                }
            }
            Err(malformed) => self.malformed(arrival, topic, (&message.payload, &malformed), now),
        }
    }

    /// There is no answer for a state that was not taken.
    pub(super) fn state_update(&mut self, arrival: Arrival, message: &Message, device: &DeviceName) {
        let taken = match payload::state(&message.payload) {
            Ok((_, Some(state))) => self.lanes.push(device, Work::State(arrival, state)).is_ok(),
            Ok((_, None)) | Err(_) => false,
        };
        if !taken {
            count(&self.counters.refused);
            self.arrivals.finish(arrival);
        }
    }

    pub(super) fn membership_get(&mut self, arrival: Arrival, message: &Message, now: i64) {
        let most = match message.packet {
            Some(_) => MOST_QUESTIONS,
            None => MOST_LOOSE_QUESTIONS,
        };
        match payload::event_id(&message.payload) {
            Ok(event_id) if self.questions.len() < most => self.questions.push_back((arrival, event_id)),
            Ok(_) => {
                count(&self.counters.dropped_in);
                self.arrivals.finish(arrival);
            }
            Err(malformed) => {
                let node = self.node.clone();
                let topic = Outbound::MembershipGetResult(&node);
                self.malformed(arrival, topic, (&message.payload, &malformed), now);
            }
        }
    }

    fn malformed(
        &mut self,
        arrival: Arrival,
        topic: Outbound<'_>,
        (payload, malformed): (&[u8], &Malformed),
        now: i64,
    ) {
        count(&self.counters.refused);
        let event_id = payload::event_id(payload).unwrap_or_default();
        let payload = payload::failure(&event_id, now, malformed.code(), &malformed.to_string());
        self.answer(arrival, topic, payload);
    }

    /// What wants no acknowledgement gets no answer either: it may come faster than answers leave.
    fn no_room(
        &mut self,
        arrival: Arrival,
        message: &Message,
        topic: Outbound<'_>,
        (event_id, now): (&str, i64),
    ) {
        if message.packet.is_none() {
            return count(&self.counters.dropped_in);
        }
        count(&self.counters.refused);
        let reason = "too many messages of this device wait at the node";
        self.answer(arrival, topic, payload::failure(event_id, now, 500, reason));
    }

    pub(super) fn broker_dropped(&self, payload: &[u8]) {
        let number = std::str::from_utf8(payload)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        if let Some(number) = number {
            self.counters.broker_dropped.store(number, Ordering::Relaxed);
        }
    }
}
