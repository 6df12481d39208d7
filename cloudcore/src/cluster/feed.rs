//! What changed for a node: a set of keys and a bell, never a queue.
//!
//! **Invariant:** the set holds each key once, so its size is bounded by what the node holds or
//! has just lost, however often things change while nobody listens.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use protocol::name::NodeName;
use protocol::object::ObjectKey;
use tokio::sync::Notify;

use super::Cluster;

/// Keys that changed, and the bell that says so.
#[derive(Debug, Default)]
pub struct Dirty {
    keys: Mutex<BTreeSet<ObjectKey>>,
    bell: Notify,
}

impl Dirty {
    pub(super) fn mark(&self, key: ObjectKey) {
        if self.keys.lock().insert(key) {
            self.bell.notify_one();
        }
    }

    /// Takes all keys that changed.
    pub fn take(&self) -> BTreeSet<ObjectKey> {
        std::mem::take(&mut *self.keys.lock())
    }
}

/// A session's ear: while it lives, the cluster keeps what its node must hold.
pub struct NodeFeed {
    cluster: Cluster,
    node: NodeName,
    dirty: Arc<Dirty>,
}

impl NodeFeed {
    pub(super) const fn new(cluster: Cluster, node: NodeName, dirty: Arc<Dirty>) -> Self {
        Self { cluster, node, dirty }
    }

    /// The node that is listened for.
    pub const fn node(&self) -> &NodeName {
        &self.node
    }

    /// Waits until something changed and returns all that did.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when dropped: keys are taken only when they are returned.
    pub async fn changed(&self) -> BTreeSet<ObjectKey> {
        loop {
            let keys = self.dirty.take();
            if !keys.is_empty() {
                return keys;
            }
            self.dirty.bell.notified().await;
        }
    }
}

impl Drop for NodeFeed {
    fn drop(&mut self) {
        self.cluster.detach(&self.node, &self.dirty);
    }
}
