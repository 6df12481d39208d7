//! Who works on which pod.
//!
//! **Invariants:** one worker a UID; two UIDs of one namespace and name never at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::pods::desired::DesiredPod;
use crate::pods::kit::Kit;
use crate::pods::spec;
use crate::pods::worker::{Order, Worker};

pub(super) struct Roster {
    kit: Arc<Kit>,
    stop: CancellationToken,
    tasks: JoinSet<String>,
    by_task: BTreeMap<tokio::task::Id, String>,
    posts: BTreeMap<String, Post>,
}

struct Post {
    full_name: (String, String),
    orders: watch::Sender<Order>,
    bell: Arc<Notify>,
}

/// A worker has ended.
pub(super) struct Ended {
    uid: String,
}

impl Roster {
    pub(super) fn new(kit: Arc<Kit>, stop: CancellationToken) -> Self {
        Self {
            kit,
            stop,
            tasks: JoinSet::new(),
            by_task: BTreeMap::new(),
            posts: BTreeMap::new(),
        }
    }

    /// Gives every wanted pod its worker and its latest order. With `complete`, who is not wanted ends.
    pub(super) fn follow(&mut self, wanted: &[Arc<DesiredPod>], complete: bool, objects: u64) {
        for desired in wanted {
            self.want(desired, objects);
        }
        let uids: BTreeSet<&str> = wanted.iter().map(|desired| spec::uid(&desired.pod)).collect();
        let unwanted = |uid: &&String| complete && !uids.contains(uid.as_str());
        for uid in self.posts.keys().filter(unwanted).cloned().collect::<Vec<_>>() {
            self.remove(&uid);
        }
    }

    fn want(&mut self, desired: &Arc<DesiredPod>, objects: u64) {
        let uid = spec::uid(&desired.pod);
        if !spec::is_plain_name(uid) {
            return;
        }
        let order = Order {
            desired: Arc::clone(desired),
            removed: false,
            objects,
        };
        match self.posts.get(uid) {
            Some(post) => {
                post.orders.send_if_modified(|current| {
                    let same = !current.removed && Arc::ptr_eq(&current.desired, &order.desired);
                    if !same {
                        *current = Order {
                            objects: current.objects.max(objects),
                            ..order
                        };
                    }
                    !same
                });
            }
            None if self.name_is_taken(desired) => {}
            None => self.employ(order),
        }
    }

    /// A new pod waits until the old one of its name has ended.
    fn name_is_taken(&self, desired: &DesiredPod) -> bool {
        let name = full_name(desired);
        self.posts.values().any(|post| post.full_name == name)
    }

    /// Gives an order to a new worker.
    pub(super) fn employ(&mut self, order: Order) {
        let uid = spec::uid(&order.desired.pod).to_owned();
        let full_name = full_name(&order.desired);
        let (orders, received) = watch::channel(order);
        let bell = super::bell();
        let worker = Worker::new(Arc::clone(&self.kit), received, Arc::clone(&bell));
        let (stop, name) = (self.stop.child_token(), uid.clone());
        let task = self.tasks.spawn(async move {
            worker.run(stop).await;
            name
        });
        self.by_task.insert(task.id(), uid.clone());
        self.posts.insert(
            uid,
            Post {
                full_name,
                orders,
                bell,
            },
        );
    }

    fn remove(&self, uid: &str) {
        if let Some(post) = self.posts.get(uid) {
            post.orders
                .send_if_modified(|order| !std::mem::replace(&mut order.removed, true));
        }
    }

    pub(super) fn knows(&self, uid: &str) -> bool {
        self.posts.contains_key(uid)
    }

    pub(super) fn objects_changed(&self, generation: u64) {
        for post in self.posts.values() {
            post.orders.send_modify(|order| order.objects = generation);
        }
    }

    pub(super) fn poke(&self, uid: &str) {
        if let Some(post) = self.posts.get(uid) {
            post.bell.notify_one();
        }
    }

    /// Waits for a worker to end; for ever when there is none.
    pub(super) async fn ended(&mut self) -> Ended {
        loop {
            let (id, uid) = match self.tasks.join_next_with_id().await {
                None => std::future::pending().await,
                Some(Ok((id, uid))) => (id, Some(uid)),
                Some(Err(failure)) => {
                    error!(%failure, "a pod's worker failed; a new one takes its place");
                    (failure.id(), None)
                }
            };
            let employed = self.by_task.remove(&id);
            if let Some(uid) = uid.or(employed) {
                return Ended { uid };
            }
        }
    }

    pub(super) fn forget(&mut self, ended: &Ended) {
        self.posts.remove(&ended.uid);
    }

    /// Stops every worker; what they run goes on.
    pub(super) async fn stop(&mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

fn full_name(desired: &DesiredPod) -> (String, String) {
    (
        spec::namespace(&desired.pod).to_owned(),
        spec::name(&desired.pod).to_owned(),
    )
}
