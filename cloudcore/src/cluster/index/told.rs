//! What watches tell, and who must hear of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::desired::AbsentReason;
use protocol::name::NodeName;
use protocol::object::{Kind, Object, ObjectKey, Revision};

use super::{Index, Lookup, Named, NodeEntry, PodEntry, needs_service};

/// What watches tell: writing.
impl Index {
    /// A pod is so now.
    pub fn put_pod(&mut self, node: &NodeName, pod: PodEntry) {
        if self.is_news(node, &pod.object.key, pod.object.version.revision) {
            self.keep_pod(node, pod);
        }
    }

    /// Whether this revision of a pod would be believed, and is newer than the one that is held.
    pub fn is_news(&self, node: &NodeName, key: &ObjectKey, revision: Revision) -> bool {
        let held = self
            .pod(node, key)
            .map_or(Revision(0), |held| held.object.version.revision);
        self.believes(node, revision) && revision > held
    }

    /// A pod that is held is so now, as the answer to a request said.
    pub fn refresh_pod(&mut self, node: &NodeName, pod: PodEntry) {
        let held = self.pod(node, &pod.object.key);
        if held.is_some_and(|held| held.object.version.uid == pod.object.version.uid) {
            self.put_pod(node, pod);
        }
    }

    /// A pod was deleted.
    pub fn remove_pod(&mut self, node: &NodeName, key: &ObjectKey, revision: Revision) {
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
    pub fn pods_listed(&mut self, seen: &BTreeSet<ObjectKey>, revision: Revision) {
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
    pub fn reached(&mut self, kind: Kind, revision: Revision) {
        let known = &mut self.revisions[kind.index()];
        *known = revision.max(*known);
    }

    /// A list that replaces what was known, even by something older (a restored cluster).
    pub fn relisted(&mut self, kind: Kind, seen: &BTreeSet<ObjectKey>, revision: Revision) {
        let held: Vec<ObjectKey> = match kind {
            Kind::Service => self.services.keys().cloned().collect(),
            Kind::RuntimeClass => self.runtime_classes.keys().cloned().collect(),
            Kind::Node => self
                .nodes
                .values()
                .map(|entry| entry.object.key.clone())
                .collect(),
            Kind::DeviceModel | Kind::Device => self.devices.all(kind),
            Kind::ConfigMap | Kind::Secret | Kind::Pod => Vec::new(),
        };
        for key in held.iter().filter(|key| !seen.contains(*key)) {
            self.remove(key);
        }
        self.revisions[kind.index()] = revision;
    }

    /// A Service, `RuntimeClass` or `DeviceModel` is so now.
    pub fn put(&mut self, object: Arc<Object>) {
        let key = object.key.clone();
        match key.kind {
            Kind::Service => drop(self.services.insert(key.clone(), object)),
            Kind::RuntimeClass => drop(self.runtime_classes.insert(key.clone(), object)),
            Kind::ConfigMap | Kind::Secret => return self.resolve(&key, Lookup::Present(object)),
            Kind::DeviceModel => return self.put_model(object),
            Kind::Pod | Kind::Device | Kind::Node => return,
        }
        self.mark_shared(&key);
    }

    /// A Node of ours is so now. Something older is believed of a list alone (a restored cluster).
    pub fn put_node(&mut self, node: NodeEntry, listing: bool) {
        let key = node.object.key.clone();
        let revision = node.object.version.revision;
        let newer = |held: &NodeEntry| held.object.version.revision > revision;
        if !listing && self.node(&key.name).is_some_and(newer) {
            return;
        }
        self.nodes.insert(key.name.clone(), node);
        // Also when only the status changed: what the node reported may have been overwritten.
        self.mark_shared(&key);
    }

    /// A Service, `RuntimeClass`, `DeviceModel`, Device or Node is gone.
    pub fn remove(&mut self, key: &ObjectKey) {
        if matches!(key.kind, Kind::DeviceModel | Kind::Device) {
            return self.remove_device(key);
        }
        // Marked before it goes: afterwards nobody would need it.
        self.mark_shared(key);
        match key.kind {
            Kind::Service => drop(self.services.remove(key)),
            Kind::RuntimeClass => drop(self.runtime_classes.remove(key)),
            Kind::Node => self.remove_node(&key.name),
            Kind::ConfigMap | Kind::Secret | Kind::DeviceModel | Kind::Device | Kind::Pod => {}
        }
    }

    fn remove_node(&mut self, name: &str) {
        self.nodes.remove(name);
        if let Ok(node) = name.parse() {
            self.forget_gone(&node);
        }
    }

    /// The watch of a named object has told everything up to a revision.
    pub fn saw_named(&mut self, key: &ObjectKey, revision: Revision) {
        if let Some(named) = self.named.get_mut(key) {
            named.seen = named.seen.max(revision);
        }
    }

    /// What is known now of a ConfigMap or Secret.
    pub fn resolve(&mut self, key: &ObjectKey, state: Lookup) {
        let Some(named) = self.named.get_mut(key) else {
            return;
        };
        if named.state == state {
            return;
        }
        named.state = state;
        for edge in named.users.keys().filter_map(|node| self.edges.get(node)) {
            edge.mark(key);
        }
        // A pod travels with all that it names: those that waited for this one may go now.
        for (node, pod) in std::mem::take(&mut named.waiting) {
            if let Some(edge) = self.edges.get(&node) {
                edge.mark(&pod);
            }
        }
    }

    /// The API server refuses to tell of a named object, which may well exist. Whether something that it said
    /// before stays.
    pub fn refused(&mut self, key: &ObjectKey) -> bool {
        let untold = [Lookup::Unknown, Lookup::Absent(AbsentReason::Forbidden)];
        let known = self
            .named
            .get(key)
            .is_some_and(|named| !untold.contains(&named.state));
        if !known {
            self.resolve(key, Lookup::Absent(AbsentReason::Forbidden));
        }
        known
    }

    fn mark_shared(&self, key: &ObjectKey) {
        for (node, edge) in &self.edges {
            let concerned = match key.kind {
                Kind::Service => needs_service(edge, key),
                Kind::Node => node.as_ref() == key.name,
                Kind::RuntimeClass | Kind::ConfigMap | Kind::Secret | Kind::Pod => true,
                Kind::DeviceModel | Kind::Device => false,
            };
            if concerned {
                edge.mark(key);
            }
        }
    }

    pub(super) fn keep_pod(&mut self, node: &NodeName, pod: PodEntry) {
        self.hold_pod(node, pod);
        self.seat_others(node);
    }

    /// The same, and those who wait for room are not looked at.
    pub(super) fn hold_pod(&mut self, node: &NodeName, mut pod: PodEntry) {
        self.seat(node, &mut pod);
        let Some(edge) = self.edges.get_mut(node) else {
            return;
        };
        let key = pod.object.key.clone();
        let new_namespace = !edge.has_namespace(&key.namespace);
        let (refs, uid) = (pod.refs.clone(), pod.object.version.uid.clone());
        let before = edge.pods.insert(key.clone(), pod);
        edge.mark(&key);
        for named in &refs {
            let named = self.named.entry(named.clone());
            let named = named.or_insert_with(|| Named {
                entry: {
                    self.entries += 1;
                    self.entries
                },
                state: Lookup::Unknown,
                seen: Revision(0),
                users: BTreeMap::new(),
                waiting: BTreeSet::new(),
            });
            if named.state == Lookup::Unknown {
                named.waiting.insert((node.clone(), key.clone()));
            }
            let pods = named.users.entry(node.clone()).or_default();
            if *pods == 0 {
                self.namings += 1;
                edge.names += 1;
            }
            *pods += 1;
        }
        self.mark_refs(node, &refs);
        if let Some(before) = before {
            if before.object.version.uid != uid {
                self.remember(node, &before.object);
            }
            self.release(node, &key, &before.refs);
        }
        if new_namespace {
            self.mark_services_of(node, &key.namespace);
        }
    }

    pub(super) fn drop_pod(&mut self, node: &NodeName, key: &ObjectKey) {
        let Some(edge) = self.edges.get_mut(node) else {
            return;
        };
        let Some(pod) = edge.pods.remove(key) else { return };
        edge.crowd.leave(key);
        edge.mark(key);
        let last_of_namespace = !edge.has_namespace(&key.namespace);
        self.mark_refs(node, &pod.refs);
        self.release(node, key, &pod.refs);
        self.remember(node, &pod.object);
        if last_of_namespace {
            self.mark_services_of(node, &key.namespace);
        }
        self.seat_others(node);
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

    /// A pod names these no longer.
    pub(super) fn release(&mut self, node: &NodeName, pod: &ObjectKey, refs: &BTreeSet<ObjectKey>) {
        let user = (node.clone(), pod.clone());
        let has = |index: &Self, key| index.pod(node, pod).is_some_and(|pod| pod.refs.contains(key));
        for key in refs {
            let still = has(self, key);
            let Some(named) = self.named.get_mut(key) else {
                continue;
            };
            if !still {
                named.waiting.remove(&user);
            }
            if let Some(count) = named.users.get_mut(node) {
                *count -= 1;
                if *count == 0 {
                    self.namings += 1;
                    named.users.remove(node);
                    if let Some(edge) = self.edges.get_mut(node) {
                        edge.names -= 1;
                        edge.crowd.stir();
                    }
                }
            }
            if named.users.is_empty() {
                self.named.remove(key);
            }
        }
    }
}
