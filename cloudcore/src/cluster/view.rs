//! What one node must hold, as its session sees it.
//!
//! What it is: a window onto the shared index. What it is not: a copy; it changes between two
//! questions, and the node's [`NodeFeed`](super::NodeFeed) says what did.

use std::sync::Arc;

use protocol::desired::{Found, View};
use protocol::name::NodeName;
use protocol::object::{Kind, ObjectKey, Revision};

use super::Cluster;
use super::index::Lookup;

/// One node's part of the index.
pub struct NodeView {
    cluster: Cluster,
    node: NodeName,
}

impl NodeView {
    pub(super) const fn new(cluster: Cluster, node: NodeName) -> Self {
        Self { cluster, node }
    }
}

impl View for NodeView {
    fn keys(&self, kind: Kind) -> Vec<ObjectKey> {
        self.cluster.inner.index.read().keys(&self.node, kind)
    }

    fn find(&self, key: &ObjectKey) -> Found {
        let index = self.cluster.inner.index.read();
        match index.lookup(&self.node, key) {
            Some(Lookup::Unknown) => Found::Unknown,
            Some(Lookup::Absent(reason)) => Found::Absent(*reason),
            Some(Lookup::Present(object)) => Found::Object(Arc::clone(object)),
            None => match index.object(&self.node, key) {
                Some(object) => Found::Object(Arc::clone(object)),
                None => Found::Nothing,
            },
        }
    }

    fn closure(&self, pod: &ObjectKey) -> Vec<ObjectKey> {
        let index = self.cluster.inner.index.read();
        index
            .pod(&self.node, pod)
            .map(|pod| pod.refs.iter().cloned().collect())
            .unwrap_or_default()
    }

    fn seen(&self, key: &ObjectKey) -> Revision {
        let seen = self.cluster.inner.index.read().seen(key);
        seen.unwrap_or_else(|| self.revision(key.kind))
    }

    fn revision(&self, kind: Kind) -> Revision {
        self.cluster.inner.index.read().view_revision(&self.node, kind)
    }
}
