//! Which node needs which objects, and who must hear of a change. Pure.
//!
//! What it is: the latest known objects, indexed by the nodes connected here. What it is not: a
//! client; watches and lists tell it, and it tells which named objects should be watched.
//!
//! ```text
//! pods of a node --name--> ConfigMaps, Secrets --watched while named--> Present | Absent
//!       `--namespaces--> Services
//! ```
//!
//! **Invariant:** of a node's pods nothing older than its last consistent list is ever believed,
//! so neither a lagging watch nor a late event can resurrect or remove a pod.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use protocol::desired::AbsentReason;
use protocol::name::NodeName;
use protocol::object::{Body, Kind, Object, ObjectKey, Revision};

use super::feed::Dirty;

/// What is known of a ConfigMap or Secret that some pod names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    /// Nothing yet: its watch has not answered.
    Unknown,
    /// It is there.
    Present(Arc<Object>),
    /// It is not.
    Absent(AbsentReason),
}

/// A pod, with what it names.
#[derive(Clone, Debug)]
pub(super) struct PodEntry {
    pub(super) object: Arc<Object>,
    pub(super) refs: BTreeSet<ObjectKey>,
}

/// A Node of ours.
#[derive(Clone, Debug)]
pub(super) struct NodeEntry {
    /// The canonical Node, for the node itself.
    pub(super) object: Arc<Object>,
    /// The Node as the API server gave it, for merges and for making it again.
    pub(super) whole: Body,
    /// Whether its pods stay when it is cut off.
    pub(super) autonomous: bool,
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

    fn pods_naming<'a>(&'a self, key: &'a ObjectKey) -> impl Iterator<Item = &'a ObjectKey> {
        self.pods
            .iter()
            .filter(|(_, pod)| pod.refs.contains(key))
            .map(|(pod, _)| pod)
    }
}

#[derive(Debug)]
struct Named {
    state: Lookup,
    /// How many pods of which node name it.
    users: BTreeMap<NodeName, usize>,
}

/// Everything that is known, for the nodes connected here.
#[derive(Debug, Default)]
pub(super) struct Index {
    nodes: HashMap<String, NodeEntry>,
    edges: HashMap<NodeName, Edge>,
    services: BTreeMap<ObjectKey, Arc<Object>>,
    runtime_classes: BTreeMap<ObjectKey, Arc<Object>>,
    named: HashMap<ObjectKey, Named>,
    revisions: [Revision; Kind::ALL.len()],
}

/// What a node sees: reading.
impl Index {
    /// Whether a Node of that name exists and is ours.
    pub(super) fn node(&self, name: &str) -> Option<&NodeEntry> {
        self.nodes.get(name)
    }

    /// The names of all Nodes of ours.
    pub(super) fn node_names(&self) -> impl Iterator<Item = &String> {
        self.nodes.keys()
    }

    /// Whether a session of the node is here.
    pub(super) fn is_attached(&self, node: &NodeName) -> bool {
        self.edges.contains_key(node)
    }

    /// A pod of a node connected here.
    pub(super) fn pod(&self, node: &NodeName, key: &ObjectKey) -> Option<&PodEntry> {
        self.edges.get(node)?.pods.get(key)
    }

    /// The keys of a kind that the node must hold, absent references included.
    pub(super) fn keys(&self, node: &NodeName, kind: Kind) -> Vec<ObjectKey> {
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
            Kind::Node => self
                .nodes
                .get(node.as_ref())
                .map(|entry| entry.object.key.clone())
                .into_iter()
                .collect(),
        }
    }

    /// An object that the node must hold.
    pub(super) fn object(&self, node: &NodeName, key: &ObjectKey) -> Option<&Arc<Object>> {
        let edge = self.edges.get(node)?;
        match key.kind {
            Kind::Pod => edge.pods.get(key).map(|pod| &pod.object),
            Kind::ConfigMap | Kind::Secret => match self.lookup(node, key) {
                Some(Lookup::Present(object)) => Some(object),
                Some(Lookup::Unknown | Lookup::Absent(_)) | None => None,
            },
            Kind::Service => self.services.get(key).filter(|_| needs_service(edge, key)),
            Kind::RuntimeClass => self.runtime_classes.get(key),
            Kind::Node => self
                .nodes
                .get(&key.name)
                .filter(|_| key.name == node.as_ref())
                .map(|entry| &entry.object),
        }
    }

    /// What is known of a ConfigMap or Secret, if a pod of the node names it.
    pub(super) fn lookup(&self, node: &NodeName, key: &ObjectKey) -> Option<&Lookup> {
        self.named
            .get(key)
            .filter(|named| named.users.contains_key(node))
            .map(|named| &named.state)
    }

    /// The revision that statements about a kind rest on.
    pub(super) fn view_revision(&self, node: &NodeName, kind: Kind) -> Revision {
        let watched = self.revisions[kind.index()];
        match kind {
            // Which ConfigMaps and Secrets a node needs follows from its pods.
            Kind::Pod | Kind::ConfigMap | Kind::Secret => {
                let floor = self.edges.get(node).map_or(Revision(0), |edge| edge.floor);
                self.revisions[Kind::Pod.index()].max(floor)
            }
            Kind::Service | Kind::RuntimeClass | Kind::Node => watched,
        }
    }

    /// The named objects that should be watched, each with a node that may read it. `current`
    /// keeps the node that already watches, as long as one of its pods names the object.
    pub(super) fn wanted(&self, current: &HashMap<ObjectKey, NodeName>) -> HashMap<ObjectKey, NodeName> {
        let choose = |(key, named): (&ObjectKey, &Named)| {
            let keep = current.get(key).filter(|node| named.users.contains_key(*node));
            let node = keep.or_else(|| named.users.keys().next())?;
            Some((key.clone(), node.clone()))
        };
        self.named.iter().filter_map(choose).collect()
    }
}

fn needs_service(edge: &Edge, key: &ObjectKey) -> bool {
    (key.namespace == "default" && key.name == "kubernetes") || edge.has_namespace(&key.namespace)
}

/// Sessions and consistent lists.
impl Index {
    /// A session begins to listen. Its pods are known after the first consistent list.
    pub(super) fn attach(&mut self, node: &NodeName, feed: Arc<Dirty>) {
        self.edges.entry(node.clone()).or_default().feeds.push(feed);
    }

    /// A session ends; the node's bodies go with its last one.
    pub(super) fn detach(&mut self, node: &NodeName, feed: &Arc<Dirty>) {
        let Some(edge) = self.edges.get_mut(node) else {
            return;
        };
        edge.feeds.retain(|other| !Arc::ptr_eq(other, feed));
        if edge.feeds.is_empty() {
            for (_, pod) in self.edges.remove(node).into_iter().flat_map(|edge| edge.pods) {
                self.release(node, &pod.refs);
            }
        }
    }

    /// A consistent list of the node's pods is about to be made: deletions are remembered until
    /// [`Index::fold`] or [`Index::fold_failed`].
    pub(super) fn fold_begins(&mut self, node: &NodeName) {
        if let Some(edge) = self.edges.get_mut(node) {
            edge.lists += 1;
        }
    }

    /// The list was not made.
    pub(super) fn fold_failed(&mut self, node: &NodeName) {
        if let Some(edge) = self.edges.get_mut(node) {
            edge.lists = edge.lists.saturating_sub(1);
            if edge.lists == 0 {
                edge.tombs.clear();
            }
        }
    }

    /// The node's pods, as a consistent list at `revision` has them.
    pub(super) fn fold(&mut self, node: &NodeName, pods: Vec<PodEntry>, revision: Revision) {
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

/// What watches tell: writing.
impl Index {
    /// A pod is so now.
    pub(super) fn put_pod(&mut self, node: &NodeName, pod: PodEntry) {
        let revision = pod.object.version.revision;
        let held = self
            .pod(node, &pod.object.key)
            .map_or(Revision(0), |held| held.object.version.revision);
        if self.believes(node, revision) && revision > held {
            self.keep_pod(node, pod);
        }
    }

    /// A pod that is held is so now, as the answer to a request said.
    pub(super) fn refresh_pod(&mut self, node: &NodeName, pod: PodEntry) {
        let held = self.pod(node, &pod.object.key);
        if held.is_some_and(|held| held.object.version.uid == pod.object.version.uid) {
            self.put_pod(node, pod);
        }
    }

    /// A pod was deleted.
    pub(super) fn remove_pod(&mut self, node: &NodeName, key: &ObjectKey, revision: Revision) {
        if !self.believes(node, revision) {
            return;
        }
        if let Some(edge) = self.edges.get_mut(node).filter(|edge| edge.lists > 0) {
            edge.tombs.insert(key.clone(), revision);
        }
        if self
            .pod(node, key)
            .is_some_and(|held| held.object.version.revision <= revision)
        {
            self.drop_pod(node, key);
        }
    }

    /// A full list of all pods, at `revision`: what it did not have is gone, except at nodes
    /// whose own consistent list is newer.
    pub(super) fn pods_listed(&mut self, seen: &BTreeSet<ObjectKey>, revision: Revision) {
        let mut gone = Vec::new();
        for (node, edge) in &self.edges {
            if edge.floor <= revision {
                let missing = edge
                    .pods
                    .iter()
                    .filter(|(key, pod)| !seen.contains(*key) && pod.object.version.revision <= revision);
                gone.extend(missing.map(|(key, _)| (node.clone(), key.clone())));
            }
        }
        for (node, key) in gone {
            self.remove_pod(&node, &key, revision);
        }
        self.revisions[Kind::Pod.index()] = revision;
    }

    fn believes(&self, node: &NodeName, revision: Revision) -> bool {
        self.edges.get(node).is_some_and(|edge| revision > edge.floor)
    }

    /// A watch has told everything up to this revision.
    pub(super) fn reached(&mut self, kind: Kind, revision: Revision) {
        let known = &mut self.revisions[kind.index()];
        *known = revision.max(*known);
    }

    /// A list that replaces what was known, even by something older (a restored cluster).
    pub(super) fn relisted(&mut self, kind: Kind, seen: &BTreeSet<ObjectKey>, revision: Revision) {
        let held: Vec<ObjectKey> = match kind {
            Kind::Service => self.services.keys().cloned().collect(),
            Kind::RuntimeClass => self.runtime_classes.keys().cloned().collect(),
            Kind::Node => self
                .nodes
                .values()
                .map(|entry| entry.object.key.clone())
                .collect(),
            Kind::ConfigMap | Kind::Secret | Kind::Pod => Vec::new(),
        };
        for key in held.iter().filter(|key| !seen.contains(*key)) {
            self.remove(key);
        }
        self.revisions[kind.index()] = revision;
    }

    /// A Service or `RuntimeClass` is so now.
    pub(super) fn put(&mut self, object: Arc<Object>) {
        let key = object.key.clone();
        match key.kind {
            Kind::Service => drop(self.services.insert(key.clone(), object)),
            Kind::RuntimeClass => drop(self.runtime_classes.insert(key.clone(), object)),
            Kind::ConfigMap | Kind::Secret => return self.resolve(&key, Lookup::Present(object)),
            Kind::Pod | Kind::Node => return,
        }
        self.mark_shared(&key);
    }

    /// A Node of ours is so now.
    pub(super) fn put_node(&mut self, node: NodeEntry) {
        let key = node.object.key.clone();
        let before = self.nodes.insert(key.name.clone(), node);
        let now = self
            .nodes
            .get(&key.name)
            .map(|entry| &entry.object.version.digest);
        if before.as_ref().map(|entry| &entry.object.version.digest) != now {
            self.mark_shared(&key);
        }
    }

    /// A Service, `RuntimeClass` or Node is gone.
    pub(super) fn remove(&mut self, key: &ObjectKey) {
        // Marked before it goes: afterwards nobody would need it.
        self.mark_shared(key);
        match key.kind {
            Kind::Service => drop(self.services.remove(key)),
            Kind::RuntimeClass => drop(self.runtime_classes.remove(key)),
            Kind::Node => drop(self.nodes.remove(&key.name)),
            Kind::ConfigMap | Kind::Secret | Kind::Pod => {}
        }
    }

    /// What is known now of a ConfigMap or Secret.
    pub(super) fn resolve(&mut self, key: &ObjectKey, state: Lookup) {
        let Some(named) = self.named.get_mut(key) else {
            return;
        };
        if named.state == state {
            return;
        }
        let first = named.state == Lookup::Unknown;
        named.state = state;
        for edge in named.users.keys().filter_map(|node| self.edges.get(node)) {
            edge.mark(key);
            // A pod travels with all that it names: those that waited for this one may go now.
            if first {
                edge.pods_naming(key).for_each(|pod| edge.mark(pod));
            }
        }
    }

    fn mark_shared(&self, key: &ObjectKey) {
        for (node, edge) in &self.edges {
            let concerned = match key.kind {
                Kind::Service => needs_service(edge, key),
                Kind::Node => node.as_ref() == key.name,
                Kind::RuntimeClass | Kind::ConfigMap | Kind::Secret | Kind::Pod => true,
            };
            if concerned {
                edge.mark(key);
            }
        }
    }

    fn keep_pod(&mut self, node: &NodeName, pod: PodEntry) {
        let Some(edge) = self.edges.get_mut(node) else {
            return;
        };
        let key = pod.object.key.clone();
        let new_namespace = !edge.has_namespace(&key.namespace);
        let refs = pod.refs.clone();
        let before = edge.pods.insert(key.clone(), pod);
        edge.mark(&key);
        for named in &refs {
            let named = self.named.entry(named.clone());
            let named = named.or_insert_with(|| Named {
                state: Lookup::Unknown,
                users: BTreeMap::new(),
            });
            *named.users.entry(node.clone()).or_default() += 1;
        }
        self.mark_refs(node, &refs);
        if let Some(before) = before {
            self.release(node, &before.refs);
        }
        if new_namespace {
            self.mark_services_of(node, &key.namespace);
        }
    }

    fn drop_pod(&mut self, node: &NodeName, key: &ObjectKey) {
        let Some(edge) = self.edges.get_mut(node) else {
            return;
        };
        let Some(pod) = edge.pods.remove(key) else { return };
        edge.mark(key);
        let last_of_namespace = !edge.has_namespace(&key.namespace);
        self.mark_refs(node, &pod.refs);
        self.release(node, &pod.refs);
        if last_of_namespace {
            self.mark_services_of(node, &key.namespace);
        }
    }

    fn mark_refs(&self, node: &NodeName, refs: &BTreeSet<ObjectKey>) {
        if let Some(edge) = self.edges.get(node) {
            for key in refs {
                edge.mark(key);
            }
        }
    }

    fn mark_services_of(&self, node: &NodeName, namespace: &str) {
        if let Some(edge) = self.edges.get(node) {
            self.services
                .keys()
                .filter(|key| key.namespace == namespace)
                .for_each(|key| edge.mark(key));
        }
    }

    fn release(&mut self, node: &NodeName, refs: &BTreeSet<ObjectKey>) {
        for key in refs {
            let Some(named) = self.named.get_mut(key) else {
                continue;
            };
            if let Some(count) = named.users.get_mut(node) {
                *count -= 1;
                if *count == 0 {
                    named.users.remove(node);
                }
            }
            if named.users.is_empty() {
                self.named.remove(key);
            }
        }
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
