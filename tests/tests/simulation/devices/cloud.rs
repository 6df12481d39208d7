//! Devices at a replica: what it knows of them, and what a session has written.

use std::collections::BTreeMap;

use cloudcore::cluster::KnownDevice;
use cloudcore::cluster::index::Index;
use cloudcore::devices::document::created;
use cloudcore::devices::judge::{Found, Verdict, judge};
use cloudcore::devices::pace::DevicePace;
use cloudcore::devices::report::Report;
use cloudcore::devices::shown::{Written, compare};
use cloudcore::reported::Shown;
use protocol::devices::{Device, DeviceIdentity, DeviceModel};
use protocol::name::NodeName;
use protocol::object::{Kind, ObjectKey};
use tokio::time::Instant;

use crate::world::World;

/// What one session has written of each device, by uid.
pub(crate) type Pasts = BTreeMap<String, Past>;

#[derive(Debug, Default)]
pub(crate) struct Past {
    pub(super) pace: DevicePace,
    pub(super) written: Option<Written>,
}

pub(super) fn key_of(device: &DeviceIdentity) -> ObjectKey {
    ObjectKey::new(Kind::Device, &device.namespace, &device.name)
}

/// As `Cluster::read_device`.
pub(super) fn read_device(index: &Index, key: &ObjectKey) -> Option<(Device, Option<DeviceModel>)> {
    let entry = index.device(key)?;
    let model = entry.model.as_ref().and_then(|model| read_model(index, model));
    Some((
        serde_json::from_slice(&entry.object.body.json().ok()?).ok()?,
        model,
    ))
}

pub(super) fn read_model(index: &Index, key: &ObjectKey) -> Option<DeviceModel> {
    serde_json::from_slice(&index.device_model(key)?.body.json().ok()?).ok()
}

/// The device, if the watch says that it is this node's.
pub(super) fn ours(index: &Index, device: &DeviceIdentity, node: &NodeName) -> Option<KnownDevice> {
    let known = KnownDevice::of(index, &key_of(device))?;
    let found = Found {
        uid: &known.uid,
        node: &known.node,
    };
    (judge(Some(found), device, node) == Verdict::Fits).then_some(known)
}

/// As `DeviceWriter::shown`.
pub(crate) fn shown(
    index: &Index,
    node: &NodeName,
    (device, payload): (&DeviceIdentity, &[u8]),
    now: Instant,
) -> Shown {
    let Some(known) = ours(index, device, node) else {
        return Shown::Nothing;
    };
    let Some((spec, model)) = read_device(index, &known.key) else {
        return Shown::Nothing;
    };
    let Ok(report) = Report::read(payload, &spec, model.as_ref()) else {
        return Shown::Nothing;
    };
    compare(&report, &known, now)
}

impl World {
    /// As `devices/keep.rs`: every device of a node has a status.
    pub(crate) fn keep_statuses(&mut self) {
        for r in 0..self.replicas.len() {
            let index = &self.replicas[r].index;
            if !self.replicas[r].up || !index.statuses_listed() {
                continue;
            }
            let keys: Vec<ObjectKey> = index.bound_devices().map(|(key, _)| key.clone()).collect();
            let lacking = keys.iter().filter_map(|key| KnownDevice::of(index, key));
            let lacking: Vec<_> = lacking.filter(|known| known.status.is_none()).collect();
            for known in lacking {
                let status = created(&known, None);
                let key = known.key;
                self.request(r, move |world| world.create_status(&key, status, None), |_, _| {});
            }
        }
    }
}
