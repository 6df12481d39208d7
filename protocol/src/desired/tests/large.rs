//! Pods that name more than a node may hold, or than one closure may carry.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::json;

use crate::desired::digest::BucketSums;
use crate::desired::{
    AbsentReason, Fences, Found, Held, MAX_CLOSURE, MAX_INVENTORY, Publisher, RejectReason, Replica, Request,
    View, Violation, absent_version, frames, references,
};
use crate::object::{Body, Digest, Kind, Object, ObjectKey, Revision, Version, canonical};
use crate::wire::{BucketDigests, DesiredUp, Have, Inventory, InventoryEntry, ObjectName, desired_up};

/// Pods that name `ConfigMaps`, of which there are none, or each with the same body.
#[derive(Default)]
pub(super) struct Naming {
    body: Option<Body>,
    /// No pod may be sent, whatever it names.
    withheld: bool,
    /// Whose watch has not answered yet.
    pub(super) unread: BTreeSet<ObjectKey>,
    /// How many objects and names were looked at.
    pub(super) looks: Cell<usize>,
    pods: BTreeMap<ObjectKey, (Arc<Object>, BTreeSet<ObjectKey>)>,
    head: u64,
}

impl Naming {
    /// A pod that names so many `ConfigMaps` of its own; its keys.
    pub(super) fn put(&mut self, name: &str, names: usize) -> BTreeSet<ObjectKey> {
        self.head += 1;
        let volume = |index| json!({"configMap": {"name": format!("{name}-{index}"), "optional": true}});
        let volumes: Vec<_> = (0..names).map(volume).collect();
        let metadata = json!({"name": name, "namespace": "n", "uid": format!("u-{name}"),
            "resourceVersion": self.head.to_string()});
        let pod = json!({"metadata": metadata, "spec": {"volumes": volumes}}).to_string();
        let object = Arc::new(canonical(Kind::Pod, pod.as_bytes()).unwrap());
        let (key, names) = (object.key.clone(), references(pod.as_bytes()).unwrap());
        self.pods.insert(key.clone(), (object, names.clone()));
        names.into_iter().chain([key]).collect()
    }

    pub(super) fn held(&self) -> Vec<Held> {
        let (mut held, version) = (Vec::new(), absent_version(AbsentReason::Missing, Revision(1)));
        for (object, names) in self.pods.values() {
            held.push(Held {
                key: object.key.clone(),
                version: object.version.clone(),
                references: names.clone(),
            });
            held.extend(names.iter().map(|key| Held {
                key: key.clone(),
                version: version.clone(),
                references: BTreeSet::new(),
            }));
        }
        held
    }
}

fn config_map(key: &ObjectKey, body: &Body) -> Arc<Object> {
    let version = Version {
        uid: "u".into(),
        revision: Revision(1),
        digest: Digest::of(b""),
    };
    Arc::new(Object {
        key: key.clone(),
        version,
        body: body.clone(),
        seed_status: None,
    })
}

impl View for Naming {
    fn keys(&self, kind: Kind) -> Vec<ObjectKey> {
        let pods = self.pods.iter();
        let named = |names| (!self.withheld).then_some(names).into_iter().flatten();
        let keys = pods.flat_map(|(pod, (_, names))| std::iter::once(pod).chain(named(names)));
        let keys: Vec<_> = keys.filter(|key| key.kind == kind).cloned().collect();
        self.looks.update(|looks| looks + keys.len());
        keys
    }

    fn find(&self, key: &ObjectKey) -> Found {
        self.looks.update(|looks| looks + 1);
        let named = || self.pods.values().any(|(_, names)| names.contains(key));
        match self.pods.get(key) {
            Some(_) if self.withheld => Found::Absent(AbsentReason::TooLarge),
            Some((object, _)) => Found::Object(Arc::clone(object)),
            None if self.unread.contains(key) => Found::Unknown,
            None if named() => match &self.body {
                Some(body) => Found::Object(config_map(key, body)),
                None => Found::Absent(AbsentReason::Missing),
            },
            None => Found::Nothing,
        }
    }

    fn closure(&self, pod: &ObjectKey) -> Vec<ObjectKey> {
        let names = self.pods.get(pod).map(|(_, names)| names);
        let names = names.filter(|_| !self.withheld);
        self.looks.update(|looks| looks + names.map_or(0, BTreeSet::len));
        names.into_iter().flatten().cloned().collect()
    }

    fn revision(&self, _: Kind) -> Revision {
        Revision(self.head)
    }
}

/// Both halves, and what the edge would not take.
pub(super) struct Pair {
    pub(super) view: Naming,
    pub(super) cloud: Publisher,
    pub(super) edge: Replica,
    refused: Vec<(ObjectKey, u32)>,
}

impl Pair {
    pub(super) fn new(held: Vec<Held>) -> Self {
        Self {
            view: Naming::default(),
            cloud: Publisher::new(),
            edge: Replica::load(held, Fences::default()),
            refused: Vec::new(),
        }
    }

    pub(super) fn connect(&mut self) {
        self.edge.disconnected();
        self.edge.connected("c", 0).unwrap();
        self.cloud = Publisher::new();
        self.settle();
    }

    pub(super) fn put(&mut self, name: &str, names: usize) {
        for key in self.view.put(name, names) {
            self.cloud.mark_dirty(key);
        }
        self.settle();
    }

    /// The pod is deleted, and its containers are gone.
    pub(super) fn delete(&mut self, name: &str) {
        let uid = self.lose(name);
        self.settle();
        self.edge.terminated(&uid);
        self.settle();
    }

    /// The pod is deleted, and nothing was sent of it yet; its uid.
    pub(super) fn lose(&mut self, name: &str) -> String {
        self.view.head += 1;
        let key = ObjectKey::new(Kind::Pod, "n", name);
        let (object, names) = self.view.pods.remove(&key).unwrap();
        for key in names.into_iter().chain([key]) {
            self.cloud.mark_dirty(key);
        }
        object.version.uid.clone()
    }

    fn retry(&mut self) {
        self.cloud.retry_refused();
        self.settle();
    }

    pub(super) fn settle(&mut self) {
        while self.step(usize::MAX) {}
    }

    /// Both halves do what they can, and the cloud sends up to so many frames; whether anything was done. Any
    /// violation of either half panics here.
    pub(super) fn step(&mut self, frames: usize) -> bool {
        let mut done = false;
        while let Some(commit) = self.edge.poll_commit() {
            self.edge.committed(commit.id).unwrap();
        }
        while let Some(frame) = self.edge.poll_transmit() {
            self.refused.extend(refusal(&frame));
            self.cloud.handle_frame(frame).unwrap();
            done = true;
        }
        while let Some(Request::Consistent(kind)) = self.cloud.poll_request() {
            self.cloud.consistent(kind, self.view.revision(kind));
            done = true;
        }
        let sent = std::iter::from_fn(|| self.cloud.poll_transmit(&self.view));
        for frame in sent.take(frames) {
            self.edge.handle_frame(frame).unwrap();
            done = true;
        }
        done
    }

    pub(super) fn held(&self, kind: Kind) -> BTreeSet<&str> {
        let entries = self.edge.entries().filter(|(key, _)| key.kind == kind);
        entries.map(|(key, _)| key.name.as_str()).collect()
    }

    pub(super) fn is_synced(&self) -> bool {
        Kind::ALL.into_iter().all(|kind| self.edge.synced(kind))
    }
}

fn refusal(frame: &DesiredUp) -> Option<(ObjectKey, u32)> {
    let Some(desired_up::Kind::Rejected(rejected)) = &frame.kind else {
        return None;
    };
    let name = rejected.key.clone()?;
    let key = ObjectKey::new(Kind::from_wire(rejected.kind)?, name.namespace, name.name);
    Some((key, rejected.code))
}

#[test]
fn a_pod_that_names_more_than_there_is_room_for_is_refused_and_locks_nobody_out() {
    let mut pair = Pair::new(Vec::new());
    pair.connect();
    pair.put("a", 4_000);
    pair.put("b", 200);
    let b = (ObjectKey::new(Kind::Pod, "n", "b"), RejectReason::Full.wire());
    for _ in 0..2 {
        pair.retry();
        assert_eq!(
            pair.held(Kind::ConfigMap).len(),
            4_000,
            "what cannot be used takes no room"
        );
        assert_eq!(pair.held(Kind::Pod), BTreeSet::from(["a"]));
        assert!(pair.refused.contains(&b) && pair.is_synced());
        pair.refused.clear();
        pair.connect();
    }
    pair.delete("b");
    pair.put("c", 90);
    assert_eq!(pair.held(Kind::Pod), BTreeSet::from(["a", "c"]));
    assert_eq!(pair.held(Kind::ConfigMap).len(), 4_090);
    assert!(pair.is_synced());
}

#[test]
fn an_edge_that_holds_more_than_it_may_is_compared_and_has_room_again() {
    let mut pair = Pair::new(Vec::new());
    pair.view.put("a", 4_000);
    pair.view.put("b", 300);
    pair.edge = Replica::load(pair.view.held(), Fences::default());
    pair.connect();
    assert!(pair.is_synced());
    assert_eq!(pair.held(Kind::ConfigMap).len(), 4_300);
    pair.delete("b");
    pair.connect();
    pair.put("c", 90);
    assert_eq!(pair.held(Kind::Pod), BTreeSet::from(["a", "c"]));
    assert_eq!(pair.held(Kind::ConfigMap).len(), 4_090);
    assert!(pair.is_synced());
}

#[test]
fn a_pod_that_is_too_large_for_the_link_holds_up_no_other() {
    let mut pair = Pair::new(Vec::new());
    pair.connect();
    pair.put("large", MAX_INVENTORY + 1);
    pair.put("z", 90);
    for _ in 0..2 {
        assert_eq!(pair.held(Kind::Pod), BTreeSet::from(["z"]));
        assert_eq!(pair.held(Kind::ConfigMap).len(), 90, "no more than can be used");
        assert_eq!(pair.refused, [], "it is not sent at all");
        assert!(pair.is_synced());
        let large = ObjectKey::new(Kind::Pod, "n", "large");
        assert!(pair.cloud.is_withheld(&pair.view, &large));
        assert_eq!(pair.cloud.poll_too_large(), Some(large));
        assert_eq!(pair.cloud.poll_too_large(), None, "it was said");
        assert!(pair.cloud.has_refused(), "and is tried again");
        pair.connect();
    }
    pair.put("large", 3);
    assert_eq!(pair.held(Kind::Pod), BTreeSet::from(["large", "z"]));
    let large = ObjectKey::new(Kind::Pod, "n", "large");
    assert!(!pair.cloud.is_withheld(&pair.view, &large));
    while pair.cloud.poll_too_large().is_some() {}
    pair.put("large", MAX_INVENTORY + 10);
    assert!(pair.cloud.poll_too_large().is_some());
    assert!(
        !pair.cloud.is_withheld(&pair.view, &large),
        "an older one is there"
    );
}

#[test]
fn a_pod_that_is_not_sent_is_withheld_only_where_the_edge_is_known_to_have_nothing_of_it() {
    let mut without = Pair::new(Vec::new());
    without.view.put("a", 3);
    let (a, held) = (ObjectKey::new(Kind::Pod, "n", "a"), without.view.held());
    without.view.withheld = true;
    assert!(
        !without.cloud.is_withheld(&without.view, &a),
        "the edge has said nothing"
    );
    without.connect();
    assert!(without.cloud.is_withheld(&without.view, &a));
    let mut with = Pair::new(held);
    with.view = without.view;
    with.connect();
    assert!(with.is_synced() && !with.cloud.is_withheld(&with.view, &a));
}

#[test]
fn a_pod_whose_objects_are_too_many_bytes_for_one_closure_waits_until_they_are_fewer() {
    let mut pair = Pair::new(Vec::new());
    pair.view.body = Some(Body::plain(vec![0; 3 * 1024 * 1024].into()));
    pair.connect();
    pair.put("large", 1 + MAX_CLOSURE / (3 * 1024 * 1024));
    assert!(pair.held(Kind::Pod).is_empty() && pair.refused.is_empty() && pair.is_synced());
    assert!(pair.cloud.poll_too_large().is_some());
    pair.view.body = None;
    pair.retry();
    assert_eq!(pair.held(Kind::Pod), BTreeSet::from(["large"]));
}

#[test]
fn a_pod_that_may_not_be_sent_stays_where_it_is_and_goes_nowhere_else() {
    let mut pair = Pair::new(Vec::new());
    pair.connect();
    pair.put("a", 3);
    pair.view.withheld = true;
    pair.put("b", 3);
    for _ in 0..2 {
        assert_eq!(pair.held(Kind::Pod), BTreeSet::from(["a"]));
        assert_eq!(
            pair.held(Kind::ConfigMap).len(),
            3,
            "what it starts from stays too"
        );
        assert!(pair.is_synced());
        pair.connect();
    }
    pair.delete("a");
    assert!(pair.held(Kind::Pod).is_empty() && pair.held(Kind::ConfigMap).is_empty());
}

/// What comes of the inventories of these kinds, each full of names that the view lacks.
fn strays(kinds: &[Kind], name: usize) -> Result<(), Violation> {
    let (mut cloud, view) = (Publisher::new(), Naming::default());
    for kind in kinds.iter().map(|kind| kind.wire()) {
        let have = Have {
            kind,
            count: MAX_INVENTORY as u64,
            digest: vec![0; 16].into(),
            ..Have::default()
        };
        let digests = BucketSums::default().to_wire().into();
        let entry = |index| InventoryEntry {
            key: Some(ObjectName {
                namespace: "n".into(),
                name: format!("{index:0name$}"),
            }),
            digest: vec![0; 16].into(),
            ..InventoryEntry::default()
        };
        let inventory = Inventory {
            kind,
            entries: (0..MAX_INVENTORY).map(entry).collect(),
            last: false,
        };
        for frame in [
            desired_up::Kind::Have(have),
            desired_up::Kind::Buckets(BucketDigests { kind, digests }),
            desired_up::Kind::Inventory(inventory),
        ] {
            cloud.handle_frame(frames::up(frame))?;
            while cloud.poll_transmit(&view).is_some() {}
        }
    }
    Ok(())
}

#[test]
fn what_an_edge_says_that_it_holds_takes_bounded_memory_over_all_kinds() {
    let kinds = [Kind::ConfigMap, Kind::Secret, Kind::Service];
    assert_eq!(strays(&kinds, 60), Ok(()), "names of a usual length");
    assert_eq!(strays(&kinds[..2], 253), Ok(()), "the longest of two kinds");
    let refused = strays(&kinds, 253).unwrap_err();
    assert!(matches!(refused, Violation::OversizeKeys { .. }), "{refused}");
}
