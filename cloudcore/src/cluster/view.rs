//! What one node must hold, as its session sees it.
//!
//! What it is: a window onto the shared index. What it is not: a copy; it changes between two
//! questions, and the node's [`NodeFeed`](super::NodeFeed) says what did.

use protocol::desired::{Found, View};
use protocol::name::NodeName;
use protocol::object::{Kind, ObjectKey, Revision};

use super::Cluster;

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
        self.cluster.inner.index.read().seen_by(&self.node).keys(kind)
    }

    fn find(&self, key: &ObjectKey) -> Found {
        self.cluster.inner.index.read().seen_by(&self.node).find(key)
    }

    fn closure(&self, pod: &ObjectKey) -> Vec<ObjectKey> {
        self.cluster.inner.index.read().seen_by(&self.node).closure(pod)
    }

    fn is_listed(&self, kind: Kind) -> bool {
        self.cluster
            .inner
            .index
            .read()
            .seen_by(&self.node)
            .is_listed(kind)
    }

    fn seen(&self, key: &ObjectKey) -> Revision {
        self.cluster.inner.index.read().seen_by(&self.node).seen(key)
    }

    fn revision(&self, kind: Kind) -> Revision {
        self.cluster.inner.index.read().seen_by(&self.node).revision(kind)
    }
}
