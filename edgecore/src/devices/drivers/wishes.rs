//! The wishes of all devices of one endpoint: which are due to be written.

use std::collections::{BTreeMap, VecDeque};

use protocol::devices::DeviceName;
use tokio::time::Instant;

use super::writing::{Manner, Step, Writing};
use crate::devices::{Observation, Twins};

/// A value that is to be written now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    /// The device.
    pub(crate) device: DeviceName,
    /// The property.
    pub(crate) property: String,
    /// The value.
    pub(crate) value: String,
    /// The wish.
    pub(crate) version: u64,
}

/// What came of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It went out.
    Sent,
    /// The device was reached and would not have it.
    Refused(String),
    /// Nobody was reached: nothing of it went out.
    Unreachable,
    /// It went out as far as is known, and nobody has said whether it came: it may have been carried out.
    Unanswered,
}

/// A property that may be set.
pub(crate) trait Settable {
    /// How it is set; none for one that is only read.
    fn manner(&self) -> Option<Manner>;
}

/// The wishes of all devices of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    devices: BTreeMap<DeviceName, BTreeMap<String, (Manner, Writing)>>,
    timers: BTreeMap<DeviceName, Instant>,
}

/// What a look at one device found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// To be written now; say with [`Wishes::came`] what came of each before the next look.
    pub(crate) due: VecDeque<Due>,
    /// Given up or settled just now: the property, and what the twin is to be told.
    pub(crate) ended: Vec<(String, Observation)>,
}

impl Wishes {
    /// Serves those of these properties of a device that can be set from now on; what is under way goes on.
    pub(crate) fn serve(&mut self, device: &DeviceName, properties: &BTreeMap<String, impl Settable>) {
        let mut before = self.devices.remove(device).unwrap_or_default();
        let after: BTreeMap<_, _> = properties
            .iter()
            .filter_map(|(name, property)| {
                let manner = property.manner()?;
                let writing = before.remove(name).map(|(_, writing)| writing);
                Some((name.clone(), (manner, writing.unwrap_or_default())))
            })
            .collect();
        self.devices.insert(device.clone(), after);
    }

    /// Forgets a device.
    pub(crate) fn forget(&mut self, device: &DeviceName) {
        self.devices.remove(device);
        self.timers.remove(device);
    }

    /// What is due for a device.
    pub(crate) fn look(&mut self, twins: &dyn Twins, device: &DeviceName, now: Instant) -> Found {
        let mut found = Found::default();
        self.timers.remove(device);
        let Some(properties) = self.devices.get_mut(device).filter(|all| !all.is_empty()) else {
            return found;
        };
        let wishes = twins.wishes(device);
        let mut next = None;
        for (property, (manner, writing)) in properties {
            let wish = wishes.get(property);
            match writing.next(wish, *manner, now) {
                Step::Write(value) => found.due.push_back(Due {
                    device: device.clone(),
                    property: property.clone(),
                    value,
                    version: wish.map_or(0, |wish| wish.version),
                }),
                Step::GiveUp { version, why } => {
                    let given_up = Observation::GivenUp { version, why };
                    found.ended.push((property.clone(), given_up));
                }
                Step::Settle { version } => {
                    let settled = Observation::Settled { version };
                    found.ended.push((property.clone(), settled));
                }
                Step::Wait(until) => next = earlier(next, until),
            }
        }
        // What is due now is looked at again at once, for its next step.
        if !found.due.is_empty() {
            next = Some(now);
        }
        if let Some(next) = next {
            self.timers.insert(device.clone(), next);
        }
        found
    }

    /// What came of a write.
    pub(crate) fn came(&mut self, due: &Due, outcome: Outcome, now: Instant) {
        if let Some(writing) = self.writing(due) {
            match outcome {
                Outcome::Sent => writing.sent(now),
                Outcome::Refused(why) => writing.refused(why, now),
                Outcome::Unreachable => writing.unreachable(now),
                Outcome::Unanswered => writing.unanswered(now),
            }
        }
    }

    /// What went out without an answer has come after all.
    pub(crate) fn arrived(&mut self, due: &Due, now: Instant) {
        if let Some(writing) = self.writing(due) {
            writing.arrived(due.version, now);
        }
    }

    /// What went out without an answer was refused after all.
    pub(crate) fn turned_away(&mut self, due: &Due, why: String, now: Instant) {
        if let Some(writing) = self.writing(due) {
            writing.turned_away(due.version, why, now);
        }
    }

    fn writing(&mut self, due: &Due) -> Option<&mut Writing> {
        let properties = self.devices.get_mut(&due.device)?;
        properties.get_mut(&due.property).map(|(_, writing)| writing)
    }

    /// The devices can be reached again: what waited for that is due.
    pub(crate) fn reachable(&mut self, now: Instant) {
        for (device, properties) in &mut self.devices {
            for (_, writing) in properties.values_mut() {
                writing.reachable(now);
            }
            self.timers.insert(device.clone(), now);
        }
    }

    /// The device has answered what was read.
    pub(crate) fn answers(&mut self, device: &DeviceName, now: Instant) {
        let properties = self.devices.get_mut(device).into_iter();
        for (_, writing) in properties.flat_map(BTreeMap::values_mut) {
            writing.answers(now);
        }
    }

    /// Whether a property was written and has yet to say so.
    pub(crate) fn is_awaited(&self, device: &DeviceName, property: &str) -> bool {
        let properties = self.devices.get(device);
        let found = properties.and_then(|properties| properties.get(property));
        found.is_some_and(|(_, writing)| writing.is_awaited())
    }

    /// Every device that is served.
    pub(crate) fn devices(&self) -> Vec<DeviceName> {
        self.devices.keys().cloned().collect()
    }

    /// The devices whose time has come.
    pub(crate) fn ripe(&self, now: Instant) -> Vec<DeviceName> {
        let ripe = self.timers.iter().filter(|(_, at)| **at <= now);
        ripe.map(|(device, _)| device.clone()).collect()
    }

    /// When to look next, if nothing else happens.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.timers.values().min().copied()
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::fake::FakeTwins;
    use super::*;

    const MANNER: Manner = Manner {
        confirm_timeout: Duration::from_secs(30),
        enforce: false,
    };

    struct Property(Option<Manner>);

    impl Settable for Property {
        fn manner(&self) -> Option<Manner> {
            self.0
        }
    }

    #[test]
    fn a_wish_in_doubt_of_which_nothing_went_out_is_told_to_be_settled() {
        let (twins, device, now) = (FakeTwins::new(), DeviceName::new("hall", "lamp"), Instant::now());
        let mut wishes = Wishes::default();
        let properties = BTreeMap::from([("power".to_owned(), Property(Some(MANNER)))]);
        wishes.serve(&device, &properties);
        twins.wish(&device, "power", "ON", 1);
        let due = wishes.look(twins.as_ref(), &device, now).due.pop_front().unwrap();
        wishes.came(&due, Outcome::Refused("no".to_owned()), now);
        let end = now + MANNER.confirm_timeout;
        assert_eq!(
            wishes.look(twins.as_ref(), &device, end).ended.len(),
            1,
            "given up"
        );
        twins.doubt(&device, "power");
        let settled = Observation::Settled { version: 1 };
        let found = wishes.look(twins.as_ref(), &device, end);
        assert_eq!(found.ended, [("power".to_owned(), settled)]);
    }

    #[test]
    fn a_changed_setting_of_a_device_does_not_write_its_wishes_again() {
        let (twins, device, now) = (FakeTwins::new(), DeviceName::new("hall", "lamp"), Instant::now());
        let power = |seconds| {
            let manner = Manner {
                confirm_timeout: Duration::from_secs(seconds),
                ..MANNER
            };
            let properties = [("power", Some(manner)), ("read", None)];
            BTreeMap::from(properties.map(|(name, manner)| (name.to_owned(), Property(manner))))
        };
        twins.wish(&device, "power", "ON", 1);
        let mut wishes = Wishes::default();
        wishes.serve(&device, &power(30));
        let due = wishes.look(twins.as_ref(), &device, now).due.pop_front().unwrap();
        assert_eq!((due.property.as_str(), due.value.as_str()), ("power", "ON"));
        wishes.came(&due, Outcome::Sent, now);
        wishes.serve(&device, &power(60));
        assert_eq!(wishes.look(twins.as_ref(), &device, now), Found::default());
        assert_eq!(wishes.next(), Some(now + Duration::from_secs(2)));
        let ripe = now + Duration::from_secs(2);
        assert_eq!(wishes.ripe(ripe), std::slice::from_ref(&device));
        assert_eq!(wishes.look(twins.as_ref(), &device, ripe).due.len(), 1);
    }
}
