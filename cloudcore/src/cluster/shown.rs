//! Whether the API server shows what a node reports, as far as the watches know.
//!
//! **Invariant:** only what a write would change counts: what others own, heartbeats and
//! fractions of seconds do not.

use protocol::name::NodeName;
use protocol::object::{Digest, owned};
use serde_json::{Map, Value};

use super::Cluster;
use super::document::{NodeDocument, pod_status_patch};
use super::pods::PodRef;
use crate::reported::Shown;

impl Cluster {
    /// What is shown of a node, compared with its document.
    pub fn node_shown(&self, node: &NodeName, document: &[u8]) -> Shown {
        let Some(current) = self.cached_node(node) else {
            return Shown::Nothing;
        };
        let Ok(document) = NodeDocument::parse(node, document) else {
            return Shown::Nothing;
        };
        let patch = document.status_patch(&current, self.addresses().as_ref());
        match document.differing_metadata(&current) {
            None => compare(&patch["status"], &current["status"]),
            Some(_) => Shown::Other(digest(&current["status"])),
        }
    }

    /// What is shown of a pod, compared with a status.
    pub fn pod_shown(&self, pod: &PodRef, status: &[u8]) -> Shown {
        let current = self
            .cached_pod(pod)
            .filter(|current| current["metadata"]["uid"] == *pod.uid);
        let Some(current) = current else {
            return Shown::Nothing;
        };
        let Ok(reported) = serde_json::from_slice::<Map<String, Value>>(status) else {
            return Shown::Nothing;
        };
        let patch = pod_status_patch(&current, &reported);
        compare(&patch["status"], &current["status"])
    }
}

/// What is shown, given the part of a patch that says something of it. Pure.
pub fn compare(patch: &Value, current: &Value) -> Shown {
    if owned::changes_nothing(patch, current) {
        Shown::Same
    } else {
        Shown::Other(digest(current))
    }
}

fn digest(status: &Value) -> Digest {
    Digest::of(status.to_string().as_bytes())
}
