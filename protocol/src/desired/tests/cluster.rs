//! A cluster of the simulated world: a history of objects, and replicas of cloudcore that have
//! each seen a part of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::json;

use crate::desired::{AbsentReason, Found, View, references};
use crate::object::{Kind, Object, ObjectKey, Revision, canonical};

/// The kinds that the world has.
pub(super) const KINDS: [Kind; 3] = [Kind::Service, Kind::ConfigMap, Kind::Pod];

type State = BTreeMap<ObjectKey, Arc<Object>>;

/// What etcd holds, now and at each revision.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub(super) head: u64,
    history: Vec<(u64, ObjectKey, Option<Arc<Object>>)>,
    uids: u64,
}

impl Cluster {
    pub(super) fn at(&self, revision: u64, kind: Kind) -> State {
        let mut state = State::new();
        let seen = self
            .history
            .iter()
            .filter(|(at, key, _)| *at <= revision && key.kind == kind);
        for (_, key, object) in seen {
            match object {
                Some(object) => state.insert(key.clone(), Arc::clone(object)),
                None => state.remove(key),
            };
        }
        state
    }

    fn now(&self, key: &ObjectKey) -> Option<Arc<Object>> {
        self.at(self.head, key.kind).get(key).cloned()
    }

    /// Creates or changes an object.
    pub(super) fn put(&mut self, key: &ObjectKey, names: &BTreeSet<u8>, content: u8) {
        let uid = self.now(key).map_or_else(
            || {
                self.uids += 1;
                format!("uid-{}", self.uids)
            },
            |object| object.version.uid.clone(),
        );
        self.head += 1;
        let volumes: Vec<_> = names
            .iter()
            .map(|name| json!({"name": "v", "configMap": {"name": format!("c{name}")}}))
            .collect();
        let json = json!({
            "metadata": {
                "name": key.name, "namespace": key.namespace, "uid": uid,
                "resourceVersion": self.head.to_string(), "annotations": {"content": content.to_string()},
            },
            "spec": {"volumes": volumes},
            "status": {"phase": "Running"},
        });
        let object = canonical(key.kind, json.to_string().as_bytes()).unwrap();
        self.history
            .push((self.head, key.clone(), Some(Arc::new(object))));
    }

    pub(super) fn delete(&mut self, key: &ObjectKey) {
        if self.now(key).is_some() {
            self.head += 1;
            self.history.push((self.head, key.clone(), None));
        }
    }

    /// Whether this incarnation exists now.
    pub(super) fn lives(&self, key: &ObjectKey, uid: &str) -> bool {
        self.now(key).is_some_and(|object| object.version.uid == uid)
    }

    /// Back to an older state, as after restoring etcd from a backup.
    pub(super) fn restore(&mut self, revision: u64) {
        self.history.retain(|(at, ..)| *at <= revision);
        self.head = revision;
    }
}

/// One replica's caches, for one node.
#[derive(Debug, Default)]
pub(super) struct Cache {
    seen: BTreeMap<Kind, u64>,
    state: BTreeMap<Kind, State>,
    /// `ConfigMaps` whose watch has not answered yet.
    pub(super) unread: BTreeSet<ObjectKey>,
}

impl Cache {
    /// Sees the cluster's events up to a revision; what changed for the node.
    pub(super) fn advance(&mut self, cluster: &Cluster, kind: Kind, to: u64) -> BTreeSet<ObjectKey> {
        let to = to.min(cluster.head).max(self.at(kind));
        self.changing(|cache| cache.jump(cluster, kind, to))
    }

    /// A consistent list: the cluster as it is now, also when that is older than what was seen.
    pub(super) fn list(&mut self, cluster: &Cluster, kind: Kind) -> BTreeSet<ObjectKey> {
        self.changing(|cache| cache.jump(cluster, kind, cluster.head))
    }

    pub(super) fn read(&mut self) -> BTreeSet<ObjectKey> {
        self.changing(|cache| cache.unread.clear())
    }

    pub(super) fn at(&self, kind: Kind) -> u64 {
        self.seen.get(&kind).copied().unwrap_or_default()
    }

    fn jump(&mut self, cluster: &Cluster, kind: Kind, to: u64) {
        self.seen.insert(kind, to);
        self.state.insert(kind, cluster.at(to, kind));
    }

    fn changing(&mut self, change: impl FnOnce(&mut Self)) -> BTreeSet<ObjectKey> {
        let before = self.snapshot();
        change(self);
        let after = self.snapshot();
        let keys = before.keys().chain(after.keys());
        keys.filter(|key| before.get(*key) != after.get(*key))
            .cloned()
            .collect()
    }

    /// What a feed would compare: per key, what the view says of it.
    pub(super) fn snapshot(&self) -> BTreeMap<ObjectKey, String> {
        let keys = KINDS.into_iter().flat_map(|kind| self.keys(kind));
        keys.map(|key| (key.clone(), describe(&self.find(&key))))
            .collect()
    }
}

pub(super) fn describe(found: &Found) -> String {
    match found {
        Found::Object(object) => format!("{} {:?}", object.version.uid, object.version.digest),
        Found::Absent(reason) => format!("{reason:?}"),
        Found::Unknown => "unknown".to_owned(),
        Found::Nothing => "nothing".to_owned(),
    }
}

impl View for Cache {
    fn keys(&self, kind: Kind) -> Vec<ObjectKey> {
        let held = |kind| self.state.get(&kind).into_iter().flat_map(State::keys).cloned();
        match kind {
            Kind::ConfigMap => {
                let named: BTreeSet<_> = held(Kind::Pod).flat_map(|pod| self.closure(&pod)).collect();
                named.into_iter().collect()
            }
            Kind::Pod
            | Kind::Service
            | Kind::Secret
            | Kind::RuntimeClass
            | Kind::DeviceModel
            | Kind::Device
            | Kind::Node => held(kind).collect(),
        }
    }

    fn find(&self, key: &ObjectKey) -> Found {
        let named = key.kind != Kind::ConfigMap || self.keys(Kind::ConfigMap).contains(key);
        if !named {
            return Found::Nothing;
        }
        if self.unread.contains(key) {
            return Found::Unknown;
        }
        match self.state.get(&key.kind).and_then(|state| state.get(key)) {
            Some(object) => Found::Object(Arc::clone(object)),
            None if key.kind == Kind::ConfigMap => Found::Absent(AbsentReason::Missing),
            None => Found::Nothing,
        }
    }

    fn closure(&self, pod: &ObjectKey) -> Vec<ObjectKey> {
        let object = self.state.get(&Kind::Pod).and_then(|pods| pods.get(pod));
        let names = object.map(|object| references(&object.body.json().unwrap()).unwrap());
        names.into_iter().flatten().collect()
    }

    /// Which `ConfigMaps` a node needs follows from its pods, so their view is the pods'.
    fn revision(&self, kind: Kind) -> Revision {
        Revision(self.at(if kind == Kind::ConfigMap { Kind::Pod } else { kind }))
    }

    fn seen(&self, key: &ObjectKey) -> Revision {
        Revision(self.at(key.kind))
    }
}
