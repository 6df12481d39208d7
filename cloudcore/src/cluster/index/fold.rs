//! Sessions, and the consistent lists that their nodes' pods rest on.

use std::collections::BTreeSet;
use std::sync::Arc;

use protocol::name::NodeName;
use protocol::object::{Kind, ObjectKey, Revision};

use super::{Dirty, Index, PodEntry};

/// Sessions and consistent lists.
impl Index {
    /// A session begins to listen. Its pods are known after the first consistent list.
    pub fn attach(&mut self, node: &NodeName, feed: Arc<Dirty>) {
        self.edges.entry(node.clone()).or_default().feeds.push(feed);
    }

    /// A session ends; the node's bodies go with its last one, and which pods it had stays known for a while.
    pub fn detach(&mut self, node: &NodeName, feed: &Arc<Dirty>) {
        let Some(edge) = self.edges.get_mut(node) else {
            return;
        };
        edge.feeds.retain(|other| !Arc::ptr_eq(other, feed));
        if edge.feeds.is_empty() {
            for (key, pod) in self.edges.remove(node).into_iter().flat_map(|edge| edge.pods) {
                self.release(node, &key, &pod.refs);
                self.remember(node, &pod.object);
            }
            self.forget_gone(node);
        }
    }

    /// A consistent list of the node's pods is about to be made: deletions are remembered until
    /// [`Index::fold`] or [`Index::fold_failed`].
    pub fn fold_begins(&mut self, node: &NodeName) {
        if let Some(edge) = self.edges.get_mut(node) {
            edge.lists += 1;
        }
    }

    /// The list was not made.
    pub fn fold_failed(&mut self, node: &NodeName) {
        if let Some(edge) = self.edges.get_mut(node) {
            edge.lists = edge.lists.saturating_sub(1);
            if edge.lists == 0 {
                edge.tombs.clear();
            }
        }
    }

    /// The node's pods, as a consistent list at `revision` has them.
    pub fn fold(&mut self, node: &NodeName, pods: Vec<PodEntry>, revision: Revision) {
        let Some(edge) = self.edges.get_mut(node) else {
            return;
        };
        // Two consistent lists never go backwards, unless the cluster was restored from a backup.
        let restored = revision < edge.floor;
        edge.floor = revision;
        if restored {
            self.revisions[Kind::Pod.index()] = revision;
        }
        let listed: BTreeSet<&ObjectKey> = pods.iter().map(|pod| &pod.object.key).collect();
        let stale: Vec<_> = edge
            .pods
            .iter()
            .filter(|(key, pod)| {
                !listed.contains(key) && (restored || pod.object.version.revision <= revision)
            })
            .map(|(key, _)| key.clone())
            .collect();
        let buried = edge.tombs.clone();
        for key in stale {
            self.drop_pod(node, &key);
        }
        for pod in pods {
            let key = &pod.object.key;
            let newer = self
                .pod(node, key)
                .is_some_and(|held| held.object.version.revision > revision);
            if (restored || !newer) && buried.get(key).is_none_or(|deleted| *deleted <= revision) {
                self.keep_pod(node, pod);
            }
        }
        self.fold_failed(node);
    }
}
