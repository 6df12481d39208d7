//! What waits to be done, one lane for each device. Pure.
//!
//! One thing of a device is done at a time, in order; those of different devices at once. While a
//! lane waits, small updates in it become one: of each property the newest value stays, and every
//! message still gets its own answer.
//!
//! **Invariant:** what is held is bounded, for one device and for all.

use std::collections::{HashMap, VecDeque};

use protocol::devices::{DeviceName, DeviceState};

use super::arrivals::Arrival;
use super::payload::Update;
use crate::devices::{Observation, Seen};

/// The largest message that becomes one with others: a large value may be refused by itself.
const MOST_MERGED: usize = 16 << 10;
/// How many messages become one.
const MOST_MEMBERS: usize = 1024;
/// How large their answers are together, each with all values at the worst.
const MOST_ANSWERED: usize = 4 << 20;
/// How many properties one has, so that finding each stays cheap.
const MOST_PROPERTIES: usize = 128;
/// How many bytes one device may have waiting.
const MOST_OF_DEVICE: usize = 4 << 20;
/// How many bytes all may have waiting.
const MOST: usize = 32 << 20;
/// What a message costs beside its texts.
const OVERHEAD: usize = 128;

/// A message that is part of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// Its number.
    pub(super) arrival: Arrival,
    /// Its sender's mark.
    pub(super) event_id: String,
    /// The properties that it named.
    pub(super) properties: Vec<String>,
}

/// One or more messages whose values are taken at once.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Batch {
    /// The messages, in order.
    pub(super) messages: Vec<Message>,
    /// The newest of each property.
    pub(super) seen: Vec<Seen>,
    merges: bool,
}

/// Something to be done for a device.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Work {
    /// Values, or wishes.
    Update(Batch),
    /// How it is.
    State(Arrival, DeviceState),
    /// Somebody asks for the twin, with this mark.
    Get(Arrival, String),
}

/// A device's work that is due.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Job {
    /// Whose.
    pub(super) device: DeviceName,
    /// What.
    pub(super) work: Work,
}

/// There is no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Work>,
    busy: bool,
    bytes: usize,
}

/// All lanes.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    of_devices: HashMap<DeviceName, Lane>,
    ready: VecDeque<DeviceName>,
    bytes: usize,
}

impl Batch {
    /// One message.
    pub(super) fn one(arrival: Arrival, update: Update) -> Self {
        let Update { event_id, seen, .. } = update;
        let bytes: usize = seen.iter().map(cost_of_seen).sum();
        let values_alone = seen
            .iter()
            .all(|seen| matches!(seen.observation, Observation::Value(_)));
        let properties = seen.iter().map(|seen| seen.property.clone()).collect();
        let message = Message {
            arrival,
            event_id,
            properties,
        };
        Self {
            // A wish may be refused, and then its own message alone.
            merges: values_alone && bytes <= MOST_MERGED && seen.len() <= MOST_PROPERTIES,
            messages: vec![message],
            seen,
        }
    }

    /// What one message of it says, each property as it is newest.
    pub(super) fn of(&self, message: &Message) -> Vec<Seen> {
        self.seen
            .iter()
            .filter(|seen| message.properties.contains(&seen.property))
            .cloned()
            .collect()
    }

    fn cost(&self) -> usize {
        let messages: usize = self.messages.iter().map(cost_of_message).sum();
        messages + self.seen.iter().map(cost_of_seen).sum::<usize>()
    }

    /// Takes another in, if both may be one.
    fn merge(&mut self, newer: Self) -> Result<(), Self> {
        let stays = |held: &&Seen| newer.seen.iter().all(|seen| seen.property != held.property);
        let stay = self.seen.iter().filter(stays).map(cost_of_seen).sum::<usize>();
        let values = stay + newer.seen.iter().map(cost_of_seen).sum::<usize>();
        let room = self.messages.len() < MOST_MEMBERS
            && self.seen.len() + newer.seen.len() <= MOST_PROPERTIES
            && (self.messages.len() + 1) * values <= MOST_ANSWERED;
        if !self.merges || !newer.merges || !room {
            return Err(newer);
        }
        self.messages.extend(newer.messages);
        for seen in newer.seen {
            match self.seen.iter_mut().find(|held| held.property == seen.property) {
                Some(held) => *held = seen,
                None => self.seen.push(seen),
            }
        }
        Ok(())
    }
}

impl Work {
    fn cost(&self) -> usize {
        match self {
            Self::Update(batch) => batch.cost(),
            Self::State(..) => OVERHEAD,
            Self::Get(_, event_id) => OVERHEAD + event_id.len(),
        }
    }
}

impl Lanes {
    /// Puts work at the end of a device's lane.
    pub(super) fn push(&mut self, device: &DeviceName, work: Work) -> Result<(), Full> {
        let cost = work.cost();
        let held = self.of_devices.get(device).map_or(0, |lane| lane.bytes);
        if held + cost > MOST_OF_DEVICE || self.bytes + cost > MOST {
            return Err(Full);
        }
        if !self.of_devices.contains_key(device) {
            self.of_devices.insert(device.clone(), Lane::default());
        }
        let Some(lane) = self.of_devices.get_mut(device) else {
            return Err(Full);
        };
        if lane.waiting.is_empty() && !lane.busy {
            self.ready.push_back(device.clone());
        }
        lane.bytes += cost;
        self.bytes += cost;
        let freed = lane.append(work);
        lane.bytes -= freed;
        self.bytes -= freed;
        Ok(())
    }

    /// The next work whose turn it is; its device is busy until [`done`](Self::done).
    pub(super) fn next(&mut self) -> Option<Job> {
        let device = self.ready.pop_front()?;
        let lane = self.of_devices.get_mut(&device)?;
        let work = lane.waiting.pop_front()?;
        lane.busy = true;
        let cost = work.cost();
        lane.bytes = lane.bytes.saturating_sub(cost);
        self.bytes = self.bytes.saturating_sub(cost);
        Some(Job { device, work })
    }

    /// Whether half of what one device or all may hold is there.
    pub(super) fn is_filling(&self) -> bool {
        let is_filling = |lane: &Lane| lane.bytes > MOST_OF_DEVICE / 2;
        self.bytes > MOST / 2 || self.of_devices.values().any(is_filling)
    }

    /// The work of a device was done.
    pub(super) fn done(&mut self, device: &DeviceName) {
        let Some(lane) = self.of_devices.get_mut(device) else {
            return;
        };
        lane.busy = false;
        if lane.waiting.is_empty() {
            self.of_devices.remove(device);
        } else {
            self.ready.push_back(device.clone());
        }
    }

    /// Whether nothing waits and nothing is being done.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.of_devices.is_empty()
    }
}

impl Lane {
    /// Returns what the older values cost that newer ones replaced.
    fn append(&mut self, work: Work) -> usize {
        let (Work::Update(newer), Some(Work::Update(last))) = (&work, self.waiting.back_mut()) else {
            self.waiting.push_back(work);
            return 0;
        };
        let replaced: usize = last
            .seen
            .iter()
            .filter(|held| newer.seen.iter().any(|seen| seen.property == held.property))
            .map(cost_of_seen)
            .sum();
        let Work::Update(newer) = work else { return 0 };
        match last.merge(newer) {
            Ok(()) => replaced,
            Err(newer) => {
                self.waiting.push_back(Work::Update(newer));
                0
            }
        }
    }
}

fn cost_of_message(message: &Message) -> usize {
    let names: usize = message
        .properties
        .iter()
        .map(|name| name.len() + size_of::<String>())
        .sum();
    OVERHEAD + message.event_id.len() + names
}

fn cost_of_seen(seen: &Seen) -> usize {
    let text = match &seen.observation {
        Observation::Value(text)
        | Observation::Fault(text)
        | Observation::Retained(text)
        | Observation::Wished(text) => text.len(),
        Observation::GivenUp { why, .. } => why.len(),
        Observation::Settled { .. } | Observation::Dropped => 0,
    };
    let clue = [&seen.clue.device_timestamp, &seen.clue.type_];
    let clue: usize = clue
        .into_iter()
        .map(|text| text.as_ref().map_or(0, String::len))
        .sum();
    OVERHEAD + seen.property.len() + text + clue
}

#[cfg(test)]
mod tests;
