//! Which node needs which objects, and who must hear of a change. Pure.
//!
//! What it is: the latest known objects, indexed by the nodes connected here. What it is not: a
//! client; watches and lists tell it, and it tells which named objects should be watched.
//!
//! ```text
//! pods of a node --name--> ConfigMaps, Secrets --watched while named--> Present | Absent
//!       `--namespaces--> Services
//! Devices bound to a node --name--> DeviceModels
//! ```
//!
//! **Invariant:** of a node's pods nothing older than its last consistent list is ever believed,
//! so neither a lagging watch nor a late event can resurrect or remove a pod.

mod devices;
mod fold;
mod gone;
mod room;
mod told;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use protocol::desired::AbsentReason;
use protocol::name::NodeName;
use protocol::object::{Body, Kind, Object, ObjectKey, Revision};

use super::feed::Dirty;

pub use devices::{DeviceEntry, Said, StatusEntry};
pub use view::IndexView;

use devices::Devices;
use gone::Gone;
use room::Crowd;

/// What is known of a ConfigMap or Secret that some pod names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Nothing yet: its watch has not answered.
    Unknown,
    /// It is there.
    Present(Arc<Object>),
    /// It is not.
    Absent(AbsentReason),
}

/// A pod, with what it names.
#[derive(Clone, Debug)]
pub struct PodEntry {
    /// The canonical pod.
    pub object: Arc<Object>,
    /// The ConfigMaps and Secrets that it names.
    pub refs: BTreeSet<ObjectKey>,
    /// It names more than a pod of an edge node may, or than there is room for at its node: `refs` is empty, and it is
    /// not sent.
    pub withheld: bool,
}

/// A Node of ours.
#[derive(Clone, Debug)]
pub struct NodeEntry {
    /// The canonical Node, for the node itself.
    pub object: Arc<Object>,
    /// The Node as the API server gave it, for merges and for making it again.
    pub whole: Body,
    /// Whether its pods stay when it is cut off.
    pub autonomous: bool,
}

/// A node connected here.
#[derive(Debug, Default)]
struct Edge {
    pods: BTreeMap<ObjectKey, PodEntry>,
    /// Of the last consistent list: what is not newer is not believed.
    floor: Revision,
    /// Consistent lists under way, and what was deleted meanwhile.
    lists: usize,
    tombs: HashMap<ObjectKey, Revision>,
    feeds: Vec<Arc<Dirty>>,
    /// How many ConfigMaps and Secrets its pods name, each counted once.
    names: usize,
    /// Pods that there is no room for, with what they name.
    crowd: Crowd,
}

impl Edge {
    fn has_namespace(&self, namespace: &str) -> bool {
        let first = ObjectKey::new(Kind::Pod, namespace, "");
        self.pods
            .range(first..)
            .next()
            .is_some_and(|(pod, _)| pod.namespace == namespace)
    }

    fn mark(&self, key: &ObjectKey) {
        for feed in &self.feeds {
            feed.mark(key.clone());
        }
    }
}

/// A named object that should be watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// A node that may read it.
    pub node: NodeName,
    /// Which entry the watch tells: one that was released and made again knows nothing, and only a
    /// watch that begins again tells it.
    pub entry: u64,
}

#[derive(Debug)]
struct Named {
    /// Unique among all entries that ever were.
    entry: u64,
    state: Lookup,
    /// The revision up to which its watch has told everything.
    seen: Revision,
    /// How many pods of which node name it.
    users: BTreeMap<NodeName, usize>,
    /// Which ones, for as long as it is not known: they wait for it.
    waiting: BTreeSet<(NodeName, ObjectKey)>,
}

/// Everything that is known, for the nodes connected here.
#[derive(Debug, Default)]
pub struct Index {
    nodes: HashMap<String, NodeEntry>,
    edges: HashMap<NodeName, Edge>,
    /// Pods that were a node's.
    gone: HashMap<NodeName, Gone>,
    services: BTreeMap<ObjectKey, Arc<Object>>,
    runtime_classes: BTreeMap<ObjectKey, Arc<Object>>,
    devices: Devices,
    named: HashMap<ObjectKey, Named>,
    /// How many entries of named objects have been made.
    entries: u64,
    /// Counts changes of which nodes name which objects.
    namings: u64,
    revisions: [Revision; Kind::ALL.len()],
}

/// What a node sees: reading.
impl Index {
    /// Whether a Node of that name exists and is ours.
    pub fn node(&self, name: &str) -> Option<&NodeEntry> {
        self.nodes.get(name)
    }

    /// The names of all Nodes of ours.
    pub fn node_names(&self) -> impl Iterator<Item = &String> {
        self.nodes.keys()
    }

    /// Whether a session of the node is here.
    pub fn is_attached(&self, node: &NodeName) -> bool {
        self.edges.contains_key(node)
    }

    /// A pod of a node connected here.
    pub fn pod(&self, node: &NodeName, key: &ObjectKey) -> Option<&PodEntry> {
        self.edges.get(node)?.pods.get(key)
    }

    /// The keys of a kind that the node must hold, absent references included.
    pub fn keys(&self, node: &NodeName, kind: Kind) -> Vec<ObjectKey> {
        let Some(edge) = self.edges.get(node) else {
            return Vec::new();
        };
        match kind {
            Kind::Pod => edge.pods.keys().cloned().collect(),
            Kind::ConfigMap | Kind::Secret => {
                let refs: BTreeSet<_> = edge.pods.values().flat_map(|pod| &pod.refs).collect();
                refs.into_iter().filter(|key| key.kind == kind).cloned().collect()
            }
            Kind::Service => self
                .services
                .keys()
                .filter(|key| needs_service(edge, key))
                .cloned()
                .collect(),
            Kind::RuntimeClass => self.runtime_classes.keys().cloned().collect(),
            Kind::DeviceModel | Kind::Device => self.devices.keys(node, kind),
            Kind::Node => self
                .nodes
                .get(node.as_ref())
                .map(|entry| entry.object.key.clone())
                .into_iter()
                .collect(),
        }
    }

    /// An object that the node must hold.
    pub fn object(&self, node: &NodeName, key: &ObjectKey) -> Option<&Arc<Object>> {
        let edge = self.edges.get(node)?;
        match key.kind {
            Kind::Pod => edge.pods.get(key).map(|pod| &pod.object),
            Kind::ConfigMap | Kind::Secret => match self.lookup(node, key) {
                Some(Lookup::Present(object)) => Some(object),
                Some(Lookup::Unknown | Lookup::Absent(_)) | None => None,
            },
            Kind::Service => self.services.get(key).filter(|_| needs_service(edge, key)),
            Kind::RuntimeClass => self.runtime_classes.get(key),
            Kind::DeviceModel | Kind::Device => self.devices.object(node, key),
            Kind::Node => self
                .nodes
                .get(&key.name)
                .filter(|_| key.name == node.as_ref())
                .map(|entry| &entry.object),
        }
    }

    /// What is known of a ConfigMap or Secret, if a pod of the node names it.
    pub fn lookup(&self, node: &NodeName, key: &ObjectKey) -> Option<&Lookup> {
        self.named
            .get(key)
            .filter(|named| named.users.contains_key(node))
            .map(|named| &named.state)
    }

    /// The revision up to which a named object's own watch has told everything.
    pub fn seen(&self, key: &ObjectKey) -> Option<Revision> {
        self.named.get(key).map(|named| named.seen)
    }

    /// The revision that statements about a kind rest on.
    pub fn view_revision(&self, node: &NodeName, kind: Kind) -> Revision {
        let watched = self.revisions[kind.index()];
        match kind {
            // Which ConfigMaps and Secrets a node needs follows from its pods.
            Kind::Pod | Kind::ConfigMap | Kind::Secret => {
                let floor = self.edges.get(node).map_or(Revision(0), |edge| edge.floor);
                self.revisions[Kind::Pod.index()].max(floor)
            }
            Kind::Service | Kind::RuntimeClass | Kind::DeviceModel | Kind::Device | Kind::Node => watched,
        }
    }

    /// Changes whenever [`Index::wanted`] may give something else.
    pub const fn namings(&self) -> u64 {
        self.namings
    }

    /// The named objects that should be watched, each with a node that may read it. `current`
    /// keeps the node that already watches, as long as one of its pods names the object.
    pub fn wanted(&self, current: &HashMap<ObjectKey, Wanted>) -> HashMap<ObjectKey, Wanted> {
        let choose = |(key, named): (&ObjectKey, &Named)| {
            let watching = current.get(key).map(|current| &current.node);
            let keep = watching.filter(|node| named.users.contains_key(*node));
            let node = keep.or_else(|| named.users.keys().next())?.clone();
            let entry = named.entry;
            Some((key.clone(), Wanted { node, entry }))
        };
        self.named.iter().filter_map(choose).collect()
    }
}

fn needs_service(edge: &Edge, key: &ObjectKey) -> bool {
    (key.namespace == "default" && key.name == "kubernetes") || edge.has_namespace(&key.namespace)
}

#[cfg(test)]
mod tests;
