//! How a device is set: what is wished for becomes a message.
//!
//! **Invariant:** a write counts as gone out when the broker has acknowledged it. Until then it may lie in
//! a connection that nobody hears any more; after that it is made again. One that the broker refuses counts
//! as refused by the device.

use protocol::devices::DeviceName;
use tokio::time::Instant;

use super::{TO_TELL, Task};
use crate::devices::drivers::mqtt::config::Property;
use crate::devices::drivers::mqtt::encode::message;
use crate::devices::drivers::mqtt::link::Sent;
use crate::devices::drivers::wishes::{Due, Outcome, Settable};
use crate::devices::drivers::writing::Manner;
use crate::devices::{Clue, Observation};

impl Settable for Property {
    fn manner(&self) -> Option<Manner> {
        self.write.as_ref().map(|_| self.manner)
    }
}

impl Task {
    pub(super) fn look(&mut self, device: &DeviceName) {
        let now = Instant::now();
        let found = self.wishes.look(self.hands.twins.as_ref(), device, now);
        for (property, end) in found.ended {
            self.outgoing.seen(device, &property, end, Clue::default());
        }
        for due in found.due {
            let outcome = self.write(&due);
            self.wishes.came(&due, outcome, now);
        }
    }

    /// Whether a message would reach a device, as far as is known. One that tells whether it is there
    /// has a moment to do so after the broker answered.
    fn reaches(&self, device: &DeviceName) -> bool {
        let Some(up) = self.up else {
            return false;
        };
        let present = self.presence.present(device);
        present.unwrap_or_else(|| up.elapsed() >= TO_TELL)
    }

    /// The broker has a write: from there it is on its way to the device.
    pub(super) fn arrived(&mut self, packet: u16) {
        let Some(due) = self.under_way.remove(&packet) else {
            return;
        };
        self.wishes.arrived(&due, Instant::now());
        self.say_sent(&due);
        self.look(&due.device);
    }

    /// The broker will not have a write: it is on its way to nobody.
    pub(super) fn turned_away(&mut self, packet: u16, why: &str) {
        let Some(due) = self.under_way.remove(&packet) else {
            return;
        };
        let why = format!("the broker refused it: {why}");
        self.wishes.turned_away(&due, why, Instant::now());
        self.look(&due.device);
    }

    /// Of a device that never says what it was set to, what was sent counts as said.
    fn say_sent(&mut self, due: &Due) {
        let unit = self.units.get(&due.device);
        let property = unit.and_then(|unit| unit.settings.properties.get(&due.property));
        let write = property.and_then(|property| property.write.as_ref());
        if write.is_some_and(|write| write.optimistic) {
            let value = Observation::Value(due.value.clone());
            self.outgoing
                .seen(&due.device, &due.property, value, Clue::default());
        }
    }

    fn write(&mut self, due: &Due) -> Outcome {
        // A connection that takes one and acknowledges none is not filled with more of the same.
        if self.under_way.values().any(|other| other == due) {
            return Outcome::Unanswered;
        }
        if !self.reaches(&due.device) {
            return Outcome::Unreachable;
        }
        let Some(link) = &mut self.link else {
            return Outcome::Unreachable;
        };
        let property = self
            .units
            .get(&due.device)
            .and_then(|unit| unit.settings.properties.get(&due.property));
        let Some(message) = property.and_then(|property| message(property, &due.value)) else {
            return Outcome::Unreachable;
        };
        match message.map(|message| link.publish(message)) {
            Err(why) => Outcome::Refused(why),
            Ok(Sent::TooLarge) => Outcome::Refused("the broker takes no message so large".to_owned()),
            Ok(Sent::Later) => Outcome::Unreachable,
            Ok(Sent::Yes(0)) => {
                self.say_sent(due);
                Outcome::Sent
            }
            Ok(Sent::Yes(packet)) => {
                self.under_way.insert(packet, due.clone());
                Outcome::Unanswered
            }
        }
    }
}
