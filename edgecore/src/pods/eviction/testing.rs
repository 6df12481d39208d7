//! Pods and what they use, for the tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::rank::Candidate;
use super::usage::{ContainerUsage, Space, Usage};
use crate::pods::desired::DesiredPod;

/// The spec of a pod with one container of these resources.
pub(super) fn wanting(resources: &Value) -> Value {
    json!({"containers": [{"name": "c", "image": "app:1", "resources": resources}]})
}

/// The pod of that name, whose container uses so much of everything. Annotations stand in the spec.
pub(super) fn candidate(name: &str, spec: &Value, used: u64) -> Candidate {
    let mut spec = spec.clone();
    let annotations = spec.as_object_mut().unwrap().remove("annotations");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
        "metadata": {"name": name, "namespace": "ns", "uid": name, "annotations": annotations}});
    let layer = Space {
        bytes: used,
        inodes: used,
        cut: false,
    };
    let container = ContainerUsage {
        memory: used,
        layer,
        ..ContainerUsage::default()
    };
    Candidate {
        desired: Arc::new(DesiredPod::decode(pod.to_string().as_bytes(), None).unwrap()),
        usage: Usage {
            memory: used,
            containers: BTreeMap::from([("c".to_owned(), container)]),
            ..Usage::default()
        },
    }
}
