//! The API server's side: watches in, writes for nodes out.
//!
//! What it is: one watch per kind (and one per named ConfigMap or Secret), an index of what each
//! connected node needs, and every write that is made for a node. What it is not: a cache of
//! typed objects, or a ledger; whatever is here can be read again from the API server.
//!
//! ```text
//! API server ──watch──► kinds, named ──► index ──► NodeView, NodeFeed ──► desired flow
//!            ◄─as node── write, nodes, pods, lease ◄────────────────────── reported flow, hub
//! ```
//!
//! **Invariant:** cloudcore itself reads no Secret or ConfigMap of a user: each is watched as a
//! node whose bound pod names it.

mod api;
pub mod attempt;
mod client;
mod connect;
mod devices;
pub mod document;
mod events;
mod feed;
pub mod fence;
mod health;
pub mod index;
mod kinds;
pub mod labels;
mod lanes;
mod lease;
mod lists;
mod metrics;
mod named;
mod nodes;
mod persist;
mod pods;
mod reads;
mod rebirth;
mod seen;
pub mod shown;
#[cfg(test)]
pub(crate) mod testing;
mod thin;
mod unheld;
mod unsent;
mod view;
mod watch;
mod way;
mod write;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use protocol::clock::Clock;
use protocol::name::NodeName;
use protocol::object::Kind;
use tokio::sync::{Notify, watch as watch_channel};

pub use api::{Actor, Api, ApiError, Call, Content, Impersonation};
pub(crate) use client::{DEAD_AFTER, abandon_soon, ask_whether_alive};
pub use connect::{ConnectError, Found, Right, cluster_id, examine, find};
pub use devices::{KnownDevice, status_entry};
pub use document::DocumentError;
pub use feed::{Dirty, NodeFeed};
pub use fence::Fence;
pub use health::Health;
pub use index::{Said, StatusEntry};
pub use lease::{Holder, LeaseError, RENEW_EVERY};
pub(crate) use persist::persist;
pub use pods::PodRef;
pub(crate) use pods::is_path_segment;
pub use view::NodeView;
pub use write::{BoxError, Enrolment, WriteError};

use index::Index;
use metrics::Metrics;

/// What the cluster side needs from outside.
pub struct Settings {
    /// Requests to the API server.
    pub api: Api,
    /// The program's clock.
    pub clock: Clock,
    /// Who may be acted for.
    pub enrolment: Arc<dyn Enrolment>,
    /// Who hears of pods bound to edge nodes.
    pub bindings: Arc<dyn PodObserver>,
    /// This replica's own address: what edge nodes show as theirs to the API server.
    pub advertise: Option<IpAddr>,
}

/// Hears of every pod bound to an edge node that keeps its pods, connected here or not.
pub trait PodObserver: Send + Sync + 'static {
    /// A pod is so now, as the API server's JSON; `here` says whether a session of its node is.
    fn bound(&self, namespace: &str, name: &str, here: bool, json: &[u8]);
    /// A pod is gone.
    fn gone(&self, namespace: &str, name: &str);
}

/// The API server, for nodes. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    index: RwLock<Index>,
    health: Health,
    metrics: Metrics,
    /// Rung when the set of named objects may have changed.
    wants: Notify,
    /// Rung when a device, a model or the status of a device changed.
    devices_bell: Notify,
    /// Rung to make the shared kinds list again.
    relists: kinds::Relists,
    /// A node became autonomous.
    autonomous: Notify,
    /// Whose turn it is to have a list made.
    lists: lists::Lists,
    /// Reads of the nodes' Leases: the session that each names.
    leases: reads::Reads<Option<String>>,
    synced: watch_channel::Sender<kinds::Synced>,
    rebirths: rebirth::Rebirths,
    /// Pods that are not sent, to be said in their events.
    unsent: unsent::UnsentPods,
    /// Pods that nobody but cloudcore can end.
    unheld: unheld::UnheldPods,
    /// The session that last took each node's Lease here, and what it may write over.
    sessions: RwLock<HashMap<NodeName, fence::Proof>>,
}

impl Cluster {
    /// The cluster side, not yet watching: give [`Cluster::run`] to the supervisor.
    pub fn new(settings: Settings) -> Self {
        let inner = Inner {
            settings,
            index: RwLock::default(),
            health: Health::default(),
            metrics: Metrics::default(),
            wants: Notify::new(),
            devices_bell: Notify::new(),
            relists: kinds::Relists::default(),
            autonomous: Notify::new(),
            lists: lists::Lists::default(),
            leases: reads::Reads::default(),
            synced: watch_channel::Sender::new(kinds::Synced::default()),
            rebirths: rebirth::Rebirths::default(),
            unsent: unsent::UnsentPods::default(),
            unheld: unheld::UnheldPods::default(),
            sessions: RwLock::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Requests to the API server under cloudcore's own name or a node's.
    pub fn api(&self) -> &Api {
        &self.inner.settings.api
    }

    /// Whether the API server answers.
    pub fn health(&self) -> &Health {
        &self.inner.health
    }

    /// Registers what is counted here.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.inner.metrics.register(registry);
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.inner.settings.clock
    }

    fn enrolment(&self) -> &dyn Enrolment {
        &*self.inner.settings.enrolment
    }

    /// Starts to listen for a node's session. Its view is complete after
    /// [`Cluster::consistent_pods`]; before that it must not be compared.
    pub fn subscribe(&self, node: &NodeName) -> NodeFeed {
        let dirty = Arc::new(Dirty::default());
        let has_devices = {
            let mut index = self.inner.index.write();
            index.attach(node, Arc::clone(&dirty));
            index.devices_of(node) > 0
        };
        if has_devices {
            // What is wrong with them is said by the replica that has the node.
            self.devices_changed(Kind::Device);
        }
        NodeFeed::new(self.clone(), node.clone(), dirty)
    }

    /// What the node must hold, as far as it is known here.
    pub fn view(&self, node: &NodeName) -> Arc<NodeView> {
        Arc::new(NodeView::new(self.clone(), node.clone()))
    }

    /// Watches, makes deleted Nodes again and keeps an eye on the API server, until dropped.
    pub async fn run(&self) {
        tokio::join!(
            self.watch_kind(Kind::Node),
            self.watch_kind(Kind::Pod),
            self.watch_kind(Kind::Service),
            self.watch_kind(Kind::RuntimeClass),
            self.watch_kind(Kind::DeviceModel),
            self.watch_kind(Kind::Device),
            self.watch_statuses(),
            self.watch_named(),
            self.list_for_autonomy(),
            self.rebirth_nodes(),
            self.write_unsent(),
            self.remove_unheld(),
            self.probe(),
        );
    }

    /// Waits until every shared kind that no cluster lacks has been listed once: before that, no view is complete.
    pub async fn synced(&self) {
        for kind in [Kind::Node, Kind::Pod, Kind::Service, Kind::RuntimeClass] {
            self.listed(kind, 1).await;
        }
    }

    fn detach(&self, node: &NodeName, dirty: &Arc<Dirty>) {
        self.inner.index.write().detach(node, dirty);
        self.inner.wants.notify_one();
    }
}
