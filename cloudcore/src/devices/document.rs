//! The documents that show a device: its `DeviceStatus`, and the state on the Device itself. Pure.
//!
//! **Invariant:** `status.extensions` is never named, so that what others keep there stays.

use protocol::devices::{API_VERSION, Twin};
use protocol::object::ObjectKey;
use serde_json::{Map, Value, json};

use super::report::Report;
use crate::cluster::{KnownDevice, StatusEntry};

/// The longest value of a label.
const LABEL: usize = 63;
/// Which node the device is at.
pub(super) const NODE_LABEL: &str = "tombolo.dev/node";
/// Which model it has.
const MODEL_LABEL: &str = "tombolo.dev/model";
/// The values at a glance: the columns of `kubectl get` know no lists.
pub(super) const VALUES: &str = "tombolo.dev/values";

/// The status that a write goes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Its uid.
    pub uid: String,
    /// Its revision.
    pub revision: String,
}

impl Base {
    /// The status as an answer has it.
    pub fn of(answer: &[u8]) -> Option<Self> {
        let answer: Value = serde_json::from_slice(answer).ok()?;
        let text = |field: &str| answer["metadata"][field].as_str().map(str::to_owned);
        Some(Self {
            uid: text("uid")?,
            revision: text("resourceVersion")?,
        })
    }

    /// Whether a status is this very one, unchanged.
    pub fn is(&self, there: &StatusEntry) -> bool {
        self.uid == there.uid && self.revision.parse() == Ok(there.revision.0)
    }
}

/// A `DeviceStatus` for a device, with what was reported if anything was.
pub fn created(device: &KnownDevice, report: Option<&Report>) -> Value {
    let ObjectKey { namespace, name, .. } = &device.key;
    let mut labels = labels(device);
    labels.retain(|_, value| !value.is_null());
    json!({
        "apiVersion": API_VERSION,
        "kind": "DeviceStatus",
        "metadata": {
            "namespace": namespace, "name": name,
            "labels": labels, "ownerReferences": [owner(device)],
            "annotations": { VALUES: report.map(Report::glance).unwrap_or_default() },
        },
        "spec": {},
        "status": report.map_or_else(|| json!({ "twins": [] }), Report::status),
    })
}

/// The twins of a status, as an answer has them; none that cannot be read, or that another node said.
pub fn twins(answer: &[u8], node: &str) -> Vec<Twin> {
    let mut answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let by = answer["metadata"]["labels"][NODE_LABEL].as_str();
    if by.is_some_and(|by| by != node) {
        return Vec::new();
    }
    serde_json::from_value(answer["status"]["twins"].take()).unwrap_or_default()
}

/// Who owns a status besides its device, as an answer has it; none if it is to be left so, because something
/// else manages it.
pub fn other_owners(answer: &[u8]) -> Option<Vec<Value>> {
    let mut answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let owners = answer["metadata"]["ownerReferences"].as_array_mut();
    let owners = owners.map(std::mem::take).unwrap_or_default();
    let is_managed = owners.iter().any(|owner| owner["controller"] == true);
    (!is_managed).then_some(owners)
}

/// A merge patch of that very status, at that very revision; with the owners besides its device if it is to be
/// adopted.
pub fn patched(device: &KnownDevice, report: &Report, base: &Base, adopt: Option<&[Value]>) -> Value {
    let mut metadata = json!({
        "uid": base.uid, "resourceVersion": base.revision, "labels": labels(device),
        "annotations": { VALUES: report.glance() },
    });
    if let Some(others) = adopt {
        let others = others.iter().filter(|other| other["uid"] != *device.uid);
        let owners: Vec<Value> = others.cloned().chain([owner(device)]).collect();
        metadata["ownerReferences"] = json!(owners);
    }
    let mut status = report.status();
    if report.state().is_none() {
        // The state is not to be shown any more; one from before would stay for ever.
        status["state"] = Value::Null;
        status["lastOnlineTime"] = Value::Null;
    }
    json!({ "metadata": metadata, "status": status })
}

/// A merge patch of the Device itself, which shows its state at a glance; over what is known of it, so that it
/// undoes nothing that came meanwhile.
pub fn state_patch(device: &KnownDevice, state: Option<&str>) -> Value {
    let over = json!({ "uid": device.uid, "resourceVersion": device.revision.to_string() });
    json!({ "metadata": over, "status": { "state": state } })
}

/// It blocks no deletion: that would take the right to set finalizers on Devices where the admission plugin
/// `OwnerReferencesPermissionEnforcement` asks for it.
fn owner(device: &KnownDevice) -> Value {
    json!({
        "apiVersion": API_VERSION, "kind": "Device", "name": device.key.name, "uid": device.uid,
        "controller": true, "blockOwnerDeletion": false,
    })
}

/// Whether the API server takes this for a label's value.
pub(super) fn is_label(value: &str) -> bool {
    let ends = |c: char| c.is_ascii_alphanumeric();
    let inner = |c: char| ends(c) || matches!(c, '-' | '_' | '.');
    value.len() <= LABEL && value.starts_with(ends) && value.ends_with(ends) && value.chars().all(inner)
}

/// Labels to select by; a name that cannot be one is null, which takes the label away.
pub(super) fn labels(device: &KnownDevice) -> Map<String, Value> {
    let fits = |name: &str| is_label(name).then(|| name.to_owned());
    let model = device.model.as_ref().and_then(|model| fits(&model.name));
    both(fits(&device.node), model)
}

/// The same labels, as a status has them.
pub(super) fn labels_of(labels: &Value) -> Map<String, Value> {
    let text = |label: &str| labels[label].as_str().map(str::to_owned);
    both(text(NODE_LABEL), text(MODEL_LABEL))
}

fn both(node: Option<String>, model: Option<String>) -> Map<String, Value> {
    let labels = [(NODE_LABEL, node), (MODEL_LABEL, model)];
    labels
        .into_iter()
        .map(|(label, value)| (label.to_owned(), json!(value)))
        .collect()
}
