//! The objects of the world, as an API server shows them.

use protocol::object::{Kind, ObjectKey};
use serde_json::{Map, Value, json};

/// The one namespace.
pub(crate) const NAMESPACE: &str = "shop";

/// Changes of a pod's spec that the world makes.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodSpec {
    pub(crate) image: u64,
    pub(crate) config_maps: Vec<u8>,
    pub(crate) secrets: Vec<u8>,
    pub(crate) policy: &'static str,
}

pub(crate) fn key(kind: Kind, name: impl Into<String>) -> ObjectKey {
    let namespace = if kind.is_namespaced() { NAMESPACE } else { "" };
    ObjectKey::new(kind, namespace, name)
}

pub(crate) fn pod(name: &str, node: &str, spec: &PodSpec) -> Value {
    let maps = spec
        .config_maps
        .iter()
        .map(|n| json!({"name": format!("cm{n}"), "configMap": {"name": format!("c{n}"), "optional": true}}));
    let secrets = spec.secrets.iter().map(
        |n| json!({"name": format!("se{n}"), "secret": {"secretName": format!("s{n}"), "optional": true}}),
    );
    let volumes: Vec<Value> = maps.chain(secrets).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "nodeName": node,
            "restartPolicy": spec.policy,
            "terminationGracePeriodSeconds": 30,
            "containers": [{"name": "main", "image": format!("shop:{}", spec.image)}],
            "volumes": volumes,
        },
        "status": {"phase": "Pending"},
    })
}

/// A ConfigMap, Secret or Service: whatever has a name and content.
pub(crate) fn plain(kind: Kind, name: &str, content: u64) -> Value {
    let mut object = json!({
        "apiVersion": "v1",
        "kind": kind.name(),
        "metadata": {"name": name, "namespace": NAMESPACE},
    });
    match kind {
        Kind::Service => object["spec"] = json!({"clusterIP": format!("10.96.0.{}", content % 250)}),
        Kind::ConfigMap
        | Kind::Secret
        | Kind::RuntimeClass
        | Kind::DeviceModel
        | Kind::Device
        | Kind::Pod
        | Kind::Node => {
            object["data"] = json!({"content": content.to_string()});
        }
    }
    object
}

/// What an edge says of its node.
pub(crate) fn node_document(ready: &str) -> Value {
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "Sim"});
    json!({
        "metadata": {},
        "status": {
            "conditions": [
                condition("Ready", ready), condition("MemoryPressure", "False"),
                condition("DiskPressure", "False"), condition("PIDPressure", "False"),
            ],
            "capacity": {"cpu": "4", "pods": "110"},
            "allocatable": {"cpu": "4", "pods": "110"},
            "nodeInfo": {"kubeletVersion": "v1.36.3+tombolo.0.1.0"},
        },
    })
}

/// The status of a condition.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|c| c["type"] == kind)?["status"].as_str()
}

pub(crate) fn set_condition(object: &mut Value, kind: &str, status: &str) {
    let Some(conditions) = object["status"]["conditions"].as_array_mut() else {
        return;
    };
    for condition in conditions.iter_mut().filter(|c| c["type"] == kind) {
        condition["status"] = json!(status);
    }
}

/// RFC 7386.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (field, value) in fields {
        match (value, target.as_object_mut()) {
            (Value::Null, Some(target)) => drop(target.remove(field)),
            (value, Some(target)) => merge(target.entry(field.clone()).or_insert(Value::Null), value),
            (_, None) => {}
        }
    }
}
