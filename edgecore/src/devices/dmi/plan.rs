//! What a mapper must be told next: what it should have, against what it has accepted. Pure.
//!
//! ```text
//! RemoveDevice ► CreateDeviceModel, UpdateDeviceModel ► RegisterDevice, UpdateDevice ► RemoveDeviceModel
//! ```
//!
//! A device waits for its model, a model for its last device; nothing else waits for anything, so a call
//! that fails holds up those alone that need it. What is on both sides with the same digest is not sent: an
//! update starts the device afresh and writes every actuator.
//!
//! **Invariant:** carrying out the steps in any order that the plan allows ends in an empty plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::devices::DeviceName;
use protocol::dmi;

use super::message::{self, Digest, ModelName};
use crate::devices::{Served, Wish};

/// What the mapper of one protocol should have.
#[derive(Default)]
pub(super) struct Wanted {
    /// Models that devices of the protocol name.
    pub(super) models: BTreeMap<ModelName, WantedModel>,
    /// The devices, each with a model that is here.
    pub(super) devices: BTreeMap<DeviceName, WantedDevice>,
    /// Devices whose model is not here, with its name: they stay as the mapper has them.
    pub(super) held: BTreeMap<DeviceName, ModelName>,
}

/// A model that a mapper should have.
pub(super) struct WantedModel {
    /// As it is sent.
    pub(super) message: dmi::DeviceModel,
    /// What tells its states apart.
    pub(super) digest: Digest,
}

/// A device that a mapper should have.
pub(super) struct WantedDevice {
    /// As it is sent.
    pub(super) message: dmi::Device,
    /// What tells its states apart.
    pub(super) digest: Digest,
    /// Its model.
    pub(super) model: ModelName,
}

impl Wanted {
    /// What the mapper of `protocol` should have of these devices.
    pub(super) fn of(
        protocol: &str,
        devices: &BTreeMap<DeviceName, Arc<Served>>,
        wishes: impl Fn(&DeviceName) -> BTreeMap<String, Wish>,
    ) -> Self {
        let mut wanted = Self::default();
        for (name, served) in devices.iter().filter(|(_, served)| served.protocol == protocol) {
            let model_name = ModelName::new(&name.namespace, &served.model);
            if !served.has_model {
                wanted.held.insert(name.clone(), model_name);
                continue;
            }
            let model = message::model(served);
            let message = message::device(served, &wishes(name));
            let device = WantedDevice {
                digest: Digest::of_device(&message, &model),
                message,
                model: model_name.clone(),
            };
            wanted.devices.insert(name.clone(), device);
            wanted.models.entry(model_name).or_insert_with(|| WantedModel {
                digest: Digest::of_model(&model),
                message: model,
            });
        }
        wanted
    }
}

/// What a mapper has accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Accepted {
    /// Models.
    pub(super) models: BTreeMap<ModelName, Digest>,
    /// Devices, each with its model.
    pub(super) devices: BTreeMap<DeviceName, (Digest, ModelName)>,
}

impl Accepted {
    /// Takes note of a step that the mapper accepted.
    pub(super) fn take(&mut self, step: &Step, wanted: &Wanted) {
        let name = &step.name;
        match step.verb {
            Verb::CreateModel | Verb::UpdateModel => {
                if let Some(model) = wanted.models.get(name) {
                    self.models.insert(name.clone(), model.digest.clone());
                }
            }
            Verb::Register | Verb::Update => {
                if let Some(device) = wanted.devices.get(name) {
                    let accepted = (device.digest.clone(), device.model.clone());
                    self.devices.insert(name.clone(), accepted);
                }
            }
            Verb::Remove => drop(self.devices.remove(name)),
            Verb::RemoveModel => drop(self.models.remove(name)),
        }
    }
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Step {
    /// Which.
    pub(super) verb: Verb,
    /// Of what: a device, or a model.
    pub(super) name: DeviceName,
}

/// Which call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verb {
    /// `RemoveDevice`
    Remove,
    /// `CreateDeviceModel`
    CreateModel,
    /// `UpdateDeviceModel`
    UpdateModel,
    /// `RegisterDevice`
    Register,
    /// `UpdateDevice`
    Update,
    /// `RemoveDeviceModel`
    RemoveModel,
}

/// Every step that may be taken now, in the order in which to try them; none once all is as it should be.
pub(super) fn plan(wanted: &Wanted, accepted: &Accepted) -> Vec<Step> {
    let step = |verb, name: &DeviceName| Step {
        verb,
        name: name.clone(),
    };
    let gone = accepted
        .devices
        .keys()
        .filter(|name| !wanted.devices.contains_key(name) && !wanted.held.contains_key(name));
    let mut steps: Vec<Step> = gone.map(|name| step(Verb::Remove, name)).collect();

    for (name, model) in &wanted.models {
        match accepted.models.get(name) {
            None => steps.push(step(Verb::CreateModel, name)),
            Some(digest) if *digest != model.digest => steps.push(step(Verb::UpdateModel, name)),
            Some(_) => {}
        }
    }

    let has_model = |device: &WantedDevice| {
        let wanted = wanted.models.get(&device.model).map(|model| &model.digest);
        accepted.models.get(&device.model) == wanted
    };
    for (name, device) in wanted.devices.iter().filter(|(_, device)| has_model(device)) {
        match accepted.devices.get(name) {
            None => steps.push(step(Verb::Register, name)),
            Some((digest, _)) if *digest != device.digest => steps.push(step(Verb::Update, name)),
            Some(_) => {}
        }
    }

    let of_devices = accepted.devices.values().map(|(_, model)| model);
    let in_use: BTreeSet<&ModelName> = of_devices.chain(wanted.held.values()).collect();
    let unused = accepted
        .models
        .keys()
        .filter(|name| !wanted.models.contains_key(name) && !in_use.contains(name));
    steps.extend(unused.map(|name| step(Verb::RemoveModel, name)));
    steps
}

#[cfg(test)]
mod tests;
