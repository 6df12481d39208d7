//! From a message to what it says of which devices. Pure.
//!
//! A topic may tell of many properties, and of many devices behind one gateway: it is subscribed and
//! its payload parsed once.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::devices::DeviceName;

use super::config::{Availability, Property, Settled, Source};
use crate::devices::drivers::driver::Units;
use crate::devices::drivers::extract::Payload;
use crate::devices::{Clue, Observation};

/// Who listens to which topic.
#[derive(Default)]
pub(crate) struct Routes(BTreeMap<String, Vec<Listener>>);

struct Listener {
    device: DeviceName,
    settled: Arc<Settled>,
    /// The property and which of its sources; none for the availability.
    place: Option<(String, usize)>,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Heard {
    /// A property of a device was seen.
    Seen {
        /// The device.
        device: DeviceName,
        /// The property.
        property: String,
        /// What of it.
        observation: Observation,
        /// The device's own time.
        clue: Clue,
    },
    /// A device says that it is there, or that it is not.
    Present(DeviceName, bool),
}

impl Routes {
    /// The routes of these devices.
    pub(crate) fn new(units: &Units<Settled>) -> Self {
        let mut routes = Self::default();
        for (device, unit) in units.iter() {
            let mut add = |topic: &str, place| {
                routes.0.entry(topic.to_owned()).or_default().push(Listener {
                    device: device.clone(),
                    settled: Arc::clone(&unit.settings),
                    place,
                });
            };
            // First, so that a device that speaks on one topic alone is there when its values come.
            if let Some(availability) = &unit.settings.availability {
                add(&availability.topic, None);
            }
            for (name, property) in &unit.settings.properties {
                for (index, source) in property.sources.iter().enumerate() {
                    add(&source.topic, Some((name.clone(), index)));
                }
            }
        }
        routes
    }

    /// Every topic, and whether it tells of availability: then its retained message is wanted at
    /// every subscription.
    pub(crate) fn topics(&self) -> impl Iterator<Item = (&str, bool)> {
        self.0.iter().map(|(topic, listeners)| {
            let availability = listeners.iter().any(|listener| listener.place.is_none());
            (topic.as_str(), availability)
        })
    }

    /// What a message says, or why it cannot be read; none if nobody listens to its topic.
    pub(crate) fn decode(
        &self,
        topic: &str,
        payload: &Result<Payload<'_>, String>,
        retained: bool,
    ) -> Option<Vec<Heard>> {
        let listeners = self.0.get(topic)?;
        let heard = listeners
            .iter()
            .filter_map(|listener| listener.hear(payload, retained));
        Some(heard.collect())
    }
}

impl Listener {
    fn hear(&self, payload: &Result<Payload<'_>, String>, retained: bool) -> Option<Heard> {
        let device = self.device.clone();
        let Some((name, index)) = &self.place else {
            let present = self.settled.availability.as_ref()?.hear(payload)?;
            return Some(Heard::Present(device, present));
        };
        let property = self.settled.properties.get(name)?;
        let source = property.sources.get(*index)?;
        let value = match payload {
            Ok(payload) => property.value(source, payload),
            Err(why) => Err(why.clone()),
        };
        let observation = match (value, retained) {
            (Ok(Some(value)), false) => Observation::Value(value),
            (Ok(Some(value)), true) => Observation::Retained(value),
            (Err(why), false) => Observation::Fault(format!("{}: {why}", source.topic)),
            // A retained fault is old news: it must not spoil a value that is held.
            (Ok(None), _) | (Err(_), true) => return None,
        };
        let clue = payload.as_ref().ok().map(|payload| source.clue(payload));
        Some(Heard::Seen {
            device,
            property: name.clone(),
            observation,
            clue: clue.unwrap_or_default(),
        })
    }
}

impl Availability {
    fn hear(&self, payload: &Result<Payload<'_>, String>) -> Option<bool> {
        let text = self.find.text(payload.as_ref().ok()?).ok()??;
        if text == self.online {
            return Some(true);
        }
        (text == self.offline).then_some(false)
    }
}

impl Property {
    fn value(&self, source: &Source, payload: &Payload<'_>) -> Result<Option<String>, String> {
        match source.find.text(payload)? {
            Some(text) => self.shape.value(&text),
            None => Ok(None),
        }
    }
}

impl Source {
    fn clue(&self, payload: &Payload<'_>) -> Clue {
        let time = self.time.as_ref().and_then(|path| payload.at(path));
        Clue {
            device_timestamp: time,
            ..Clue::default()
        }
    }
}

#[cfg(test)]
mod tests;
