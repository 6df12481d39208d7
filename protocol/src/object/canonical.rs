//! The canonical body: what the API server says of an object, less what changes without
//! meaning anything to the node.
//!
//! Cut away: `managedFields`, `resourceVersion` and `status`. Of the status stays what others
//! own: a Pod's foreign conditions and resource claims, a Node's attached volumes. Keys are
//! sorted and `kind` and `apiVersion` are always there, so that a list and a watch give the
//! same bytes.

use serde_json::{Map, Value};
use thiserror::Error;

use super::{Body, Digest, Kind, MAX_BODY, Object, ObjectKey, Revision, Version, owned};

/// Why an object cannot be replicated. The object is skipped until it changes.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CanonicalError {
    /// Not JSON, or not an object.
    #[error("a {kind} from the API server is not a JSON object")]
    Json {
        /// The kind that was expected.
        kind: Kind,
        /// What the parser says, if it is not JSON at all.
        source: Option<serde_json::Error>,
    },
    /// A field that every object has is missing or unreadable.
    #[error("a {kind} from the API server has no readable metadata.{field}")]
    Metadata {
        /// The kind that was expected.
        kind: Kind,
        /// The field.
        field: &'static str,
    },
    /// The object is larger than a node takes.
    #[error("{key} has {bytes} bytes, more than the {MAX_BODY} that a node takes; make it smaller")]
    TooLarge {
        /// The object.
        key: ObjectKey,
        /// Its size.
        bytes: usize,
    },
}

/// Makes the canonical object from the API server's JSON.
pub fn canonical(kind: Kind, api_server_json: &[u8]) -> Result<Object, CanonicalError> {
    canonical_after(kind, api_server_json, None)
}

/// As [`canonical`]; shares the previous version's body when the digest did not change, so that
/// a status written back by the node costs no compression.
pub fn canonical_after(
    kind: Kind,
    api_server_json: &[u8],
    previous: Option<&Object>,
) -> Result<Object, CanonicalError> {
    let mut object: Map<String, Value> =
        serde_json::from_slice(api_server_json).map_err(|source| CanonicalError::Json {
            kind,
            source: Some(source),
        })?;
    let (key, uid, revision) = strip_metadata(kind, &mut object)?;
    let status = object.remove("status");
    if let Some(kept) = status.as_ref().and_then(|status| foreign_status(kind, status)) {
        object.insert("status".into(), kept);
    }
    object.insert("apiVersion".into(), kind.api_version().into());
    object.insert("kind".into(), kind.name().into());

    let json = sorted_bytes(Value::Object(object));
    if json.len() > MAX_BODY {
        return Err(CanonicalError::TooLarge {
            key,
            bytes: json.len(),
        });
    }
    let digest = Digest::of(&json);
    let body = match previous {
        Some(previous) if previous.version.digest == digest => previous.body.clone(),
        Some(_) | None => Body::compress(&json),
    };
    let seed_status = seed(kind, status);
    Ok(Object {
        key,
        version: Version {
            uid,
            revision,
            digest,
        },
        body,
        seed_status,
    })
}

/// Takes the identity out of the metadata, and the fields that do not count.
fn strip_metadata(
    kind: Kind,
    object: &mut Map<String, Value>,
) -> Result<(ObjectKey, String, Revision), CanonicalError> {
    let missing = |field| CanonicalError::Metadata { kind, field };
    let Some(Value::Object(metadata)) = object.get_mut("metadata") else {
        return Err(missing("name"));
    };
    metadata.remove("managedFields");
    if kind == Kind::Device {
        // Its state is a part of it for the API server, which counts our own writes of that here.
        metadata.remove("generation");
    }
    let revision = match metadata.remove("resourceVersion") {
        Some(Value::String(text)) => text.parse().map_err(|_| missing("resourceVersion"))?,
        Some(_) | None => return Err(missing("resourceVersion")),
    };
    let text = |field| metadata.get(field).and_then(Value::as_str).map(str::to_owned);
    let name = text("name").ok_or_else(|| missing("name"))?;
    let uid = text("uid").ok_or_else(|| missing("uid"))?;
    let namespace = match text("namespace") {
        Some(namespace) => namespace,
        None if kind.is_namespaced() => return Err(missing("namespace")),
        None => String::new(),
    };
    Ok((
        ObjectKey {
            kind,
            namespace,
            name,
        },
        uid,
        Revision(revision),
    ))
}

/// What others than the node own of a status.
fn foreign_status(kind: Kind, status: &Value) -> Option<Value> {
    let mut kept = Map::new();
    match kind {
        Kind::Pod => {
            let conditions: Vec<Value> = foreign_conditions(status);
            if !conditions.is_empty() {
                kept.insert("conditions".into(), conditions.into());
            }
            for field in owned::POD_STATUS_FOREIGN {
                keep(status, field, &mut kept);
            }
        }
        Kind::Node => keep(status, "volumesAttached", &mut kept),
        // Manifests of an earlier API kept what they ask for there.
        Kind::Device => {
            for field in ["reportToCloud", "reportCycle"] {
                keep(status, field, &mut kept);
            }
        }
        Kind::Service | Kind::RuntimeClass | Kind::ConfigMap | Kind::Secret | Kind::DeviceModel => {}
    }
    if kept.is_empty() {
        None
    } else {
        Some(Value::Object(kept))
    }
}

fn keep(status: &Value, field: &str, kept: &mut Map<String, Value>) {
    if let Some(value) = status.get(field) {
        kept.insert(field.into(), value.clone());
    }
}

fn foreign_conditions(status: &Value) -> Vec<Value> {
    let conditions = status.get("conditions").and_then(Value::as_array);
    let is_foreign = |condition: &&Value| !condition["type"].as_str().is_some_and(owned::is_pod_condition);
    conditions
        .into_iter()
        .flatten()
        .filter(is_foreign)
        .cloned()
        .collect()
}

/// The status that goes beside a Pod's body; other kinds have none.
fn seed(kind: Kind, status: Option<Value>) -> Option<Body> {
    let status = status.filter(|_| kind == Kind::Pod)?;
    Some(Body::compress(&sorted_bytes(status)))
}

/// JSON with sorted keys. `serde_json` may keep insertion order when another crate asks for it;
/// the digest must not depend on that.
fn sorted_bytes(value: Value) -> Vec<u8> {
    let mut value = value;
    value.sort_all_objects();
    // Writing a Value to memory cannot fail: its keys are strings.
    serde_json::to_vec(&value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(revision: &str, status: &Value) -> Vec<u8> {
        json!({
            "metadata": {
                "name": "a", "namespace": "n", "uid": "u", "resourceVersion": revision,
                "managedFields": [{"manager": "kubectl"}],
            },
            "spec": {"nodeName": "edge"},
            "status": status,
        })
        .to_string()
        .into_bytes()
    }

    fn body_of(object: &Object) -> Value {
        serde_json::from_slice(&object.body.json().unwrap()).unwrap()
    }

    #[test]
    fn what_the_node_reported_changes_no_digest() {
        let before = canonical(Kind::Pod, &pod("7", &json!({"phase": "Pending"}))).unwrap();
        let running = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        let after = canonical_after(Kind::Pod, &pod("9", &running), Some(&before)).unwrap();
        assert_eq!(before.version.digest, after.version.digest);
        assert_eq!(
            (before.version.revision, after.version.revision),
            (Revision(7), Revision(9))
        );
        assert!(after.seed_status.is_some());
    }

    #[test]
    fn a_state_that_we_wrote_of_a_device_changes_no_digest() {
        let device = |generation: u64, revision: &str, state: &str| {
            let json = json!({
                "metadata": {
                    "name": "d", "namespace": "n", "uid": "u", "resourceVersion": revision, "generation": generation,
                },
                "spec": {"nodeName": "edge"},
                "status": {"state": state},
            });
            canonical(Kind::Device, json.to_string().as_bytes()).unwrap()
        };
        let (before, after) = (device(1, "7", "online"), device(2, "9", "offline"));
        assert_eq!(before.version.digest, after.version.digest);
    }

    #[test]
    fn a_foreign_condition_and_resource_claims_stay_in_a_pods_body() {
        let gate = json!({"type": "example.com/gate", "status": "True"});
        let claims = json!([{"name": "gpu", "resourceClaimName": "c"}]);
        let status = json!({
            "phase": "Running", "conditions": [gate, {"type": "Ready"}], "resourceClaimStatuses": claims,
        });
        let body = body_of(&canonical(Kind::Pod, &pod("1", &status)).unwrap());
        assert_eq!(
            body["status"],
            json!({"conditions": [gate], "resourceClaimStatuses": claims})
        );
        assert!(body["metadata"].get("managedFields").is_none());
        assert!(body["metadata"].get("resourceVersion").is_none());
    }

    #[test]
    fn a_list_item_and_a_watch_event_have_the_same_digest() {
        let item = br#"{"metadata":{"uid":"u","resourceVersion":"3","name":"s","namespace":"n"},"spec":{"b":1,"a":2}}"#;
        let event = br#"{"kind":"Service","apiVersion":"v1","spec":{"a":2,"b":1},"metadata":{"name":"s","namespace":"n","uid":"u","resourceVersion":"3"},"status":{"loadBalancer":{}}}"#;
        let digest = |json: &[u8]| canonical(Kind::Service, json).unwrap().version.digest;
        assert_eq!(digest(item), digest(event));
    }

    #[test]
    fn a_node_keeps_its_attached_volumes_and_no_heartbeat() {
        let node = json!({
            "metadata": {"name": "edge", "uid": "u", "resourceVersion": "3"},
            "status": {"volumesAttached": [{"name": "v"}], "conditions": [{"type": "Ready"}]},
        });
        let object = canonical(Kind::Node, node.to_string().as_bytes()).unwrap();
        assert_eq!(
            body_of(&object)["status"],
            json!({"volumesAttached": [{"name": "v"}]})
        );
        assert!(object.seed_status.is_none());
    }

    #[test]
    fn an_object_without_a_uid_or_a_numeric_revision_is_refused_by_field() {
        let without_uid = br#"{"metadata":{"name":"s","namespace":"n","resourceVersion":"3"}}"#;
        let error = canonical(Kind::Service, without_uid).unwrap_err();
        assert!(error.to_string().contains("metadata.uid"), "{error}");
        let opaque = br#"{"metadata":{"name":"s","namespace":"n","uid":"u","resourceVersion":"x"}}"#;
        let error = canonical(Kind::Service, opaque).unwrap_err();
        assert!(error.to_string().contains("metadata.resourceVersion"), "{error}");
        assert!(canonical(Kind::Service, b"[").is_err());
    }
}
