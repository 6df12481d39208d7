//! What the desired flow needs of the cluster: the seam that tests replace.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use protocol::desired::View;
use protocol::object::{Kind, ObjectKey, Revision};

use crate::cluster::{BoxError, Cluster, Holder, NodeFeed, NodeView};

/// A node's view, what changes in it, and consistent lists.
pub trait Source: Send + Sync {
    /// The node's view.
    fn view(&self) -> &(dyn View + Sync);

    /// Waits until something changed, and returns all that did. Loses nothing when dropped.
    fn changed(&self) -> BoxFuture<'_, BTreeSet<ObjectKey>>;

    /// Makes the view of a kind consistent, now; its revision.
    fn consistent(&self, kind: Kind) -> BoxFuture<'_, Result<Revision, BoxError>>;

    /// A pod is not sent, for with all that it names it is too large: whoever made it should hear of it.
    fn too_large(&self, pod: &ObjectKey);

    /// A pod is not sent, and the edge does not hold it: one that was deleted is gone there.
    fn not_held(&self, pod: &ObjectKey);
}

/// The real one: a subscription to the cluster's index.
pub struct NodeSource {
    cluster: Cluster,
    by: Holder,
    feed: NodeFeed,
    view: Arc<NodeView>,
}

impl NodeSource {
    /// Subscribes for a node's session; what it must hold is kept in the index from now on.
    pub fn new(cluster: Cluster, by: Holder) -> Self {
        let feed = cluster.subscribe(&by.node);
        let view = cluster.view(&by.node);
        Self {
            cluster,
            by,
            feed,
            view,
        }
    }
}

impl Source for NodeSource {
    fn view(&self) -> &(dyn View + Sync) {
        &*self.view
    }

    fn changed(&self) -> BoxFuture<'_, BTreeSet<ObjectKey>> {
        self.feed.changed().boxed()
    }

    fn too_large(&self, pod: &ObjectKey) {
        self.cluster.say_too_large(self.feed.node(), pod);
    }

    fn not_held(&self, pod: &ObjectKey) {
        self.cluster.end_if_deleted(&self.by, pod);
    }

    fn consistent(&self, kind: Kind) -> BoxFuture<'_, Result<Revision, BoxError>> {
        async move {
            // Before each shared kind was listed once, no view is complete.
            self.cluster.synced().await;
            Ok(self.cluster.consistent(self.feed.node(), kind).await?)
        }
        .boxed()
    }
}
