//! Who owns which field of a Pod's and a Node's status.
//!
//! The edge owns what it observes; everything else in a status belongs to others and is kept as
//! it is. The canonical body (what travels down) keeps only what others own; a report (what
//! travels up) changes only what the edge owns.

use serde_json::{Map, Value};

/// Pod conditions that the node writes.
pub const POD_CONDITIONS: [&str; 8] = [
    "PodScheduled",
    "Ready",
    "Initialized",
    "ContainersReady",
    "PodReadyToStartContainers",
    "PodResizeInProgress",
    "PodResizePending",
    "AllContainersRestarting",
];

/// Pod conditions that the node may write but others write too: kept unless the node says them.
pub const POD_CONDITIONS_SHARED: [&str; 2] = ["PodScheduled", "DisruptionTarget"];

/// Fields of a Pod's status that the node never writes, besides foreign conditions.
pub const POD_STATUS_FOREIGN: [&str; 1] = ["resourceClaimStatuses"];

/// Node conditions that the node writes.
pub const NODE_CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Fields of a Node's status that the node writes, besides its conditions.
pub const NODE_STATUS: [&str; 7] = [
    "capacity",
    "allocatable",
    "nodeInfo",
    "images",
    "runtimeHandlers",
    "features",
    "volumesInUse",
];

/// The field of a condition that changes with each report.
const HEARTBEAT: &str = "lastHeartbeatTime";

/// Whether a pod condition of this type belongs to the node alone.
pub fn is_pod_condition(condition: &str) -> bool {
    POD_CONDITIONS.contains(&condition)
}

/// Whether a node condition of this type belongs to the node alone.
pub fn is_node_condition(condition: &str) -> bool {
    NODE_CONDITIONS.contains(&condition)
}

/// Whether a merge patch of a status would change nothing that counts in `current`: heartbeats are
/// left out, times are cut to the API server's seconds, and what it leaves out because it is
/// empty is as good as missing.
pub fn changes_nothing(patch: &Value, current: &Value) -> bool {
    let Value::Object(fields) = patch else {
        return is_same(patch, current);
    };
    let mut counting = fields.iter().filter(|(field, _)| *field != HEARTBEAT);
    counting.all(|(field, value)| changes_nothing(value, &current[field.as_str()]))
}

fn is_same(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let mut fields = ours
                .keys()
                .chain(theirs.keys())
                .filter(|field| *field != HEARTBEAT);
            let of = |map: &Map<String, Value>, field: &String| map.get(field).cloned().unwrap_or_default();
            fields.all(|field| is_same(&of(ours, field), &of(theirs, field)))
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            let (ours, theirs) = (by_type(ours), by_type(theirs));
            ours.len() == theirs.len()
                && ours
                    .iter()
                    .zip(theirs)
                    .all(|(ours, theirs)| is_same(ours, theirs))
        }
        (Value::String(ours), Value::String(theirs)) => to_seconds(ours) == to_seconds(theirs),
        (ours, theirs) => ours == theirs || (is_empty(ours) && is_empty(theirs)),
    }
}

/// Conditions have no order; whatever else has none of their types keeps its own.
fn by_type(list: &[Value]) -> Vec<&Value> {
    let mut sorted: Vec<&Value> = list.iter().collect();
    sorted.sort_by_key(|item| item["type"].as_str().unwrap_or_default());
    sorted
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// `2026-01-02T03:04:05.678Z` without its fraction; any other text as it is.
fn to_seconds(text: &str) -> (&str, &str) {
    let is_time = text.ends_with('Z') && text.as_bytes().get(10) == Some(&b'T') && text.len() >= 20;
    if !is_time {
        return (text, "");
    }
    match text.split_once('.') {
        Some((seconds, _)) => (seconds, "Z"),
        None => (text.trim_end_matches('Z'), "Z"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_api_server_leaves_out_or_cuts_is_no_change() {
        let patch = json!({
            "phase": "Running", "reason": null, "initContainerStatuses": [],
            "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-02T03:04:05.678Z", "lastHeartbeatTime": "2026-01-02T03:04:05Z"},
                {"type": "Initialized", "status": "True"},
            ],
        });
        let current = json!({
            "phase": "Running", "qosClass": "Burstable",
            "conditions": [
                {"type": "Initialized", "status": "True", "lastProbeTime": null},
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z", "lastHeartbeatTime": "2025-01-01T00:00:00Z"},
            ],
        });
        assert!(changes_nothing(&patch, &current));
    }

    #[test]
    fn another_writers_flip_is_a_change() {
        let patch = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        let current = json!({"conditions": [{"type": "Ready", "status": "False"}]});
        assert!(!changes_nothing(&patch, &current));
        let more =
            json!({"conditions": [{"type": "Ready", "status": "True"}, {"type": "Gate", "status": "True"}]});
        assert!(!changes_nothing(&patch, &more));
    }

    #[test]
    fn a_field_that_is_over_is_a_change_while_it_stands() {
        assert!(!changes_nothing(
            &json!({"reason": null}),
            &json!({"reason": "Evicted"})
        ));
        assert!(changes_nothing(&json!({"reason": null}), &json!({})));
        assert!(!changes_nothing(
            &json!({"restartCount": 1}),
            &json!({"restartCount": 0})
        ));
    }
}
