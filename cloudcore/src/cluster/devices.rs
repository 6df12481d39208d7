//! Devices as the API server shows them: their watch, and that of their statuses.
//!
//! What it is: what goes into the index, and which devices are there. What it is not: a writer; that
//! is `cloudcore/src/devices`.
//!
//! **Invariant:** of a status only its metadata is watched: values, which change all the time, are
//! not read back by every replica.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;

use protocol::devices::{API_VERSION, Device, DeviceIdentity, DeviceModel};
use protocol::name::NodeName;
use protocol::object::{Digest, Kind, ObjectKey, Revision, canonical};
use serde::Deserialize;
use tracing::{debug, info, warn};

use super::api::{Actor, ApiError};
use super::index::{DeviceEntry, Index, StatusEntry};
use super::thin::ThinMeta;
use super::watch::{Sink, Source, follow};
use super::{BoxError, Cluster};

/// A device with what is known of its model and its status.
#[derive(Clone, Debug)]
pub struct KnownDevice {
    /// The device.
    pub key: ObjectKey,
    /// Its uid.
    pub uid: String,
    /// The revision that this was seen at.
    pub revision: Revision,
    /// The node that serves it; empty while there is none.
    pub node: String,
    /// Its model, if it names one.
    pub model: Option<ObjectKey>,
    /// The state that the Device itself shows.
    pub state: Option<String>,
    /// The status that bears its name, whosesoever.
    pub status: Option<StatusEntry>,
    /// What it and its model say.
    pub content: (Digest, Option<Digest>),
    /// Whether a session of its node is here.
    pub is_here: bool,
}

impl KnownDevice {
    /// A device as an index has it.
    pub fn of(index: &Index, key: &ObjectKey) -> Option<Self> {
        Some(known(index, key, index.device(key)?))
    }

    /// Which device it is.
    pub fn identity(&self) -> DeviceIdentity {
        DeviceIdentity {
            namespace: self.key.namespace.clone(),
            name: self.key.name.clone(),
            uid: self.uid.clone(),
        }
    }
}

impl Cluster {
    pub(super) fn saw_device(&self, key: &ObjectKey, json: &[u8]) {
        let device = serde_json::from_slice(json).map_err(BoxError::from);
        let object = canonical(Kind::Device, json).map_err(BoxError::from);
        match device.and_then(|device| Ok((device, object?))) {
            Ok((device, object)) => {
                let entry = DeviceEntry::new(Arc::new(object), &device);
                self.inner.index.write().put_device(entry);
                self.devices_changed(Kind::Device);
            }
            Err(error) => warn!(%key, error = &*error as &dyn Error, "skipped"),
        }
    }

    /// Something changed for whoever keeps the devices' statuses.
    pub(super) fn devices_changed(&self, kind: Kind) {
        if matches!(kind, Kind::DeviceModel | Kind::Device) {
            self.inner.devices_bell.notify_one();
        }
    }

    /// Waits until a device, a model or the presence of a status changed. One waits at a time.
    pub(crate) async fn devices_bell(&self) {
        self.inner.devices_bell.notified().await;
    }

    /// A device as the watch has it.
    pub(crate) fn known_device(&self, key: &ObjectKey) -> Option<KnownDevice> {
        KnownDevice::of(&self.inner.index.read(), key)
    }

    /// Every device that is bound to an edge node of ours; none before all statuses are known.
    pub(crate) fn edge_devices(&self) -> Vec<KnownDevice> {
        let index = self.inner.index.read();
        if !index.statuses_listed() {
            return Vec::new();
        }
        let ours = index
            .bound_devices()
            .filter(|(_, entry)| index.node(&entry.node).is_some());
        ours.map(|(key, entry)| known(&index, key, entry)).collect()
    }

    /// A device and its model, read in full.
    pub(crate) fn read_device(&self, key: &ObjectKey) -> Option<(Device, Option<DeviceModel>)> {
        let (device, model) = {
            let index = self.inner.index.read();
            let entry = index.device(key)?;
            let model = entry.model.as_ref().and_then(|model| index.device_model(model));
            (Arc::clone(&entry.object), model.cloned())
        };
        let model = model.and_then(|model| serde_json::from_slice(&model.body.json().ok()?).ok());
        Some((serde_json::from_slice(&device.body.json().ok()?).ok()?, model))
    }

    /// A model, read in full.
    pub(crate) fn read_model(&self, key: &ObjectKey) -> Option<DeviceModel> {
        let model = self.inner.index.read().device_model(key).cloned()?;
        serde_json::from_slice(&model.body.json().ok()?).ok()
    }

    /// Whether the cluster has devices at all, and the watch knows them.
    pub(crate) fn has_devices(&self) -> bool {
        self.inner.synced.borrow().lists_of(Kind::Device) > 0
    }

    /// How many devices a node has.
    pub(crate) fn devices_of(&self, node: &NodeName) -> usize {
        self.inner.index.read().devices_of(node)
    }

    /// Whether a device is at this node.
    pub(crate) fn is_at(&self, node: &NodeName, namespace: &str, name: &str) -> bool {
        let key = ObjectKey::new(Kind::Device, namespace, name);
        self.known_device(&key)
            .is_some_and(|device| device.node == node.as_ref())
    }

    /// The status that a write made or found, so that the watch's delay costs nothing.
    pub(crate) fn saw_status(&self, device: &ObjectKey, status: StatusEntry) {
        self.inner.index.write().put_status(device, status, false);
    }

    /// What a status says that was listed, see [`Index::status_says`].
    pub(crate) fn status_says(&self, device: &ObjectKey, status: StatusEntry) {
        self.inner.index.write().status_says(device, status);
    }

    /// The state of a Device was written, as an answer's metadata has it; so that the watch's delay costs no
    /// conflict.
    pub(crate) fn stated(&self, device: &KnownDevice, state: Option<&str>, answer: &[u8]) {
        if let Some(StatusEntry { revision, .. }) = status_entry(answer) {
            let mut index = self.inner.index.write();
            index.stated(&device.key, device.revision, revision, state.map(str::to_owned));
        }
    }

    /// Watches the statuses of devices for ever.
    pub(super) async fn watch_statuses(&self) {
        self.listed(Kind::Device, 1).await;
        let source = Source {
            path: format!("/apis/{API_VERSION}/devicestatuses"),
            selector: String::new(),
            only_metadata: true,
        };
        let mut sink = StatusSink {
            cluster: self.clone(),
            seen: BTreeSet::new(),
            listing: false,
            failing: false,
        };
        let never = tokio::sync::Notify::new();
        follow(self.api(), Actor::Cloudcore, &source, &mut sink, &never).await;
    }
}

#[cfg(test)]
impl Cluster {
    /// What a complete list would tell.
    pub(crate) fn told(&self, kind: Kind, objects: &[serde_json::Value]) {
        let mut seen = BTreeSet::new();
        for object in objects {
            let meta = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
            let key = ObjectKey::new(kind, meta("namespace"), meta("name"));
            let text = object.to_string();
            if kind == Kind::Device {
                self.saw_device(&key, text.as_bytes());
            } else if kind == Kind::Node {
                self.saw_node(&key, text.as_bytes(), true);
            } else {
                self.saw_shared(&key, text.as_bytes());
            }
            seen.insert(key);
        }
        self.inner.index.write().relisted(kind, &seen, Revision(1));
        self.count_list(kind);
    }

    /// What the watch would tell of a Node that is deleted.
    pub(crate) fn told_node_gone(&self, node: &NodeName) {
        self.lost_node(&ObjectKey::new(Kind::Node, "", node.as_ref()), None);
    }

    /// Whether a session of the node may write over something without reading the Lease.
    pub(crate) fn knows_session(&self, node: &NodeName) -> bool {
        self.inner.sessions.read().contains_key(node)
    }

    /// What a complete list of no statuses would tell.
    pub(crate) fn told_no_statuses(&self) {
        self.inner.index.write().statuses_relisted(&BTreeSet::new());
    }

    /// What the watch would tell of a status that somebody wrote.
    pub(crate) fn told_status(&self, device: &ObjectKey, status: &serde_json::Value) {
        let status = status_entry(status.to_string().as_bytes());
        let mut index = self.inner.index.write();
        index.put_status(device, status.unwrap_or_default(), false);
    }

    /// What the watch would tell of a status that is deleted.
    pub(crate) fn told_status_gone(&self, device: &ObjectKey, uid: &str) {
        self.inner.index.write().remove_status(device, uid);
    }
}

fn known(index: &Index, key: &ObjectKey, entry: &DeviceEntry) -> KnownDevice {
    KnownDevice {
        key: key.clone(),
        uid: entry.object.version.uid.clone(),
        revision: entry.object.version.revision,
        node: entry.node.clone(),
        model: entry.model.clone(),
        state: entry.state.clone(),
        status: index.device_status(key).cloned(),
        content: (
            entry.object.version.digest,
            entry
                .model
                .as_ref()
                .and_then(|model| Some(index.device_model(model)?.version.digest)),
        ),
        is_here: entry.node_name().is_some_and(|node| index.is_attached(&node)),
    }
}

#[derive(Deserialize)]
struct Owned {
    metadata: OwnedMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OwnedMeta {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    owner_references: Vec<Owner>,
}

#[derive(Deserialize)]
struct Owner {
    kind: String,
    uid: String,
    #[serde(default)]
    controller: Option<bool>,
}

/// What a status is, from its metadata.
pub fn status_entry(json: &[u8]) -> Option<StatusEntry> {
    let Owned { metadata } = serde_json::from_slice(json).ok()?;
    let is_device = |owner: &Owner| owner.kind == "Device" && owner.controller == Some(true);
    let owner = metadata.owner_references.into_iter().find(is_device);
    Some(StatusEntry {
        uid: metadata.uid,
        revision: Revision(metadata.resource_version.parse().unwrap_or_default()),
        device: owner.map(|owner| owner.uid).unwrap_or_default(),
        said: None,
    })
}

struct StatusSink {
    cluster: Cluster,
    seen: BTreeSet<ObjectKey>,
    listing: bool,
    failing: bool,
}

impl StatusSink {
    fn changed(&self) {
        self.cluster.devices_changed(Kind::Device);
    }
}

fn device_of(meta: &ThinMeta<'_>) -> ObjectKey {
    ObjectKey::new(Kind::Device, meta.namespace.as_ref(), meta.name.as_ref())
}

impl Sink for StatusSink {
    fn listing(&mut self) {
        self.seen.clear();
        self.listing = true;
    }

    fn put(&mut self, meta: &ThinMeta<'_>, object: &[u8]) {
        let device = device_of(meta);
        if let Some(status) = status_entry(object) {
            let mut index = self.cluster.inner.index.write();
            index.put_status(&device, status, self.listing);
        }
        if self.listing {
            self.seen.insert(device);
        }
    }

    fn gone(&mut self, meta: &ThinMeta<'_>, object: &[u8]) {
        let uid = status_entry(object).map(|status| status.uid);
        let device = device_of(meta);
        self.cluster
            .inner
            .index
            .write()
            .remove_status(&device, &uid.unwrap_or_default());
        self.changed();
    }

    fn listed(&mut self, revision: Revision) {
        (self.listing, self.failing) = (false, false);
        let seen = std::mem::take(&mut self.seen);
        self.cluster.inner.index.write().statuses_relisted(&seen);
        info!(%revision, "listed the statuses of devices");
        self.changed();
    }

    fn at(&mut self, _: Revision) {}

    fn failed(&mut self, error: &ApiError) -> bool {
        let error = error as &dyn Error;
        if std::mem::replace(&mut self.failing, true) {
            debug!(error, "watch of device statuses failed again");
        } else {
            warn!(
                error,
                "device statuses cannot be watched: what devices report is not shown until they can"
            );
        }
        true
    }
}
