//! What becomes of an object that a watch has seen: an entry of the index, and word to those who wait for it.
//!
//! What it is not: the index's rules (`index/`).
//!
//! **Invariant:** of an edge node's pods only those of connected nodes are kept; the others pass by, and are listed
//! when their node connects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use protocol::desired::references;
use protocol::name::NodeName;
use protocol::object::{Body, Kind, Object, ObjectKey, Revision, canonical, canonical_after};
use tokio::time::sleep;
use tracing::warn;

use super::index::{NodeEntry, PodEntry};
use super::thin::ThinPod;
use super::unsent::{MAX_REFERENCES, Unsent};
use super::{Cluster, labels};

/// Between two lists of all pods for nodes that became autonomous: devices set that label themselves, and such a
/// list is dear.
const AUTONOMY_LISTS: Duration = Duration::from_mins(1);

impl Cluster {
    pub(super) fn saw_shared(&self, key: &ObjectKey, json: &[u8]) {
        match canonical(key.kind, json) {
            Ok(object) => {
                self.inner.index.write().put(Arc::new(object));
                self.devices_changed(key.kind);
            }
            Err(error) => warn!(%key, error = &error as &dyn std::error::Error, "skipped"),
        }
    }

    pub(super) fn saw_node(&self, key: &ObjectKey, json: &[u8], listing: bool) {
        let object = match canonical(Kind::Node, json) {
            Ok(object) => Arc::new(object),
            Err(error) => return warn!(%key, error = &error as &dyn std::error::Error, "skipped"),
        };
        let (whole, autonomous) = (Body::compress(json), is_autonomous(json));
        let before = self
            .inner
            .index
            .read()
            .node(&key.name)
            .map(|entry| entry.autonomous);
        let entry = NodeEntry {
            object,
            whole,
            autonomous,
        };
        self.inner.index.write().put_node(entry, listing);
        self.inner.rebirths.settle(&key.name);
        if before == Some(false) && autonomous {
            // Its pods have passed by unseen.
            self.inner.autonomous.notify_one();
        }
    }

    /// Lists the pods of nodes that became autonomous, for ever.
    pub(super) async fn list_for_autonomy(&self) {
        loop {
            self.inner.autonomous.notified().await;
            self.inner.relists.of(Kind::Pod).notify_one();
            sleep(AUTONOMY_LISTS).await;
        }
    }

    pub(super) fn shared_listed(&self, kind: Kind, seen: &BTreeSet<ObjectKey>, revision: Revision) {
        if kind == Kind::Node {
            let held: Vec<ObjectKey> = {
                let index = self.inner.index.read();
                index
                    .node_names()
                    .map(|name| ObjectKey::new(Kind::Node, "", name))
                    .collect()
            };
            held.iter()
                .filter(|key| !seen.contains(*key))
                .for_each(|key| self.lost_node(key, None));
        }
        self.inner.index.write().relisted(kind, seen, revision);
    }

    pub(super) fn saw_pod(&self, key: &ObjectKey, json: &[u8]) {
        let Some(owner) = self.pod_owner(json) else { return };
        if owner.autonomous {
            self.inner
                .settings
                .bindings
                .bound(&key.namespace, &key.name, owner.attached, json);
        }
        if owner.attached {
            self.fold_event(&owner.node, json);
        }
    }

    fn fold_event(&self, node: &NodeName, json: &[u8]) {
        if let Some(pod) = self.newer_pod(node, json) {
            let key = pod.object.key.clone();
            self.inner.index.write().put_pod(node, pod);
            self.inner.wants.notify_one();
            self.say_if_no_room(node, &key);
        }
    }

    /// A pod as the index keeps it, if it says something new. That it does not shows at a glance: of each status that
    /// is written here the watch tells what the answer has told, and the whole pod is dear to read.
    pub(super) fn newer_pod(&self, node: &NodeName, json: &[u8]) -> Option<PodEntry> {
        let (key, revision) = identity(json)?;
        let is_news = self.inner.index.read().is_news(node, &key, revision);
        is_news.then(|| self.entry_after(node, json, self.held_pod(node, &key).as_deref()))?
    }

    /// A pod as the index keeps it; the body is shared with the version before where it is equal.
    pub(super) fn pod_entry(&self, node: &NodeName, json: &[u8]) -> Option<PodEntry> {
        let held = identity(json).and_then(|(key, _)| self.held_pod(node, &key));
        self.entry_after(node, json, held.as_deref())
    }

    fn entry_after(&self, node: &NodeName, json: &[u8], held: Option<&Object>) -> Option<PodEntry> {
        let object = canonical_after(Kind::Pod, json, held);
        let object =
            object.inspect_err(|error| warn!(%node, error = error as &dyn std::error::Error, "pod skipped"));
        let object = Arc::new(object.ok()?);
        let refs = references(json);
        let refs = refs.inspect_err(|error| warn!(key = %object.key, %error, "pod skipped"));
        let refs = refs.ok()?;
        let withheld = refs.len() > MAX_REFERENCES;
        if withheld {
            let why = Unsent::References(refs.len());
            self.say_unsent(node, &object.key, &object.version.uid, why);
        }
        Some(PodEntry {
            object,
            refs: if withheld { BTreeSet::new() } else { refs },
            withheld,
        })
    }

    fn held_pod(&self, node: &NodeName, key: &ObjectKey) -> Option<Arc<Object>> {
        let index = self.inner.index.read();
        index.pod(node, key).map(|pod| Arc::clone(&pod.object))
    }

    pub(super) fn lost_pod(&self, key: &ObjectKey, revision: Revision, json: &[u8]) {
        self.inner.settings.bindings.gone(&key.namespace, &key.name);
        if let Some(owner) = self.pod_owner(json).filter(|owner| owner.attached) {
            self.inner.index.write().remove_pod(&owner.node, key, revision);
            self.inner.wants.notify_one();
        }
    }

    pub(super) fn is_edge_pod(&self, json: &[u8]) -> bool {
        let Ok(pod) = serde_json::from_slice::<ThinPod<'_>>(json) else {
            return false;
        };
        let name = &pod.spec.node_name;
        let index = self.inner.index.read();
        index.node(name).is_some() || name.parse().is_ok_and(|node| index.is_attached(&node))
    }

    /// Whose a pod is, if it is an edge node's.
    fn pod_owner(&self, json: &[u8]) -> Option<Owner> {
        let pod: ThinPod<'_> = serde_json::from_slice(json).ok()?;
        let index = self.inner.index.read();
        let autonomous = index
            .node(&pod.spec.node_name)
            .is_some_and(|node| node.autonomous);
        let node: NodeName = pod.spec.node_name.parse().ok()?;
        let attached = index.is_attached(&node) && !pod.metadata.is_mirror();
        (autonomous || attached).then_some(Owner {
            node,
            autonomous,
            attached,
        })
    }
}

fn identity(json: &[u8]) -> Option<(ObjectKey, Revision)> {
    let ThinPod { metadata, .. } = serde_json::from_slice(json).ok()?;
    let revision = metadata.revision();
    Some((
        ObjectKey::new(Kind::Pod, metadata.namespace, metadata.name),
        revision,
    ))
}

struct Owner {
    node: NodeName,
    autonomous: bool,
    attached: bool,
}

fn is_autonomous(node: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Labelled {
        metadata: Labels,
    }
    #[derive(serde::Deserialize)]
    struct Labels {
        #[serde(default)]
        labels: BTreeMap<String, String>,
    }
    let parsed: Result<Labelled, _> = serde_json::from_slice(node);
    parsed.is_ok_and(|node| {
        node.metadata
            .labels
            .get(labels::AUTONOMY)
            .is_some_and(|value| value == "true")
    })
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;

    use super::*;
    use crate::cluster::testing::cluster;

    #[tokio::test]
    async fn what_the_answer_to_a_write_has_told_is_not_read_again_when_the_watch_tells_it() {
        let cluster = cluster(|_| (StatusCode::NOT_FOUND, json!({ "code": 404 })));
        let node: NodeName = "e1".parse().unwrap();
        let _session = cluster.subscribe(&node);
        let pod = |revision: u64| {
            let metadata = json!({"name": "web", "namespace": "shop", "uid": "u",
                "resourceVersion": revision.to_string()});
            json!({"metadata": metadata, "spec": {"nodeName": "e1"}}).to_string()
        };
        let told = |revision| cluster.newer_pod(&node, pod(revision).as_bytes()).is_some();
        assert!(told(7), "it is not known yet");
        cluster.fold_event(&node, pod(7).as_bytes());
        assert!(!told(7) && !told(6));
        assert!(told(8));
        let key = ObjectKey::new(Kind::Pod, "shop", "web");
        let held = cluster
            .inner
            .index
            .read()
            .pod(&node, &key)
            .unwrap()
            .object
            .clone();
        assert_eq!(held.version.revision, Revision(7));
    }
}
