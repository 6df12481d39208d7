//! Devices in the world: who makes, moves and deletes them, what they say at the edge, what replicas
//! write of them, and what must be true of that.
//!
//! Real: edgecore's book of twins with its merge, log and rounds (`Stage`); cloudcore's judge, reading
//! of reports, order of requests, documents, comparison and pace. Modelled, with the constants of the
//! code that they follow: the waiting, the list that a session begins with, the outbox between memory and flash (`reported/devices.rs`), the
//! flash, the garbage collector.
//!
//! Each device counts: whatever it says is more than all that it said before, wherever it is.

mod begin;
mod cloud;
mod edge;
mod laws;
mod user;
mod writes;

pub(super) use cloud::{Pasts, shown};
pub(super) use edge::{DevicePart, Journal};
pub(super) use laws::DeviceLaws;

use protocol::devices::DeviceStatusStatus;
use serde_json::{Value, json};

use super::objects::NAMESPACE;

/// The property that counts.
pub(super) const COUNT: &str = "count";
/// A property that only models have, and not always.
const EXTRA: &str = "extra";

fn device(name: &str, node: &str, model: &str, durable: bool) -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": {
            "deviceModelRef": { "name": model }, "nodeName": node,
            "properties": [{ "name": COUNT, "durable": durable }],
        },
    })
}

fn model(name: &str, extra: bool) -> Value {
    let mut properties = vec![json!({ "name": COUNT, "type": "INT" })];
    if extra {
        properties.push(json!({ "name": EXTRA, "type": "INT" }));
    }
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": { "properties": properties },
    })
}

/// A value in a status, with its quality.
fn shown_of(status: &DeviceStatusStatus, property: &str) -> Option<(u64, String)> {
    let twin = status.twins.iter().find(|twin| twin.property_name == property)?;
    let reported = twin.reported.as_ref()?;
    let quality = reported.metadata.get("quality").cloned().unwrap_or_default();
    Some((reported.value.parse().ok()?, quality))
}
