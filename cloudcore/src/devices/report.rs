//! What a node says of a device, as far as the cluster shows it. Pure.
//!
//! **Invariant:** of the twins only those stay whose property the Device or its model has, and all of
//! these go into every write: what is not in the newest report is not in the status.

use std::collections::BTreeSet;

use protocol::devices::{Device, DeviceModel, DeviceStatusStatus, Twin, TwinValue};
use protocol::object::Digest;
use serde_json::{Map, Value, json};

/// What a glance takes in, and of one value.
const GLANCE: usize = 160;
const GLANCE_VALUE: usize = 32;
/// What tells when a value was seen, and not what it is.
const TIMES: [&str; 3] = ["timestamp", "deviceTimestamp", "version"];

/// A report that was read.
#[derive(Clone, Debug)]
pub struct Report {
    said: DeviceStatusStatus,
    /// Of all that is said.
    pub whole: Digest,
    /// Of all but when it was seen.
    pub values: Digest,
}

impl Report {
    /// Reads what a node said, as far as the device or its model has such properties.
    ///
    /// # Errors
    ///
    /// Why it cannot be read; it never will be.
    pub fn read(payload: &[u8], device: &Device, model: Option<&DeviceModel>) -> Result<Self, String> {
        let mut said: DeviceStatusStatus =
            serde_json::from_slice(payload).map_err(|error| format!("the report cannot be read: {error}"))?;
        said.extensions = None;
        let has = names(device, model);
        said.twins
            .retain(|twin| has.contains(twin.property_name.as_str()));
        let named: BTreeSet<&str> = said
            .twins
            .iter()
            .map(|twin| twin.property_name.as_str())
            .collect();
        said.left.retain(|name, _| named.contains(name.as_str()));
        Ok(Self::of(said))
    }

    /// What a status says, if a report may have been written just so; what others keep there aside.
    pub fn shown(mut status: Value) -> Option<Self> {
        let fields = status.as_object_mut()?;
        fields.remove("extensions");
        if fields
            .get("twins")
            .and_then(Value::as_array)
            .is_some_and(Vec::is_empty)
        {
            fields.remove("twins");
        }
        let said: DeviceStatusStatus = serde_json::from_value(status.clone()).ok()?;
        (said.left.is_empty() && json!(said) == status).then(|| Self::of(said))
    }

    fn of(said: DeviceStatusStatus) -> Self {
        let digest = |said: &DeviceStatusStatus| Digest::of(json!(said).to_string().as_bytes());
        let values = DeviceStatusStatus {
            twins: said.twins.iter().map(timeless).collect(),
            last_online_time: None,
            ..said.clone()
        };
        Self {
            whole: digest(&said),
            values: digest(&values),
            said,
        }
    }

    /// Whether there are values that the node has from before its boot, and does not say again.
    pub fn leaves_some(&self) -> bool {
        !self.said.left.is_empty()
    }

    /// With the values that it leaves: the newer one of what the status shows and what the node has.
    #[must_use]
    pub fn over(&self, shown: &[Twin]) -> Self {
        let mut filled = self.clone();
        let left = std::mem::take(&mut filled.said.left);
        for twin in &mut filled.said.twins {
            let Some(left) = left.get(&twin.property_name) else {
                continue;
            };
            let same = shown
                .iter()
                .find(|other| other.property_name == twin.property_name);
            twin.reported = Some(newer(same.and_then(|same| same.reported.as_ref()), left));
        }
        filled
    }

    /// The twins, as they are written.
    pub fn twins(&self) -> &[Twin] {
        &self.said.twins
    }

    /// The device's state, if the node says one.
    pub fn state(&self) -> Option<&str> {
        self.said.state.as_deref()
    }

    /// The values at a glance, as `kubectl get devicestatus` shows them.
    pub fn glance(&self) -> String {
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
    pub fn status(&self) -> Value {
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

/// Every property of a device, whoever lists it.
fn names<'a>(device: &'a Device, model: Option<&'a DeviceModel>) -> BTreeSet<&'a str> {
    let own = device
        .spec
        .properties
        .iter()
        .map(|property| property.name.as_str());
    let of_model = model.into_iter().flat_map(|model| &model.spec.properties);
    own.chain(of_model.map(|property| property.name.as_str()))
        .collect()
}

/// What is shown of a value from before a boot. Versions grow with every value of a device, at whatever
/// node; what is older than the boot is not good any more.
fn newer(shown: Option<&TwinValue>, left: &TwinValue) -> TwinValue {
    let version = |value: &TwinValue| {
        value
            .metadata
            .get("version")
            .and_then(|text| text.parse::<u64>().ok())
    };
    let Some(shown) = shown.filter(|shown| version(shown) > version(left)) else {
        return left.clone();
    };
    let mut shown = shown.clone();
    let quality = shown.metadata.entry("quality".to_owned()).or_default();
    if quality != "error" {
        "stale".clone_into(quality);
    }
    shown
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

#[cfg(test)]
pub(super) mod tests;
