//! Devices, their models and their statuses: which node needs which. Pure.
//!
//! ```text
//! Device --spec.nodeName--> node
//!    `--spec.deviceModelRef--> DeviceModel, same namespace
//!    `--same name--> DeviceStatus
//! ```
//!
//! **Invariant:** who must hear of a change is asked before and after it, so that a device that moves
//! is told to both of its nodes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use protocol::devices::Device;
use protocol::name::NodeName;
use protocol::object::{Digest, Kind, Object, ObjectKey, Revision};
use tokio::time::Instant;

use super::Index;

/// A device, with what decides whose it is.
#[derive(Clone, Debug)]
pub struct DeviceEntry {
    /// The canonical device.
    pub object: Arc<Object>,
    /// Its node; empty while it has none.
    pub node: String,
    /// Its model, if it names one.
    pub model: Option<ObjectKey>,
    /// The state that its own status shows.
    pub state: Option<String>,
}

impl DeviceEntry {
    /// A device as the API server gave it.
    pub fn new(object: Arc<Object>, device: &Device) -> Self {
        let namespace = &object.key.namespace;
        let model = device.model_name();
        Self {
            node: device.spec.node_name.clone().unwrap_or_default(),
            model: model.map(|model| ObjectKey::new(Kind::DeviceModel, namespace, model)),
            state: device.status.as_ref().and_then(|status| status.state.clone()),
            object,
        }
    }

    /// The node, if its name is one that a node may have.
    pub fn node_name(&self) -> Option<NodeName> {
        self.node.parse().ok()
    }
}

/// A `DeviceStatus`, as far as it matters whose it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusEntry {
    /// Its uid.
    pub uid: String,
    /// Its revision: another one than that of the last write is another writer's.
    pub revision: Revision,
    /// The uid of the device that it belongs to.
    pub device: String,
    /// What it says, if a session of this replica made that revision.
    pub said: Option<Said>,
}

/// What a write of this replica made of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// All of it.
    pub whole: Digest,
    /// All but when it was seen.
    pub values: Digest,
    /// When it was written.
    pub at: Instant,
}

impl StatusEntry {
    fn is(&self, other: &Self) -> bool {
        (&self.uid, self.revision) == (&other.uid, other.revision)
    }
}

/// All devices of the cluster.
#[derive(Debug, Default)]
pub(super) struct Devices {
    by_key: BTreeMap<ObjectKey, DeviceEntry>,
    models: BTreeMap<ObjectKey, Arc<Object>>,
    statuses: BTreeMap<ObjectKey, StatusEntry>,
    statuses_listed: bool,
    at_node: HashMap<String, BTreeSet<ObjectKey>>,
    of_model: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
}

impl Devices {
    pub(super) fn keys(&self, node: &NodeName, kind: Kind) -> Vec<ObjectKey> {
        let devices = self.at_node.get(node.as_ref()).into_iter().flatten();
        if kind == Kind::Device {
            return devices.cloned().collect();
        }
        let models = devices.filter_map(|key| self.by_key.get(key)?.model.as_ref());
        let models: BTreeSet<_> = models.filter(|model| self.models.contains_key(*model)).collect();
        models.into_iter().cloned().collect()
    }

    pub(super) fn object(&self, node: &NodeName, key: &ObjectKey) -> Option<&Arc<Object>> {
        if key.kind == Kind::Device {
            let entry = self.by_key.get(key)?;
            return (entry.node == node.as_ref()).then_some(&entry.object);
        }
        let at_node = self.at_node.get(node.as_ref())?;
        let users = self.of_model.get(key)?;
        let (few, many) = if users.len() < at_node.len() {
            (users, at_node)
        } else {
            (at_node, users)
        };
        few.iter().any(|device| many.contains(device)).then_some(())?;
        self.models.get(key)
    }

    pub(super) fn all(&self, kind: Kind) -> Vec<ObjectKey> {
        match kind {
            Kind::Device => self.by_key.keys().cloned().collect(),
            Kind::DeviceModel => self.models.keys().cloned().collect(),
            Kind::Service | Kind::RuntimeClass | Kind::ConfigMap | Kind::Secret | Kind::Pod | Kind::Node => {
                Vec::new()
            }
        }
    }

    fn link(&mut self, key: &ObjectKey) {
        let Some(entry) = self.by_key.get(key) else {
            return;
        };
        if !entry.node.is_empty() {
            self.at_node
                .entry(entry.node.clone())
                .or_default()
                .insert(key.clone());
        }
        if let Some(model) = &entry.model {
            self.of_model
                .entry(model.clone())
                .or_default()
                .insert(key.clone());
        }
    }

    fn unlink(&mut self, key: &ObjectKey) {
        let Some(entry) = self.by_key.get(key) else {
            return;
        };
        let (node, model) = (entry.node.clone(), entry.model.clone());
        release(&mut self.at_node, &node, key);
        if let Some(model) = model {
            release(&mut self.of_model, &model, key);
        }
    }

    /// The nodes that hold a device or a model, each with what it holds of the pair.
    fn concerned(&self, key: &ObjectKey) -> Vec<(&str, ObjectKey)> {
        let mut concerned = Vec::new();
        if let Some(entry) = self.by_key.get(key) {
            concerned.push((entry.node.as_str(), key.clone()));
            concerned.extend(
                entry
                    .model
                    .iter()
                    .map(|model| (entry.node.as_str(), model.clone())),
            );
        }
        // With a model its devices change: which of their properties count.
        let users = self.of_model.get(key).into_iter().flatten();
        let of_user = |user: &ObjectKey| Some((self.by_key.get(user)?.node.as_str(), user.clone()));
        for (node, user) in users.filter_map(of_user) {
            concerned.push((node, key.clone()));
            concerned.push((node, user));
        }
        concerned
    }
}

fn release<K: std::hash::Hash + Eq>(map: &mut HashMap<K, BTreeSet<ObjectKey>>, of: &K, key: &ObjectKey) {
    if let Some(keys) = map.get_mut(of) {
        keys.remove(key);
        if keys.is_empty() {
            map.remove(of);
        }
    }
}

/// Devices: reading.
impl Index {
    /// A device, whatever its node.
    pub fn device(&self, key: &ObjectKey) -> Option<&DeviceEntry> {
        self.devices.by_key.get(key)
    }

    /// A model, whoever uses it.
    pub fn device_model(&self, key: &ObjectKey) -> Option<&Arc<Object>> {
        self.devices.models.get(key)
    }

    /// The status of the device of that key.
    pub fn device_status(&self, device: &ObjectKey) -> Option<&StatusEntry> {
        self.devices.statuses.get(device)
    }

    /// Whether all statuses are known.
    pub const fn statuses_listed(&self) -> bool {
        self.devices.statuses_listed
    }

    /// How many devices are bound to a node.
    pub fn devices_of(&self, node: &NodeName) -> usize {
        self.devices.at_node.get(node.as_ref()).map_or(0, BTreeSet::len)
    }

    /// The devices that are bound to any node, with their keys.
    pub fn bound_devices(&self) -> impl Iterator<Item = (&ObjectKey, &DeviceEntry)> {
        self.devices
            .by_key
            .iter()
            .filter(|(_, entry)| !entry.node.is_empty())
    }
}

/// Devices: writing.
impl Index {
    /// A device is so now.
    pub fn put_device(&mut self, entry: DeviceEntry) {
        let key = entry.object.key.clone();
        self.changing(&key, |devices| {
            devices.unlink(&key);
            devices.by_key.insert(key.clone(), entry);
            devices.link(&key);
        });
    }

    /// The state that a Device itself shows was written over what is known of it: nothing else changed.
    pub fn stated(&mut self, key: &ObjectKey, over: Revision, now: Revision, state: Option<String>) {
        let entry = self.devices.by_key.get_mut(key);
        let entry = entry.filter(|entry| entry.object.version.revision == over && over < now);
        if let Some(entry) = entry {
            Arc::make_mut(&mut entry.object).version.revision = now;
            entry.state = state;
        }
    }

    /// A model is so now.
    pub(super) fn put_model(&mut self, model: Arc<Object>) {
        let key = model.key.clone();
        self.changing(&key, |devices| drop(devices.models.insert(key.clone(), model)));
    }

    /// A device or a model is gone.
    pub(super) fn remove_device(&mut self, key: &ObjectKey) {
        self.changing(key, |devices| {
            devices.unlink(key);
            devices.by_key.remove(key);
            devices.models.remove(key);
        });
    }

    /// The status of a device is so, under the device's key. Something older is believed of a list alone (a
    /// restored cluster): a write's answer often comes before the watch's word of an earlier one.
    pub fn put_status(&mut self, device: &ObjectKey, mut status: StatusEntry, listing: bool) {
        let held = self.devices.statuses.get(device);
        let newer = |held: &StatusEntry| held.uid == status.uid && held.revision > status.revision;
        if !listing && held.is_some_and(newer) {
            return;
        }
        let is_other = held.is_some_and(|held| !held.is(&status));
        if let Some(held) = held.filter(|held| held.is(&status)) {
            // The watch knows of a revision that it is there, and not what this replica wrote.
            status.said = status.said.or(held.said);
        }
        self.devices.statuses.insert(device.clone(), status);
        if is_other {
            self.mark_device(device);
        }
    }

    /// What a status says, as another list than that of the watch has it: believed of the very one that is known,
    /// and of others only until the watch has told of all.
    pub fn status_says(&mut self, device: &ObjectKey, status: StatusEntry) {
        match self.devices.statuses.get_mut(device) {
            Some(held) if held.is(&status) => held.said = held.said.or(status.said),
            None if !self.devices.statuses_listed => {
                self.devices.statuses.insert(device.clone(), status);
            }
            Some(_) | None => {}
        }
    }

    /// The status of a device is gone: whoever reports of it says all again.
    pub fn remove_status(&mut self, device: &ObjectKey, uid: &str) {
        // A late word of an earlier one says nothing of the one that is there.
        let statuses = &mut self.devices.statuses;
        if statuses.get(device).is_some_and(|status| status.uid == uid) {
            statuses.remove(device);
            self.mark_device(device);
        }
    }

    /// A full list of statuses, under their devices' keys.
    pub fn statuses_relisted(&mut self, seen: &BTreeSet<ObjectKey>) {
        self.devices.statuses_listed = true;
        let held = self.devices.statuses.iter();
        let gone = held.filter(|(key, _)| !seen.contains(*key));
        let gone: Vec<_> = gone
            .map(|(key, status)| (key.clone(), status.uid.clone()))
            .collect();
        for (key, uid) in gone {
            self.remove_status(&key, &uid);
        }
    }

    /// Whether a kind that the cluster may lack has been listed, with all that it rests on.
    pub(super) fn devices_listed(&self) -> bool {
        // Which models a node needs follows from its devices.
        [Kind::DeviceModel, Kind::Device]
            .into_iter()
            .all(|kind| self.revisions[kind.index()] > Revision(0))
    }

    fn changing(&mut self, key: &ObjectKey, change: impl FnOnce(&mut Devices)) {
        self.mark_device(key);
        change(&mut self.devices);
        self.mark_device(key);
    }

    fn mark_device(&self, key: &ObjectKey) {
        for (node, key) in self.devices.concerned(key) {
            let node = node.parse::<NodeName>().ok();
            if let Some(edge) = node.and_then(|node| self.edges.get(&node)) {
                edge.mark(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests;
