//! How a device is set: what is wished for becomes a message.

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
        for (property, given_up) in found.given_up {
            self.outgoing.seen(device, &property, given_up, Clue::default());
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

    fn write(&mut self, due: &Due) -> Outcome {
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
        let Some((property, message)) = property.and_then(|one| Some((one, message(one, &due.value)?)))
        else {
            return Outcome::Unreachable;
        };
        match message.map(|message| link.publish(message)) {
            Err(why) => return Outcome::Refused(why),
            Ok(Sent::TooLarge) => {
                return Outcome::Refused("the broker takes no message so large".to_owned());
            }
            Ok(Sent::Later) => return Outcome::Unreachable,
            Ok(Sent::Yes) => {}
        }
        if property.write.as_ref().is_some_and(|write| write.optimistic) {
            let value = Observation::Value(due.value.clone());
            self.outgoing
                .seen(&due.device, &due.property, value, Clue::default());
        }
        Outcome::Sent
    }
}
