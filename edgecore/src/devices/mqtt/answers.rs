//! What became of a job, and who is told. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use protocol::devices::{DeviceName, DeviceState};

use super::arrivals::Arrival;
use super::outbox::Outgoing;
use super::payload;
use super::topic::Outbound;
use crate::devices::{Origin, Refused, Standing, Told, TwinView};

/// What a packet has beside its topic and its payload, generously.
pub(super) const PACKET_OVERHEAD: usize = 32;

/// A job that was done: what became of each message of it.
#[derive(Clone, Debug)]
pub(super) struct Done {
    /// Whose it was.
    pub(super) device: DeviceName,
    /// Of each message.
    pub(super) outcomes: Vec<(Arrival, Outcome)>,
}

/// What became of a message.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// An update with this mark, which named these properties. Messages that became one share what
    /// was told.
    Reported {
        /// The sender's mark.
        event_id: String,
        /// What the message named.
        properties: Vec<String>,
        /// What the device should be by now; none while a later message shares what was told.
        wishes: Option<Wishes>,
        /// What was told.
        told: Arc<Told>,
    },
    /// An update with this mark was not taken.
    Refused(String, Refused),
    /// How a device is, what it should be, and what of that it is not.
    Stated(DeviceState, Result<Standing, Refused>, Wishes),
    /// The twin that was asked for with this mark, if there is such a device, and the wishes.
    Got(String, Option<BTreeMap<String, TwinView>>, Wishes),
}

/// What a device should be. It is asked for when it is told, and not taken from the report that it
/// follows from: reports of clients and of others come on two ways, and the older wish must not be
/// told last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// Every property that anybody has a wish for.
    pub(super) wished: BTreeMap<String, TwinView>,
    /// What of that is not met: name to wanted value.
    pub(super) delta: BTreeMap<String, String>,
}

impl Outcome {
    /// Whether something was not taken.
    pub(super) const fn is_refusal(&self) -> bool {
        match self {
            Self::Refused(..) | Self::Stated(_, Err(_), _) | Self::Got(_, None, _) => true,
            Self::Reported { .. } | Self::Stated(..) | Self::Got(..) => false,
        }
    }
}

/// Who is told what of an outcome. The one that answers the message is the result.
pub(super) fn of(device: &DeviceName, arrival: Arrival, outcome: &Outcome, now: i64) -> Vec<Outgoing> {
    match outcome {
        Outcome::Reported {
            event_id,
            properties,
            wishes,
            told,
        } => {
            let mut answered = of_report((arrival, event_id), properties, told);
            answered.extend(wishes.as_ref().and_then(|wishes| delta(device, wishes, now)));
            answered
        }
        Outcome::Refused(event_id, refused) => {
            let payload = payload::failure(event_id, now, code(refused), &refused.to_string());
            vec![message(
                Outbound::TwinUpdateResult(device),
                payload,
                Some(arrival),
            )]
        }
        Outcome::Stated(_, Err(_), _) => Vec::new(),
        Outcome::Stated(state, Ok(standing), wishes) => {
            let standing = (standing.state, standing.last_online);
            let payload = payload::state_result(&fresh(), now, device, standing);
            let result = message(Outbound::StateUpdateResult(device), payload, None);
            let delta = delta(device, wishes, now).filter(|_| has_come(*state));
            std::iter::once(result).chain(delta).collect()
        }
        Outcome::Got(event_id, twin, wishes) => {
            let payload = twin.as_ref().map_or_else(
                || {
                    let refused = Refused::UnknownDevice(device.clone());
                    payload::failure(event_id, now, code(&refused), &refused.to_string())
                },
                |twin| {
                    let twin = twin.iter().map(|(name, view)| (name.as_str(), view));
                    payload::result(event_id, now, twin)
                },
            );
            let result = message(Outbound::TwinGetResult(device), payload, None);
            std::iter::once(result)
                .chain(delta(device, wishes, now))
                .collect()
        }
    }
}

/// What is published of what mappers, drivers and the node itself said.
pub(super) fn of_others(told: &Told, wishes: &Wishes) -> Vec<Outgoing> {
    let names: Vec<String> = told.changes.keys().cloned().collect();
    let mut all = Vec::new();
    if !names.is_empty() {
        all = of_report((0, &told.event_id), &names, told);
        // A mapper's report appears as one of MQTT would; of the others there is no update that
        // the result would be of.
        if told.origin != Origin::Mapper {
            all.remove(0);
        }
        for outgoing in &mut all {
            outgoing.answers = None;
        }
    }
    all.extend(delta(&told.device, wishes, told.timestamp));
    all
}

/// What is sent in place of a message that the broker would not take; nothing in place of a
/// document or a delta.
pub(super) fn instead(outgoing: &Outgoing, now: i64) -> Option<Bytes> {
    let event_id = payload::event_id(&outgoing.payload).unwrap_or_default();
    if outgoing.topic.ends_with("/twin/update/result") {
        // The update was taken, or refused for a reason that is short.
        return Some(payload::result(&event_id, now, std::iter::empty()));
    }
    outgoing.topic.ends_with("/result").then(|| {
        let reason = format!(
            "the answer has {} bytes, more than the broker takes",
            outgoing.payload.len()
        );
        payload::failure(&event_id, now, 413, &reason)
    })
}

fn of_report((arrival, event_id): (Arrival, &str), names: &[String], told: &Told) -> Vec<Outgoing> {
    let changes = || {
        names
            .iter()
            .filter_map(|name| Some((name.as_str(), told.changes.get(name)?)))
    };
    let twin = changes().filter_map(|(name, change)| Some((name, change.current.as_ref()?)));
    let result = payload::result(event_id, told.timestamp, twin);
    let document = payload::document(event_id, told.timestamp, changes());
    vec![
        message(Outbound::TwinUpdateResult(&told.device), result, Some(arrival)),
        message(Outbound::TwinUpdateDocument(&told.device), document, None),
    ]
}

/// Says what a device should be and is not, if there is anything.
pub(super) fn delta(device: &DeviceName, wishes: &Wishes, now: i64) -> Option<Outgoing> {
    if wishes.delta.is_empty() {
        return None;
    }
    let payload = payload::delta(&fresh(), now, &wishes.wished, &wishes.delta);
    Some(message(Outbound::TwinUpdateDelta(device), payload, None))
}

/// Whether a device that says this has just come, and wants to hear what it missed.
const fn has_come(state: DeviceState) -> bool {
    matches!(state, DeviceState::Ok | DeviceState::Online)
}

/// A mark that no other message has, in the form of a UUID.
pub(super) fn fresh() -> String {
    let [a, b, c, d] = std::array::from_fn(|_| rand::random::<u32>());
    format!(
        "{a:08x}-{:04x}-4{:03x}-{:04x}-{:04x}{d:08x}",
        b >> 16,
        b & 0xfff,
        (c >> 16) & 0x3fff | 0x8000,
        c & 0xffff
    )
}

fn message(topic: Outbound<'_>, payload: Bytes, answers: Option<Arrival>) -> Outgoing {
    Outgoing {
        topic: topic.topic(),
        payload,
        answers,
    }
}

const fn code(refused: &Refused) -> u16 {
    match refused {
        Refused::BadWish { .. } => 400,
        Refused::UnknownDevice(_) => 404,
        Refused::TooLarge { .. } => 413,
        Refused::Unavailable(_) => 500,
    }
}
