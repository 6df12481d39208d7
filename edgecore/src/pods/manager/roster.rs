//! Who works on which pod.
//!
//! **Invariants:** one worker a UID; two UIDs of one namespace and name never at the same time, but for one of
//! which only dead things are left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::pods::admission::{self, Rejection};
use crate::pods::desired::DesiredPod;
use crate::pods::eviction::Verdict;
use crate::pods::kit::Kit;
use crate::pods::resize;
use crate::pods::resources;
use crate::pods::spec;
use crate::pods::status;
use crate::pods::worker::{Order, Worker};

pub(super) struct Roster {
    kit: Arc<Kit>,
    stop: CancellationToken,
    tasks: JoinSet<String>,
    by_task: BTreeMap<tokio::task::Id, String>,
    posts: BTreeMap<String, Post>,
    /// What is left of these is being taken down: none of them gets a worker meanwhile.
    taken_down: BTreeSet<String>,
}

struct Post {
    full_name: (String, String),
    orders: watch::Sender<Order>,
    bell: Arc<Notify>,
    /// The pod was not admitted: it holds nothing.
    rejected: bool,
    /// Nothing of it runs any more: its name is free, however long its remains resist.
    dead: bool,
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
            taken_down: BTreeSet::new(),
        }
    }

    /// Gives every wanted pod its worker and its latest order. With `complete`, who is not wanted ends.
    pub(super) fn follow(&mut self, wanted: &[Arc<DesiredPod>], complete: bool, objects: u64) {
        let uids: BTreeSet<&str> = wanted.iter().map(|desired| spec::uid(&desired.pod)).collect();
        let mut by_age: Vec<_> = wanted.iter().collect();
        by_age.sort_by_key(|desired| desired.pod.metadata.creation_timestamp.as_ref().map(|at| at.0));
        self.enter(wanted, complete.then_some(&uids));
        for desired in by_age {
            self.want(desired, &uids, objects);
        }
        let unwanted = |uid: &&String| complete && !uids.contains(uid.as_str());
        for uid in self.posts.keys().filter(unwanted).cloned().collect::<Vec<_>>() {
            self.remove(&uid);
        }
    }

    fn want(&mut self, desired: &Arc<DesiredPod>, wanted: &BTreeSet<&str>, objects: u64) {
        let uid = spec::uid(&desired.pod);
        if !spec::is_plain_name(uid) {
            return;
        }
        let order = Order {
            desired: Arc::clone(desired),
            removed: false,
            followed: false,
            evicted: None,
            objects,
        };
        match self.posts.get(uid) {
            Some(post) => {
                post.orders.send_if_modified(|current| {
                    let same = !current.removed && Arc::ptr_eq(&current.desired, &order.desired);
                    if !same {
                        *current = Order {
                            objects: current.objects.max(objects),
                            evicted: current.evicted.clone(),
                            ..order
                        };
                    }
                    !same
                });
            }
            None if self.taken_down.contains(uid) || self.name_is_taken(desired) => {}
            None => {
                let rejection = self.admit(desired, wanted).err();
                self.employ_if(order, rejection);
            }
        }
    }

    /// Writes down what the pods were given before anybody asks for more: a resize that waited before a restart
    /// must not be given what another pod has.
    fn enter(&self, wanted: &[Arc<DesiredPod>], only: Option<&BTreeSet<&str>>) {
        if let Some(only) = only {
            let knows = |uid: &str| only.contains(uid) || self.knows(uid);
            self.kit.ledger.keep(knows);
        }
        for desired in wanted
            .iter()
            .filter(|desired| !self.knows(spec::uid(&desired.pod)))
        {
            let status = self.last_status(&desired.pod);
            if status.as_ref().is_some_and(status::is_terminal) {
                continue;
            }
            let given = resize::given_before(&desired.pod, status.as_ref());
            let allocated = resize::allocated(desired, &given, None);
            let amounts = resources::pod_requests(&allocated.pod);
            self.kit.ledger.note(spec::uid(&desired.pod), amounts);
        }
    }

    /// A new pod waits until the old one of its name has ended, which is told that somebody waits.
    fn name_is_taken(&self, desired: &DesiredPod) -> bool {
        let name = full_name(desired);
        let mut old = self
            .posts
            .values()
            .filter(|post| !post.dead && post.full_name == name)
            .peekable();
        let taken = old.peek().is_some();
        for post in old {
            post.orders
                .send_if_modified(|order| !std::mem::replace(&mut order.followed, true));
        }
        taken
    }

    /// The kubelet's admission: once, when a pod comes here or edgecore starts, the oldest pods first.
    fn admit(&self, desired: &DesiredPod, wanted: &BTreeSet<&str>) -> Result<(), Rejection> {
        let pod = &desired.pod;
        let status = self.last_status(pod);
        let over = status.as_ref().is_some_and(status::is_terminal);
        if over || desired.refused.is_some() || pod.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let started = status.as_ref().is_some_and(|status| status.start_time.is_some());
        // It may run though nothing was told of it yet: its directory comes first, and only once it was admitted.
        let begun = started || self.kit.facts.pod_dir(spec::uid(pod)).exists();
        if !begun {
            admission::admit_new(pod, &self.kit.facts.pressures.held())?;
        }
        let phase = status.and_then(|status| status.phase);
        let pending = phase.map_or(!begun, |phase| phase == "Pending");
        let others: Vec<_> = self.admitted(wanted).collect();
        let others = others.iter().map(|other| &other.pod);
        admission::admit(&self.kit.facts, pod, pending, others)
    }

    /// Pods that may hold what only one can have.
    fn admitted(&self, wanted: &BTreeSet<&str>) -> impl Iterator<Item = Arc<DesiredPod>> {
        let posts = self
            .posts
            .iter()
            .filter(|(uid, post)| !post.rejected && wanted.contains(uid.as_str()));
        let pods = posts.map(|(_, post)| Arc::clone(&post.orders.borrow().desired));
        pods.filter(|desired| {
            let over = self
                .last_status(&desired.pod)
                .as_ref()
                .is_some_and(status::is_terminal);
            desired.refused.is_none() && !over
        })
    }

    fn last_status(&self, pod: &Pod) -> Option<PodStatus> {
        let reported = self.kit.report.last_status(spec::uid(pod));
        reported.or_else(|| pod.status.clone())
    }

    /// Gives the order to end what nobody wants to a new worker.
    pub(super) fn employ_to_end(&mut self, order: Order, dead: bool) {
        let uid = spec::uid(&order.desired.pod).to_owned();
        self.employ_if(order, None);
        if let Some(post) = self.posts.get_mut(&uid) {
            post.dead = dead;
        }
    }

    /// No worker for these until the next call.
    pub(super) fn take_down(&mut self, uids: BTreeSet<String>) {
        self.taken_down = uids;
    }

    fn employ_if(&mut self, order: Order, rejection: Option<Rejection>) {
        let uid = spec::uid(&order.desired.pod).to_owned();
        let full_name = full_name(&order.desired);
        let (orders, received) = watch::channel(order);
        let bell = super::bell();
        let rejected = rejection.is_some();
        let worker = Worker::new(Arc::clone(&self.kit), received, Arc::clone(&bell));
        let worker = match rejection {
            Some(rejection) => worker.rejected(&rejection),
            None => worker,
        };
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
                rejected,
                dead: false,
            },
        );
    }

    fn remove(&self, uid: &str) {
        if let Some(post) = self.posts.get(uid) {
            post.orders
                .send_if_modified(|order| !std::mem::replace(&mut order.removed, true));
        }
    }

    /// Ends a pod that has to go. What was said first counts.
    pub(super) fn evict(&self, Verdict { uid, eviction }: Verdict) {
        if let Some(post) = self.posts.get(&uid) {
            post.orders.send_if_modified(|order| {
                let is_news = order.evicted.is_none();
                order.evicted.get_or_insert(eviction);
                is_news
            });
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
        self.kit.ledger.release(&ended.uid);
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
