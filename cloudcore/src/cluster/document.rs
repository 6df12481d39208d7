//! What a node says of itself, checked and turned into what is written for it. Pure.
//!
//! What it is: the allow-list of a registration, the Node that cloudcore creates from it, and the
//! merge patches of status. What it is not: a request; `nodes.rs` and `pods.rs` send these.
//!
//! **Invariant:** cloudcore creates Nodes under its own name, where NodeRestriction does not look.
//! Whatever NodeRestriction would refuse is therefore refused here, before cloudcore adds what
//! only it may say.

use std::collections::BTreeMap;

use protocol::labels::{may_set_label, may_set_taint};
use protocol::name::NodeName;
use protocol::object::{Object, owned};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::labels;

mod marks;

/// Fields of a Pod's status that the edge owns; what it leaves out is removed.
const POD_FIELDS: [&str; 16] = [
    "phase",
    "conditions",
    "message",
    "reason",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "resize",
    "resources",
    "allocatedResources",
    "observedGeneration",
];
/// What is wrong with a node's document.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Not JSON, or a field that a node may not set (`ownerReferences`, `podCIDR`, `providerID`, ...).
    #[error("it is not a node document")]
    Malformed(#[source] serde_json::Error),
    /// It names another node.
    #[error("it names node {0}")]
    OtherName(String),
    /// A label that a node may not set of itself.
    #[error("a node may not set the label {0}")]
    Label(String),
    /// A taint that a node may not set of itself.
    #[error("a node may not set the taint {0}")]
    Taint(String),
    /// A name that cannot be one.
    #[error("\"{0}\" is not a name")]
    Name(String),
    /// An event about what is not the node's.
    #[error("its event is about {0}, which is not its own")]
    Foreign(String),
    /// A status without the fields that make a node usable.
    #[error("its status has no {0}")]
    Incomplete(&'static str),
}

/// A node's description of itself, as the edge sends it: a Node with nothing but these fields.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NodeDocument {
    #[serde(default, rename = "apiVersion")]
    _api_version: String,
    #[serde(default, rename = "kind")]
    _kind: String,
    #[serde(default)]
    metadata: DocumentMeta,
    #[serde(default)]
    spec: DocumentSpec,
    status: Map<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DocumentMeta {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DocumentSpec {
    taints: Option<Vec<Taint>>,
    #[serde(default)]
    unschedulable: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Taint {
    key: String,
    #[serde(default)]
    value: String,
    effect: String,
}

impl NodeDocument {
    /// Reads and checks a document.
    pub fn parse(node: &NodeName, text: &[u8]) -> Result<Self, DocumentError> {
        let document: Self = serde_json::from_slice(text).map_err(DocumentError::Malformed)?;
        document.check(node)?;
        Ok(document)
    }

    fn check(&self, node: &NodeName) -> Result<(), DocumentError> {
        if let Some(name) = self
            .metadata
            .name
            .as_ref()
            .filter(|name| name.as_str() != node.as_ref())
        {
            return Err(DocumentError::OtherName(name.clone()));
        }
        if let Some(label) = self.metadata.labels.keys().find(|label| !may_set_label(label)) {
            return Err(DocumentError::Label(label.clone()));
        }
        let taints = self.spec.taints.iter().flatten();
        if let Some(taint) = taints.into_iter().find(|taint| !may_set_taint(&taint.key)) {
            return Err(DocumentError::Taint(taint.key.clone()));
        }
        let needed = ["conditions", "capacity", "allocatable", "nodeInfo"];
        match needed.into_iter().find(|field| !self.status.contains_key(*field)) {
            Some(field) => Err(DocumentError::Incomplete(field)),
            None => Ok(()),
        }
    }

    /// The Node that cloudcore creates, in one POST with full status.
    pub fn registration(&self, node: &NodeName, addresses: Option<&Value>) -> Value {
        let mut status: Map<String, Value> = self.owned_status().collect();
        status.extend(addresses.map(|addresses| ("addresses".into(), addresses.clone())));
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": node.to_string(), "labels": self.all_labels(node), "annotations": self.first_annotations() },
            "spec": { "taints": self.taints(), "unschedulable": self.spec.unschedulable },
            "status": status,
        })
    }

    /// The merge patch that brings a Node's status up to date, given the Node as it is.
    pub fn status_patch(&self, current: &Value, addresses: Option<&Value>) -> Value {
        let before = &current["status"];
        let mut status: Map<String, Value> = self.owned_status().collect();
        keep_foreign(&mut status, before, owned::is_node_condition);
        for field in ["capacity", "allocatable"] {
            remove_missing(&mut status, before, field);
        }
        if let Some(addresses) = addresses.filter(|addresses| before["addresses"] != **addresses) {
            status.insert("addresses".into(), addresses.clone());
        }
        json!({ "metadata": precondition(current), "status": status })
    }

    fn owned_status(&self) -> impl Iterator<Item = (String, Value)> {
        let owned = self.status.iter().filter(|(field, _)| is_node_field(field));
        owned.map(|(field, value)| (field.clone(), value.clone()))
    }

    fn all_labels(&self, node: &NodeName) -> BTreeMap<String, String> {
        let mut all = BTreeMap::from([
            (labels::REGION.into(), "edge".into()),
            (labels::ZONE.into(), node.to_string()),
            (labels::AUTONOMY.into(), "true".into()),
        ]);
        all.extend(self.metadata.labels.clone());
        // Pods choose nodes by it: a device must not draw those that were meant for another.
        all.insert(labels::HOSTNAME.into(), node.to_string());
        all.extend(
            [labels::OURS, labels::ROLE, labels::NO_LOAD_BALANCER].map(|label| (label.into(), String::new())),
        );
        all
    }

    /// The configured taints; the edge's own one where none are configured.
    fn taints(&self) -> Value {
        match &self.spec.taints {
            None => json!([{ "key": labels::ROLE, "effect": "NoSchedule" }]),
            Some(taints) => taints
                .iter()
                .map(|t| json!({"key": t.key, "value": t.value, "effect": t.effect}))
                .collect(),
        }
    }
}

/// The Node that takes the place of one that was deleted while enrolled.
///
/// Labels, annotations, taints, unschedulable and the last status are kept; what the server or
/// other controllers assign (uid, podCIDR, owners, finalizers) is not.
pub fn reborn(deleted: &Value) -> Value {
    let meta = &deleted["metadata"];
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": meta["name"], "labels": meta["labels"], "annotations": meta["annotations"] },
        "spec": {
            "taints": deleted["spec"]["taints"].as_array().map(|all| without_lifecycle_taints(all)),
            "unschedulable": deleted["spec"]["unschedulable"],
        },
        "status": deleted["status"],
    })
}

/// The node controller adds its taints again where they are still true.
fn without_lifecycle_taints(taints: &[Value]) -> Vec<Value> {
    let ours = |taint: &&Value| {
        taint["key"]
            .as_str()
            .is_some_and(|key| !key.starts_with("node.kubernetes.io/"))
    };
    taints.iter().filter(ours).cloned().collect()
}

/// The merge patch that makes a Pod's status what the edge reports.
///
/// `current` is the Pod as it is, or as much of it as matters: metadata with uid and
/// resourceVersion, and `status.conditions`.
pub fn pod_status_patch(current: &Value, reported: &Map<String, Value>) -> Value {
    let mut status = Map::new();
    for field in POD_FIELDS {
        status.insert(field.into(), reported.get(field).cloned().unwrap_or(Value::Null));
    }
    if let Some(class) = reported.get("qosClass") {
        status.insert("qosClass".into(), class.clone());
    }
    keep_foreign(&mut status, &current["status"], is_the_edges);
    json!({ "metadata": precondition(current), "status": status })
}

/// As much of a cached Pod as [`pod_status_patch`] needs.
pub fn pod_as_cached(object: &Object) -> Option<Value> {
    let status: Value = match &object.seed_status {
        Some(status) => serde_json::from_slice(&status.json().ok()?).ok()?,
        None => json!({}),
    };
    let metadata = json!({
        "uid": object.version.uid,
        "resourceVersion": object.version.revision.to_string(),
    });
    Some(json!({ "metadata": metadata, "status": status }))
}

/// Addresses and daemonEndpoints are cloudcore's; `declaredFeatures` says what the node can do.
fn is_node_field(field: &str) -> bool {
    owned::NODE_STATUS.contains(&field) || matches!(field, "conditions" | "declaredFeatures")
}

/// Whether the edge alone writes a condition of a Pod, so that leaving it out removes it.
fn is_the_edges(condition: &str) -> bool {
    owned::is_pod_condition(condition) && !owned::POD_CONDITIONS_SHARED.contains(&condition)
}

fn precondition(current: &Value) -> Value {
    json!({ "uid": current["metadata"]["uid"], "resourceVersion": current["metadata"]["resourceVersion"] })
}

/// Adds the conditions that others wrote: a merge patch replaces the whole list.
fn keep_foreign(status: &mut Map<String, Value>, before: &Value, is_owned: fn(&str) -> bool) {
    let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) else {
        return;
    };
    let named: Vec<String> = conditions
        .iter()
        .filter_map(|c| c["type"].as_str().map(str::to_owned))
        .collect();
    let foreign = before["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|condition| {
            condition["type"]
                .as_str()
                .is_some_and(|kind| !is_owned(kind) && !named.iter().any(|n| n == kind))
        });
    conditions.extend(foreign.cloned());
}

/// In a merge patch a map loses only the entries that are set to null.
fn remove_missing(status: &mut Map<String, Value>, before: &Value, field: &str) {
    let Some(now) = status.get_mut(field).and_then(Value::as_object_mut) else {
        return;
    };
    for old in before[field]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name)
    {
        now.entry(old.clone()).or_insert(Value::Null);
    }
}

#[cfg(test)]
mod tests;
