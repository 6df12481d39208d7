//! The watches that cloudcore makes under its own name: Nodes, Pods, Services, `RuntimeClasses`,
//! Devices and their models.
//!
//! What it is: what each watch puts into the index. What it is not: the watch loop (`watch.rs`)
//! or the index's rules (`index.rs`).
//!
//! **Invariant:** Pods are watched only after the first list of Nodes, so that no pod of an edge
//! node passes unrecognised; Devices after that of their models, so that none goes to its node
//! without. A cluster without devices lacks their kinds, and nothing waits for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use protocol::desired::references;
use protocol::name::NodeName;
use protocol::object::{Body, Kind, ObjectKey, Revision, canonical, canonical_after};
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::api::{Actor, ApiError};
use super::index::{NodeEntry, PodEntry};
use super::thin::{ThinMeta, ThinPod};
use super::watch::{Sink, Source, follow};
use super::{Cluster, labels};

/// Between two lists of all pods for nodes that became autonomous: devices set that label themselves, and such a
/// list is dear.
const AUTONOMY_LISTS: Duration = Duration::from_mins(1);

/// Which of the shared kinds have been listed, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Synced {
    lists: [u64; Kind::ALL.len()],
    under_way: [bool; Kind::ALL.len()],
}

impl Synced {
    pub(super) const fn lists_of(&self, kind: Kind) -> u64 {
        self.lists[kind.index()]
    }

    /// How many lists there will have been once one that begins from now on is complete.
    pub(super) fn lists_after_a_new_one(&self, kind: Kind) -> u64 {
        self.lists_of(kind) + 1 + u64::from(self.under_way[kind.index()])
    }
}

/// Bells that make a watch list again.
#[derive(Debug, Default)]
pub(super) struct Relists {
    bells: [Notify; Kind::ALL.len()],
}

impl Relists {
    pub(super) const fn of(&self, kind: Kind) -> &Notify {
        &self.bells[kind.index()]
    }
}

/// Where a kind is watched.
pub(super) fn source(kind: Kind) -> Source {
    let (path, selector) = match kind {
        Kind::Pod => ("/api/v1/pods", "fieldSelector=spec.nodeName%21%3D".to_owned()),
        Kind::Node => (
            "/api/v1/nodes",
            format!("labelSelector={}", labels::OURS.replace('/', "%2F")),
        ),
        Kind::Service => ("/api/v1/services", String::new()),
        Kind::RuntimeClass => ("/apis/node.k8s.io/v1/runtimeclasses", String::new()),
        Kind::ConfigMap => ("/api/v1/configmaps", String::new()),
        Kind::Secret => ("/api/v1/secrets", String::new()),
        Kind::DeviceModel => ("/apis/devices.kubeedge.io/v1beta1/devicemodels", String::new()),
        Kind::Device => ("/apis/devices.kubeedge.io/v1beta1/devices", String::new()),
    };
    Source {
        path: path.to_owned(),
        selector,
        only_metadata: false,
    }
}

impl Cluster {
    /// Watches one shared kind for ever.
    pub(super) async fn watch_kind(&self, kind: Kind) {
        match kind {
            Kind::Pod => self.listed(Kind::Node, 1).await,
            Kind::Device => self.listed(Kind::DeviceModel, 1).await,
            Kind::Service
            | Kind::RuntimeClass
            | Kind::ConfigMap
            | Kind::Secret
            | Kind::DeviceModel
            | Kind::Node => {}
        }
        let mut sink = KindSink {
            cluster: self.clone(),
            kind,
            seen: BTreeSet::new(),
            listing: false,
            failing: false,
        };
        follow(
            self.api(),
            Actor::Cloudcore,
            &source(kind),
            &mut sink,
            self.inner.relists.of(kind),
        )
        .await;
    }

    /// Waits until a kind has been listed at least so often.
    pub(super) async fn listed(&self, kind: Kind, times: u64) {
        let mut synced = self.inner.synced.subscribe();
        // The sender lives as long as the cluster, so this ends by the condition alone.
        drop(synced.wait_for(|synced| synced.lists_of(kind) >= times).await);
    }

    pub(super) fn count_list(&self, kind: Kind) {
        self.inner.synced.send_modify(|synced| {
            synced.lists[kind.index()] += 1;
            synced.under_way[kind.index()] = false;
        });
    }

    fn begin_list(&self, kind: Kind) {
        self.inner
            .synced
            .send_modify(|synced| synced.under_way[kind.index()] = true);
    }
}

struct KindSink {
    cluster: Cluster,
    kind: Kind,
    /// What the list under way has shown so far.
    seen: BTreeSet<ObjectKey>,
    /// Whether a list is under way.
    listing: bool,
    /// Whether a failure has been told since the last success.
    failing: bool,
}

impl KindSink {
    fn key(&self, meta: &ThinMeta<'_>) -> ObjectKey {
        ObjectKey::new(self.kind, meta.namespace.as_ref(), meta.name.as_ref())
    }
}

impl Sink for KindSink {
    fn listing(&mut self) {
        self.seen.clear();
        self.listing = true;
        self.cluster.begin_list(self.kind);
    }

    fn put(&mut self, meta: &ThinMeta<'_>, object: &[u8]) {
        let key = self.key(meta);
        match self.kind {
            Kind::Pod => self.cluster.saw_pod(&key, object),
            Kind::Node => self.cluster.saw_node(&key, object, self.listing),
            Kind::Service | Kind::RuntimeClass | Kind::DeviceModel => self.cluster.saw_shared(&key, object),
            Kind::Device => self.cluster.saw_device(&key, object),
            Kind::ConfigMap | Kind::Secret => {}
        }
        // Foreign pods are many and nobody's here. An edge node's count whether it is connected or
        // not: it may connect before the list is complete.
        if self.listing && (self.kind != Kind::Pod || self.cluster.is_edge_pod(object)) {
            self.seen.insert(key);
        }
    }

    fn gone(&mut self, meta: &ThinMeta<'_>, object: &[u8]) {
        let key = self.key(meta);
        match self.kind {
            Kind::Pod => self.cluster.lost_pod(&key, meta.revision(), object),
            Kind::Node => self.cluster.lost_node(&key, Some(object)),
            Kind::Service | Kind::RuntimeClass | Kind::DeviceModel | Kind::Device => {
                self.cluster.inner.index.write().remove(&key);
                self.cluster.devices_changed(self.kind);
            }
            Kind::ConfigMap | Kind::Secret => {}
        }
    }

    fn listed(&mut self, revision: Revision) {
        self.failing = false;
        self.listing = false;
        let seen = std::mem::take(&mut self.seen);
        if self.kind == Kind::Pod {
            self.cluster.inner.index.write().pods_listed(&seen, revision);
            self.cluster.inner.wants.notify_one();
        } else {
            self.cluster.shared_listed(self.kind, &seen, revision);
        }
        self.cluster.devices_changed(self.kind);
        info!(kind = %self.kind, %revision, "listed");
        self.cluster.inner.metrics.listed(self.kind);
        self.cluster.count_list(self.kind);
    }

    fn at(&mut self, revision: Revision) {
        self.failing = false;
        self.cluster.inner.index.write().reached(self.kind, revision);
    }

    fn failed(&mut self, error: &ApiError) -> bool {
        if error.is_not_found() && matches!(self.kind, Kind::DeviceModel | Kind::Device) {
            if !std::mem::replace(&mut self.failing, true) {
                info!(kind = %self.kind, "the cluster has no such kind: devices are served once its CRD is there");
            }
            return true;
        }
        self.cluster.inner.metrics.watch_failed(self.kind);
        let error = error as &dyn std::error::Error;
        if std::mem::replace(&mut self.failing, true) {
            debug!(kind = %self.kind, error, "watch failed again");
        } else {
            warn!(kind = %self.kind, error, "watch failed, will be tried again");
        }
        true
    }
}

/// What watches tell about.
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

    fn shared_listed(&self, kind: Kind, seen: &BTreeSet<ObjectKey>, revision: Revision) {
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

    fn saw_pod(&self, key: &ObjectKey, json: &[u8]) {
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
        if let Some(pod) = self.pod_entry(node, json) {
            self.inner.index.write().put_pod(node, pod);
            self.inner.wants.notify_one();
        }
    }

    /// A pod as the index keeps it; the body is shared with the version before where it is equal.
    pub(super) fn pod_entry(&self, node: &NodeName, json: &[u8]) -> Option<PodEntry> {
        let held = self.held_pod(node, json);
        let object = canonical_after(Kind::Pod, json, held.as_deref());
        let object =
            object.inspect_err(|error| warn!(%node, error = error as &dyn std::error::Error, "pod skipped"));
        let object = object.ok()?;
        let refs = references(json);
        let refs = refs.inspect_err(|error| warn!(key = %object.key, %error, "pod skipped"));
        Some(PodEntry {
            object: Arc::new(object),
            refs: refs.ok()?,
        })
    }

    fn held_pod(&self, node: &NodeName, json: &[u8]) -> Option<Arc<protocol::object::Object>> {
        let ThinPod { metadata, .. } = serde_json::from_slice(json).ok()?;
        let key = ObjectKey::new(Kind::Pod, metadata.namespace, metadata.name);
        self.inner
            .index
            .read()
            .pod(node, &key)
            .map(|pod| Arc::clone(&pod.object))
    }

    fn lost_pod(&self, key: &ObjectKey, revision: Revision, json: &[u8]) {
        self.inner.settings.bindings.gone(&key.namespace, &key.name);
        if let Some(owner) = self.pod_owner(json).filter(|owner| owner.attached) {
            self.inner.index.write().remove_pod(&owner.node, key, revision);
            self.inner.wants.notify_one();
        }
    }

    fn is_edge_pod(&self, json: &[u8]) -> bool {
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
    use super::*;

    #[test]
    fn a_list_under_way_does_not_count_as_one_that_was_asked_for_now() {
        let mut synced = Synced::default();
        assert_eq!(synced.lists_after_a_new_one(Kind::Service), 1);
        synced.under_way[Kind::Service.index()] = true;
        assert_eq!(synced.lists_after_a_new_one(Kind::Service), 2);
        assert_eq!(synced.lists_after_a_new_one(Kind::Node), 1);
    }
}
