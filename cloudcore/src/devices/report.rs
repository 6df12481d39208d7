//! What a node says of a device, and the documents that show it. Pure.
//!
//! **Invariant:** of the twins only those stay whose property the Device has, and all of these go
//! into every write: what is not in the newest report is not in the status.

use std::collections::BTreeSet;

use protocol::devices::{API_VERSION, Device, DeviceStatusStatus, Twin, TwinValue};
use protocol::object::{Digest, ObjectKey};
use serde_json::{Map, Value, json};

use crate::cluster::KnownDevice;

/// All values of a device, with their names and metadata.
const MOST_BYTES: usize = 256 * 1024;
/// The longest value of a label.
const LABEL: usize = 63;
/// Which node the device is at.
const NODE_LABEL: &str = "tombolo.dev/node";
/// Which model it has.
const MODEL_LABEL: &str = "tombolo.dev/model";
/// The values at a glance: the columns of `kubectl get` know no lists.
const VALUES: &str = "tombolo.dev/values";
/// What a glance takes in, and of one value.
const GLANCE: usize = 160;
const GLANCE_VALUE: usize = 32;
/// What tells when a value was seen, and not what it is.
const TIMES: [&str; 3] = ["timestamp", "deviceTimestamp", "version"];

/// A report that was read.
#[derive(Clone, Debug)]
pub(super) struct Report {
    said: DeviceStatusStatus,
    /// Of all that is said.
    pub(super) whole: Digest,
    /// Of all but when it was seen.
    pub(super) values: Digest,
}

impl Report {
    /// Reads what a node said, as far as the device has such properties.
    ///
    /// # Errors
    ///
    /// Why it cannot be read; it never will be.
    pub(super) fn read(payload: &[u8], device: &Device) -> Result<Self, String> {
        if payload.len() > MOST_BYTES {
            let size = payload.len();
            return Err(format!(
                "a report of {size} bytes is larger than the {MOST_BYTES} allowed"
            ));
        }
        let mut said: DeviceStatusStatus =
            serde_json::from_slice(payload).map_err(|error| format!("the report cannot be read: {error}"))?;
        said.extensions = None;
        let declared: BTreeSet<&str> = device
            .spec
            .properties
            .iter()
            .map(|property| property.name.as_str())
            .collect();
        said.twins
            .retain(|twin| declared.contains(twin.property_name.as_str()));
        let digest = |said: &DeviceStatusStatus| Digest::of(json!(said).to_string().as_bytes());
        let values = DeviceStatusStatus {
            twins: said.twins.iter().map(timeless).collect(),
            last_online_time: None,
            ..said.clone()
        };
        Ok(Self {
            whole: digest(&said),
            values: digest(&values),
            said,
        })
    }

    /// Whether it names a property and leaves its value as it is: the node has it from before its boot, and
    /// does not say again what may be old.
    pub(super) fn leaves_some(&self) -> bool {
        self.said.twins.iter().any(|twin| twin.reported.is_none())
    }

    /// With the values that it leaves, as the status shows them.
    pub(super) fn over(&self, shown: &[Twin]) -> Self {
        let mut filled = self.clone();
        let left = filled
            .said
            .twins
            .iter_mut()
            .filter(|twin| twin.reported.is_none());
        for twin in left {
            let same = shown
                .iter()
                .find(|other| other.property_name == twin.property_name);
            twin.reported = same.and_then(|same| same.reported.clone());
        }
        filled
    }

    /// The device's state, if the node says one.
    pub(super) fn state(&self) -> Option<&str> {
        self.said.state.as_deref()
    }

    /// The values at a glance, as `kubectl get devicestatus` shows them.
    fn glance(&self) -> String {
        let mut text = String::new();
        for twin in &self.said.twins {
            let Some(reported) = &twin.reported else { continue };
            let value: String = reported
                .value
                .chars()
                .filter(|c| !c.is_control())
                .take(GLANCE_VALUE)
                .collect();
            let space = if text.is_empty() { "" } else { " " };
            let more = format!("{space}{}={value}", twin.property_name);
            if text.len() + more.len() > GLANCE {
                text.push_str(" …");
                break;
            }
            text.push_str(&more);
        }
        text
    }

    /// The status as it is written: lists whole, and nothing else touched.
    fn status(&self) -> Value {
        let mut status = Map::new();
        status.insert("twins".into(), json!(self.said.twins));
        if let Some(state) = &self.said.state {
            status.insert("state".into(), json!(state));
        }
        if let Some(seen) = &self.said.last_online_time {
            status.insert("lastOnlineTime".into(), json!(seen));
        }
        Value::Object(status)
    }
}

fn timeless(twin: &Twin) -> Twin {
    let timeless = |value: &TwinValue| {
        let mut value = value.clone();
        value.metadata.retain(|key, _| !TIMES.contains(&key.as_str()));
        value
    };
    Twin {
        property_name: twin.property_name.clone(),
        reported: twin.reported.as_ref().map(timeless),
        observed_desired: twin.observed_desired.as_ref().map(timeless),
    }
}

/// The status that a write goes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) uid: String,
    pub(super) revision: String,
}

impl Base {
    /// The status as an answer has it.
    pub(super) fn of(answer: &[u8]) -> Option<Self> {
        let answer: Value = serde_json::from_slice(answer).ok()?;
        let text = |field: &str| answer["metadata"][field].as_str().map(str::to_owned);
        Some(Self {
            uid: text("uid")?,
            revision: text("resourceVersion")?,
        })
    }
}

/// A `DeviceStatus` for a device, with what was reported if anything was.
pub(super) fn created(device: &KnownDevice, report: Option<&Report>) -> Value {
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

/// The twins of a status, as an answer has them; none that cannot be read.
pub(super) fn twins(answer: &[u8]) -> Vec<Twin> {
    let mut answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    serde_json::from_value(answer["status"]["twins"].take()).unwrap_or_default()
}

/// A merge patch of that very status, at that very revision.
pub(super) fn patched(device: &KnownDevice, report: &Report, base: &Base, adopt: bool) -> Value {
    let mut metadata = json!({
        "uid": base.uid, "resourceVersion": base.revision, "labels": labels(device),
        "annotations": { VALUES: report.glance() },
    });
    if adopt {
        metadata["ownerReferences"] = json!([owner(device)]);
    }
    json!({ "metadata": metadata, "status": report.status() })
}

/// A merge patch of the Device itself, which shows its state at a glance.
pub(super) fn state_patch(device: &KnownDevice, state: &str) -> Value {
    json!({ "metadata": { "uid": device.uid }, "status": { "state": state } })
}

fn owner(device: &KnownDevice) -> Value {
    json!({
        "apiVersion": API_VERSION, "kind": "Device", "name": device.key.name, "uid": device.uid,
        "controller": true, "blockOwnerDeletion": false,
    })
}

/// Labels to select by; a name that is too long for one is null, which takes the label away.
fn labels(device: &KnownDevice) -> Map<String, Value> {
    let fits = |name: &str| (!name.is_empty() && name.len() <= LABEL).then(|| name.to_owned());
    let model = device.model.as_ref().and_then(|model| fits(&model.name));
    let labels = [(NODE_LABEL, fits(&device.node)), (MODEL_LABEL, model)];
    labels
        .into_iter()
        .map(|(label, value)| (label.to_owned(), json!(value)))
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use protocol::object::Kind;

    use super::*;

    pub(in super::super) fn pump() -> KnownDevice {
        KnownDevice {
            key: ObjectKey::new(Kind::Device, "n", "pump"),
            uid: "u".into(),
            node: "e1".into(),
            model: Some(ObjectKey::new(Kind::DeviceModel, "n", "m")),
            state: None,
            status: None,
            content: (Digest::of(b""), None),
            is_here: true,
        }
    }

    fn device(properties: &[&str]) -> Device {
        let properties: Vec<Value> = properties.iter().map(|name| json!({ "name": name })).collect();
        serde_json::from_value(json!({ "spec": { "properties": properties } })).unwrap()
    }

    fn twin(name: &str, value: &str, at: &str) -> Value {
        json!({ "propertyName": name, "reported": { "value": value, "metadata": { "timestamp": at, "quality": "good" } } })
    }

    fn report(status: &Value, properties: &[&str]) -> Report {
        Report::read(status.to_string().as_bytes(), &device(properties)).unwrap()
    }

    #[test]
    fn a_property_that_the_device_has_not_leaves_the_twins() {
        let said = json!({ "twins": [twin("t", "1", "1"), twin("gone", "2", "1")], "state": "online" });
        let base = Base {
            uid: "s".into(),
            revision: "7".into(),
        };
        let patch = patched(&pump(), &report(&said, &["t", "other"]), &base, false);
        assert_eq!(patch["status"]["twins"], json!([twin("t", "1", "1")]));
        assert_eq!(patch["status"]["state"], "online");
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        assert!(patch["metadata"].get("ownerReferences").is_none());
        let none = patched(&pump(), &report(&said, &[]), &base, true);
        assert_eq!(none["status"]["twins"], json!([]), "the list is written, empty");
        assert_eq!(none["metadata"]["ownerReferences"][0]["uid"], "u");
    }

    #[test]
    fn a_value_that_the_node_leaves_stays_as_it_is_shown() {
        let said =
            json!({ "twins": [twin("t", "2", "9"), { "propertyName": "old" }, { "propertyName": "new" }] });
        let said = report(&said, &["t", "old", "new"]);
        assert!(said.leaves_some());
        let answer = json!({ "status": { "twins": [twin("t", "1", "1"), twin("old", "7", "1"), twin("x", "8", "1")] } });
        let filled = said.over(&twins(answer.to_string().as_bytes()));
        assert_eq!(
            filled.status()["twins"],
            json!([twin("t", "2", "9"), twin("old", "7", "1"), { "propertyName": "new" }])
        );
        assert_eq!(filled.values, said.values, "what was said is the same");
        assert_eq!(twins(b"{}"), []);
    }

    #[test]
    fn the_glance_names_each_value_and_has_an_end() {
        let twins: Vec<Value> = (0..100)
            .map(|number| twin(&format!("p{number}"), "1\n2", "1"))
            .collect();
        let names: Vec<String> = (0..100).map(|number| format!("p{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let glance = report(&json!({ "twins": twins }), &names).glance();
        assert!(
            glance.starts_with("p0=12 p1=12 ") && glance.ends_with(" …"),
            "{glance}"
        );
        assert!(glance.len() <= GLANCE + " …".len());
    }

    #[test]
    fn extensions_are_never_written() {
        let said = json!({ "twins": [], "extensions": { "x": 1 } });
        let created = created(&pump(), Some(&report(&said, &[])));
        assert_eq!(created["status"], json!({ "twins": [] }));
    }

    #[test]
    fn times_alone_are_no_change_of_a_value() {
        let at = |time: &str, value: &str| {
            report(
                &json!({ "twins": [twin("t", value, time)], "lastOnlineTime": time }),
                &["t"],
            )
        };
        let (first, later, other) = (at("1", "a"), at("2", "a"), at("1", "b"));
        assert_ne!(first.whole, later.whole);
        assert_eq!(first.values, later.values);
        assert_ne!(first.values, other.values);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for bad in ["[", r#"{"twins":{}}"#] {
            assert!(Report::read(bad.as_bytes(), &device(&[])).is_err(), "{bad}");
        }
        let large = format!("{{\"state\":\"{}\"}}", "x".repeat(MOST_BYTES));
        assert!(
            Report::read(large.as_bytes(), &device(&[]))
                .unwrap_err()
                .contains("larger")
        );
    }

    #[test]
    fn a_status_belongs_to_its_device_and_says_where_it_is() {
        let made = created(&pump(), None);
        assert_eq!(
            made["metadata"]["labels"],
            json!({ "tombolo.dev/node": "e1", "tombolo.dev/model": "m" })
        );
        assert_eq!(made["metadata"]["ownerReferences"][0]["controller"], true);
        let mut long = pump();
        long.node = "x".repeat(64);
        assert_eq!(
            created(&long, None)["metadata"]["labels"],
            json!({ "tombolo.dev/model": "m" })
        );
    }
}
