//! The watches that cloudcore makes under its own name: Nodes, Pods, Services, `RuntimeClasses`,
//! Devices and their models.
//!
//! What it is: where each kind is watched, and which have been listed. What it is not: the watch loop
//! (`watch.rs`), or what becomes of an object that was seen (`seen.rs`).
//!
//! **Invariant:** Pods are watched only after the first list of Nodes, so that no pod of an edge
//! node passes unrecognised; Devices after that of their models, so that none goes to its node
//! without. A cluster without devices lacks their kinds, and nothing waits for them.

use std::collections::BTreeSet;

use protocol::object::{Kind, ObjectKey, Revision};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::api::{Actor, ApiError};
use super::thin::ThinMeta;
use super::watch::{Sink, Source, follow};
use super::{Cluster, labels};

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
