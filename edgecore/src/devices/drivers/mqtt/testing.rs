//! Manifests for the tests of this driver.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::topics::Allowed;
use crate::devices::{Served, merge};

pub(in crate::devices::drivers) fn served(manifest: Value) -> Served {
    merge(&serde_json::from_value(manifest).unwrap(), None)
}

pub(super) fn allowed() -> Allowed {
    let topics = ["zigbee2mqtt/#", "stat/#", "tele/#", "cmnd/#", "esphome/#"];
    let topics = topics.map(str::to_owned).to_vec();
    Allowed::new(BTreeMap::from([("hall".to_owned(), topics)]))
}

/// A device in the namespace `hall`.
pub(super) fn device(name: &str, config: &Value, visitors: &[(&str, Value)]) -> Value {
    let property = |(name, visitor): &(&str, Value)| json!({"name": name, "confirmTimeout": 2000, "visitors": {"configData": visitor}});
    json!({
        "metadata": {"name": name, "namespace": "hall", "uid": "u"},
        "spec": {
            "protocol": {"protocolName": "tombolo/mqtt", "configData": config},
            "properties": visitors.iter().map(property).collect::<Vec<_>>()
        }
    })
}

/// A lamp behind `Zigbee2MQTT`: `power` and `level`.
pub(in crate::devices::drivers) fn lamp() -> Value {
    device(
        "lamp",
        &json!({"baseTopic": "zigbee2mqtt/lamp", "availability": {"topic": "~/availability", "path": "$.state"}}),
        &[
            (
                "power",
                json!({
                    "read": {"path": "$.state", "timePath": "$.last_seen"},
                    "map": {"ON": true, "OFF": false},
                    "write": {"topic": "~/set", "template": "{\"state\": {{ value | tojson }}}"}
                }),
            ),
            (
                "level",
                json!({
                    "read": {"path": "$.brightness"},
                    "write": {"topic": "~/set", "template": "{\"brightness\": {{ json }}}"}
                }),
            ),
        ],
    )
}
