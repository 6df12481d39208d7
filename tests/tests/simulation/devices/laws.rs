//! What must be true of devices.
//!
//! - A status never goes back: what a node's sessions write of a device only grows.
//! - A former node cannot speak for a device of which its new node has spoken.
//! - `extensions` is nobody's but the user's.
//! - What was acknowledged was shown.
//! - At rest each status shows what the node of its device has; what was accepted last, unless the power
//!   took it before it was on flash and the cluster had not heard.

use std::collections::{BTreeMap, BTreeSet};

use cloudcore::devices::document::twins;
use cloudcore::devices::report::Report;
use protocol::devices::{Device, DeviceIdentity, DeviceModel, DeviceStatusStatus, Twin, TwinValue};
use protocol::object::{Kind, ObjectKey};
use serde_json::Value;

use super::{COUNT, shown_of};
use crate::api::Stored;
use crate::world::World;

#[derive(Default)]
pub(crate) struct DeviceLaws {
    /// What each device said last, by uid.
    counts: BTreeMap<String, u64>,
    /// What must be shown in the end, by edge and uid: whatever happens, and unless the power goes.
    hard: BTreeMap<(usize, String), u64>,
    soft: BTreeMap<(usize, String), u64>,
    /// Every count that was ever shown.
    shown: BTreeSet<(String, u64)>,
    /// The nodes that each device has had, in order.
    tenures: BTreeMap<String, Vec<String>>,
    since: BTreeMap<String, u64>,
    /// Who wrote each status last: a node in one of its tenures, or somebody else.
    author: BTreeMap<String, Option<(String, usize)>>,
    pub(crate) accepted: u64,
    pub(crate) written: u64,
    /// What a session found shown already when it began.
    pub(crate) found: u64,
}

impl DeviceLaws {
    pub(crate) fn next(&mut self, uid: &str) -> u64 {
        let count = self.counts.entry(uid.to_owned()).or_default();
        *count += 1;
        *count
    }

    pub(crate) fn accepted(&mut self, e: usize, uid: &str, value: u64, hard: bool) {
        self.accepted += 1;
        let key = (e, uid.to_owned());
        if hard {
            let held = self.hard.entry(key.clone()).or_default();
            *held = value.max(*held);
        }
        let held = self.soft.entry(key).or_default();
        *held = value.max(*held);
    }

    /// Memory is lost, and what was only there.
    pub(crate) fn power_went(&mut self, e: usize) {
        self.soft.retain(|(edge, _), _| *edge != e);
    }

    /// An older disk: all bets on this edge are off.
    pub(crate) fn rolled_back(&mut self, e: usize) {
        self.power_went(e);
        self.hard.retain(|(edge, _), _| *edge != e);
    }

    pub(crate) fn restored(&mut self) {
        self.author.clear();
        self.tenures.clear();
        self.hard.clear();
        self.soft.clear();
    }

    /// Whether a device was ever at another node: a late word of that may still take it away for a while.
    pub(crate) fn has_moved(&self, uid: &str) -> bool {
        self.tenures.get(uid).is_none_or(|tenures| tenures.len() > 1)
    }

    /// At which revision a device came to its node.
    fn since(&self, uid: &str) -> u64 {
        self.since.get(uid).copied().unwrap_or_default()
    }

    /// A device is at a node now; what it said elsewhere went with its move.
    pub(crate) fn is_at(&mut self, uid: &str, node: &str, revision: u64) {
        let tenures = self.tenures.entry(uid.to_owned()).or_default();
        if tenures.last().is_none_or(|last| last != node) {
            tenures.push(node.to_owned());
            self.since.insert(uid.to_owned(), revision);
            self.hard.retain(|(_, of), _| of != uid);
            self.soft.retain(|(_, of), _| of != uid);
        }
    }

    fn tenure(&self, uid: &str, node: &str) -> usize {
        let tenures = self.tenures.get(uid);
        let last = tenures.and_then(|all| all.iter().rposition(|at| at == node));
        last.map_or(0, |last| last + 1)
    }

    fn required(&self, e: usize, uid: &str) -> u64 {
        let of = |held: &BTreeMap<(usize, String), u64>| held.get(&(e, uid.to_owned())).copied();
        of(&self.hard).max(of(&self.soft)).unwrap_or_default()
    }
}

fn status_of(object: &Stored) -> DeviceStatusStatus {
    serde_json::from_value(object.value["status"].clone()).unwrap_or_default()
}

fn owner_of(object: &Stored) -> String {
    let owner = &object.value["metadata"]["ownerReferences"][0]["uid"];
    owner.as_str().unwrap_or_default().to_owned()
}

impl World {
    /// An edge has accepted a value. It counts if the edge knows of the device's last move: what it takes
    /// before that goes with the move.
    pub(super) fn accepted(&mut self, e: usize, (device, uid): (&ObjectKey, &str), value: u64, hard: bool) {
        let row = self.edges[e].disk.image.entries.get(device);
        let since = self.laws.devices.since(uid);
        if row.is_some_and(|row| row.version.uid == uid && row.version.revision.0 >= since) {
            self.laws.devices.accepted(e, uid, value, hard);
        }
    }

    /// A status was written, by a session of a node or by somebody else.
    pub(super) fn check_status(&mut self, before: Option<&Stored>, after: &Stored, by: Option<&str>) {
        let uid = owner_of(after);
        let laws = &mut self.laws.devices;
        let count = shown_of(&status_of(after), COUNT).map(|(count, _)| count);
        if let (Some(count), Some(_)) = (count, by) {
            laws.shown.insert((uid.clone(), count));
        }
        let writer = by.map(|node| (node.to_owned(), laws.tenure(&uid, node)));
        let author = laws.author.insert(after.uid.clone(), writer.clone()).flatten();
        let Some((node, tenure)) = writer else { return };
        laws.written += 1;
        let Some(before) = before else { return };
        let extensions = |object: &Stored| object.value["status"]["extensions"].clone();
        assert_eq!(
            extensions(before),
            extensions(after),
            "what others keep in the status of {} was written over",
            after.key
        );
        let Some((former, former_tenure)) = author else {
            return;
        };
        assert!(
            tenure >= former_tenure,
            "{node} speaks for {} over what {former} said, where the device has moved to",
            after.key
        );
        let shown = shown_of(&status_of(before), COUNT).map(|(count, _)| count);
        assert!(
            former != node || count.is_none() || count >= shown || self.laws.rolled_back,
            "the status of {} went back from {shown:?} to {count:?}",
            after.key
        );
    }

    /// What was said of a device and acknowledged was shown.
    pub(crate) fn was_shown(&self, device: &DeviceIdentity, payload: &[u8]) -> bool {
        let said: DeviceStatusStatus = serde_json::from_slice(payload).unwrap();
        shown_of(&said, COUNT)
            .is_none_or(|(count, _)| self.laws.devices.shown.contains(&(device.uid.clone(), count)))
    }

    /// What is not yet as it must be in the end, of the devices of an edge.
    pub(crate) fn devices_unsettled(&self, e: usize) -> Option<String> {
        let node = self.edges[e].node.as_ref();
        let devices = self.api.list(Kind::Device);
        let mut here = devices.filter(|device| device.value["spec"]["nodeName"] == node);
        here.find_map(|device| self.device_unsettled(e, device))
    }

    fn device_unsettled(&self, e: usize, object: &Stored) -> Option<String> {
        let process = self.edges[e].process.as_ref()?;
        let amiss = |what: String| Some(format!("edge {e}: {}: {what}", object.key));
        let Some(status) = self.api.status(&object.key) else {
            return amiss("it has no status".to_owned());
        };
        if owner_of(status) != object.uid {
            return amiss("its status is another device's".to_owned());
        }
        let shown = twins(&status.json, self.edges[e].node.as_ref());
        let required = self.laws.devices.required(e, &object.uid);
        let Some(told) = process.devices.told.get(&object.uid) else {
            let lost = required > 0 && self.model_of(object).is_some();
            return if lost {
                amiss(format!("{required} was accepted and never told"))
            } else {
                None
            };
        };
        let device: Device = serde_json::from_value(object.value.clone()).unwrap();
        let model = self.model_of(object);
        let said = Report::read(&serde_json::to_vec(told).unwrap(), &device, model.as_ref()).unwrap();
        let said = said.over(&shown);
        if plain(said.twins()) != plain(&shown) {
            return amiss(format!(
                "it shows {:?}, not {:?}",
                plain(&shown),
                plain(said.twins())
            ));
        }
        if status.value["status"]["state"].as_str() != said.state() {
            return amiss(format!(
                "its state is {}, not {:?}",
                status.value["status"]["state"],
                said.state()
            ));
        }
        let count = shown_of(&status_of(status), COUNT);
        match (count, model) {
            (Some((count, _)), Some(_)) if count < required => {
                amiss(format!("it shows {count}, and {required} was accepted"))
            }
            (None, Some(_)) if required > 0 => amiss(format!("{required} was accepted and is not shown")),
            _ => None,
        }
    }

    fn model_of(&self, device: &Stored) -> Option<DeviceModel> {
        let name = device.value["spec"]["deviceModelRef"]["name"].as_str()?;
        let model = self
            .api
            .get(&ObjectKey::new(Kind::DeviceModel, &device.key.namespace, name))?;
        serde_json::from_value::<DeviceModel>(Value::clone(&model.value)).ok()
    }
}

/// Values and their quality, without times.
fn plain(twins: &[Twin]) -> BTreeMap<String, Option<(String, Option<String>)>> {
    let value = |value: &TwinValue| (value.value.clone(), value.metadata.get("quality").cloned());
    let plain = |twin: &Twin| (twin.property_name.clone(), twin.reported.as_ref().map(value));
    twins.iter().map(plain).collect()
}
