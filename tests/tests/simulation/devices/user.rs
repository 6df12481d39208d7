//! Who makes, moves, edits and deletes devices, models and statuses; and the garbage collector.

use std::time::Duration;

use protocol::object::{Kind, ObjectKey};
use serde_json::json;

use super::{device, model};
use crate::objects::key;
use crate::world::World;

const DEVICES: usize = 4;
const MODELS: usize = 2;

impl World {
    /// Some devices are there from the beginning, and they speak all the time.
    pub(crate) fn begin_devices(&mut self) {
        let Some(pace) = self.menu.devices else {
            return;
        };
        for number in 0..MODELS {
            self.set_model(number, true);
        }
        for number in 0..DEVICES {
            self.make_device(number);
        }
        self.speak(pace);
        self.use_devices();
    }

    fn speak(&mut self, pace: Duration) {
        if self.calm {
            return;
        }
        // In bursts, so that writes of one device wait for each other.
        let e = self.dice.below(self.edges.len());
        for _ in 0..=self.dice.below(3) {
            self.device_speaks(e);
        }
        let pause = self.dice.next_of(pace);
        self.after(pause, move |world| world.speak(pace));
    }

    fn use_devices(&mut self) {
        if self.calm {
            return;
        }
        let number = self.dice.below(DEVICES);
        let name = key(Kind::Device, format!("d{number}"));
        match self.dice.below(10) {
            0..=1 => self.make_device(number),
            2..=4 => self.move_device(&name),
            5 => self.force_device(&name),
            6 => {
                self.force_device(&name);
                self.make_device(number);
            }
            7 => {
                let (number, extra) = (self.dice.below(MODELS), self.dice.chance(0.7));
                self.set_model(number, extra);
            }
            8 => self.edit_status(&name),
            _ => {
                if self.api.delete_status(&name).is_ok() {
                    self.say(|| format!("user: the status of {name} deleted"));
                    self.wake_statuses();
                }
            }
        }
        let pause = self.dice.next_of(self.menu.user * 2);
        self.after(pause, Self::use_devices);
    }

    fn make_device(&mut self, number: usize) {
        let e = self.dice.below(self.edges.len());
        let node = self.edges[e].node.to_string();
        let model = format!("m{}", self.dice.below(MODELS));
        let device = device(&format!("d{number}"), &node, &model, number == 0);
        if let Ok(made) = self.api.create(Kind::Device, device) {
            self.say(|| format!("user: {} made ({}) for edge {e}", made.key, made.uid));
            self.laws.devices.is_at(&made.uid, &node, made.revision);
            self.api_changed(&made);
        }
    }

    fn move_device(&mut self, name: &ObjectKey) {
        let e = self.dice.below(self.edges.len());
        let node = self.edges[e].node.to_string();
        let to = node.clone();
        if let Ok(moved) = self
            .api
            .change(name, move |device| device["spec"]["nodeName"] = json!(to))
        {
            self.say(|| format!("user: {name} is at edge {e} now"));
            self.laws.devices.is_at(&moved.uid, &node, moved.revision);
            self.api_changed(&moved);
        }
    }

    fn force_device(&mut self, name: &ObjectKey) {
        // 404: it is gone already.
        let _ = self.remove(name);
    }

    fn set_model(&mut self, number: usize, extra: bool) {
        let name = format!("m{number}");
        let made = model(&name, extra);
        let spec = made["spec"].clone();
        let changed = match self.api.create(Kind::DeviceModel, made) {
            Err(409) => self
                .api
                .change(&key(Kind::DeviceModel, name), move |model| model["spec"] = spec),
            made => made,
        };
        if let Ok(changed) = changed {
            self.api_changed(&changed);
        }
    }

    fn edit_status(&mut self, name: &ObjectKey) {
        let note = self.dice.roll() % 1_000;
        let patch = if self.dice.chance(0.5) {
            json!({ "status": { "extensions": { "note": note } } })
        } else {
            json!({ "status": { "twins": [], "state": "edited" } })
        };
        // 404: there is none now.
        let _ = self.patch_device_status(name, &patch, None);
    }

    /// A status whose device is gone goes, some time.
    pub(crate) fn collect_statuses(&mut self) {
        let gone: Vec<ObjectKey> = self
            .api
            .statuses()
            .filter(|status| {
                let owner = &status.value["metadata"]["ownerReferences"][0]["uid"];
                !self.api.lives(&status.key, owner.as_str().unwrap_or_default())
            })
            .map(|status| status.key.clone())
            .collect();
        for key in gone {
            // It was there a moment ago.
            let _ = self.api.delete_status(&key);
            self.wake_statuses();
        }
        self.keep_statuses();
        self.after(Duration::from_secs(10), Self::collect_statuses);
    }
}
