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
/// How many properties one has, so that finding each stays cheap.
const MOST_PROPERTIES: usize = 128;
/// How many bytes one device may have waiting.
const MOST_OF_DEVICE: usize = 4 << 20;
/// How many bytes all may have waiting.
const MOST: usize = 32 << 20;
/// What a message costs beside its texts.
const OVERHEAD: usize = 64;

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
        let room =
            self.messages.len() < MOST_MEMBERS && self.seen.len() + newer.seen.len() <= MOST_PROPERTIES;
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
        Observation::Dropped => 0,
    };
    let clue = [&seen.clue.device_timestamp, &seen.clue.type_];
    let clue: usize = clue
        .into_iter()
        .map(|text| text.as_ref().map_or(0, String::len))
        .sum();
    OVERHEAD + seen.property.len() + text + clue
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::Clue;

    fn update(event_id: &str, values: &[(&str, Observation)]) -> Update {
        let seen = values.iter().map(|(property, observation)| Seen {
            property: (*property).to_owned(),
            observation: observation.clone(),
            clue: Clue::default(),
        });
        Update {
            event_id: event_id.to_owned(),
            timestamp: None,
            seen: seen.collect(),
        }
    }

    fn value(text: &str) -> Observation {
        Observation::Value(text.to_owned())
    }

    fn batch(arrival: Arrival, values: &[(&str, Observation)]) -> Work {
        Work::Update(Batch::one(arrival, update("e", values)))
    }

    fn next(lanes: &mut Lanes) -> (Vec<Arrival>, Vec<(String, Observation)>) {
        let Some(Job {
            work: Work::Update(batch),
            ..
        }) = lanes.next()
        else {
            panic!("no update is due");
        };
        let arrivals = batch.messages.iter().map(|message| message.arrival).collect();
        let seen = batch
            .seen
            .into_iter()
            .map(|seen| (seen.property, seen.observation));
        (arrivals, seen.collect())
    }

    fn lamp() -> DeviceName {
        DeviceName::new("hall", "lamp")
    }

    #[test]
    fn while_a_device_is_busy_its_newest_values_wait_as_one() {
        let mut lanes = Lanes::default();
        lanes.push(&lamp(), batch(1, &[("a", value("1"))])).unwrap();
        assert_eq!(next(&mut lanes).0, [1]);
        for (arrival, property, text) in [(2, "a", "2"), (3, "b", "3"), (4, "a", "4")] {
            lanes
                .push(&lamp(), batch(arrival, &[(property, value(text))]))
                .unwrap();
        }
        assert_eq!(lanes.next(), None, "one thing of a device at a time");
        lanes.done(&lamp());
        let (arrivals, seen) = next(&mut lanes);
        assert_eq!(arrivals, [2, 3, 4]);
        assert_eq!(seen, [("a".to_owned(), value("4")), ("b".to_owned(), value("3"))]);
        lanes.done(&lamp());
        assert!(lanes.is_empty());
        assert_eq!(lanes.bytes, 0);
    }

    #[test]
    fn wishes_states_and_questions_keep_their_place() {
        let mut lanes = Lanes::default();
        let wish = Observation::Wished("9".to_owned());
        lanes.push(&lamp(), batch(1, &[("a", value("1"))])).unwrap();
        lanes.push(&lamp(), batch(2, &[("a", wish)])).unwrap();
        lanes.push(&lamp(), batch(3, &[("a", value("3"))])).unwrap();
        lanes.push(&lamp(), Work::Get(4, "q".to_owned())).unwrap();
        lanes.push(&lamp(), batch(5, &[("a", value("5"))])).unwrap();
        let mut order = Vec::new();
        while let Some(Job { work, device }) = lanes.next() {
            order.push(match work {
                Work::Update(batch) => batch.messages[0].arrival,
                Work::State(arrival, _) | Work::Get(arrival, _) => arrival,
            });
            lanes.done(&device);
        }
        assert_eq!(order, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_device_that_floods_is_stopped_and_the_others_go_on() {
        let mut lanes = Lanes::default();
        let large = value(&"x".repeat(60_000));
        let mut taken = 0;
        while lanes.push(&lamp(), batch(1, &[("a", large.clone())])).is_ok() {
            taken += 1;
        }
        assert!((60..80).contains(&taken), "{taken}");
        let other = DeviceName::new("hall", "pump");
        lanes.push(&other, batch(2, &[("a", value("1"))])).unwrap();
        let first = lanes.next().unwrap();
        assert_eq!(first.device, lamp());
        assert_eq!(lanes.next().unwrap().device, other);
        lanes.done(&lamp());
        lanes.push(&lamp(), batch(3, &[("a", value("1"))])).unwrap();
    }

    #[test]
    fn small_values_said_over_and_over_take_no_more_room_than_their_answers() {
        let mut lanes = Lanes::default();
        lanes.push(&lamp(), batch(0, &[("a", value("first"))])).unwrap();
        lanes.next().unwrap();
        for arrival in 1..=4000 {
            lanes
                .push(&lamp(), batch(arrival, &[("a", value(&"x".repeat(2000)))]))
                .unwrap();
        }
        assert!(lanes.bytes < 1 << 20, "{}", lanes.bytes);
        while let Some(job) = {
            lanes.done(&lamp());
            lanes.next()
        } {
            drop(job);
        }
        assert_eq!(lanes.bytes, 0);
    }
}
