//! What devices say: messages become observations, and who is there.

use tracing::warn;

use super::Task;
use crate::devices::Observation;
use crate::devices::drivers::extract::Payload;
use crate::devices::drivers::mqtt::decode::Heard;
use crate::devices::drivers::mqtt::unacked::Ticket;
use crate::devices::mqtt::{Message, count};

/// What is said of a message that was passed over.
const TOO_LARGE: &str = "a message of more than 256 KiB was not taken";

impl Task {
    /// Takes a message; what has to be done before it may be acknowledged. One that the broker recalls from
    /// before a power cut is as old as what it retains, and says nothing of who is there now.
    pub(super) fn heard(&mut self, message: &Message, recalled: bool) -> Vec<Ticket> {
        let topic = message.topic.as_str();
        if message.too_large {
            count(&self.driver.config.counters.too_large);
            warn!(topic, retained = message.retained, "{TOO_LARGE}");
        }
        let payload = if message.too_large {
            Err(TOO_LARGE.to_owned())
        } else {
            Payload::new(&message.payload)
        };
        let old = message.retained || recalled;
        let Some(all) = self.routes.decode(topic, &payload, old) else {
            // A subscription of an earlier run, which the broker kept.
            if let Some(link) = &mut self.link {
                link.unsubscribe(topic);
            }
            return Vec::new();
        };
        let (mut came, mut tickets) = (false, Vec::new());
        for heard in all {
            match heard {
                Heard::Present(..) if recalled => {}
                Heard::Present(device, present) => {
                    came |= present && self.presence.present(&device) != Some(true);
                    self.presence.said(&device, present);
                }
                Heard::Seen {
                    device,
                    property,
                    observation,
                    clue,
                } => {
                    if matches!(observation, Observation::Value(_)) {
                        self.presence.spoke(&device);
                    }
                    tickets.push(self.outgoing.seen(&device, &property, observation, clue));
                }
            }
        }
        self.say_states();
        if came {
            self.reachable();
        }
        tickets
    }
}
