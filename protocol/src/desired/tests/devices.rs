//! Kinds that a cluster may lack: devices and their models.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::desired::{Fences, Found, Held, Publisher, Replica, Request, View, Violation};
use crate::object::{Kind, Object, ObjectKey, Revision, canonical};
use crate::wire::{DesiredDown, DesiredUp, ObjectName, Rejected, desired_down, desired_up};

/// A cluster of devices and models, which may not have been listed yet.
#[derive(Default)]
struct Things {
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    listed: bool,
    /// Of the models the list fails.
    models_away: bool,
}

impl Things {
    fn lists(&self, kind: Kind) -> bool {
        let is_device = matches!(kind, Kind::DeviceModel | Kind::Device);
        (self.listed || !is_device) && !(self.models_away && kind == Kind::DeviceModel)
    }
}

impl Things {
    fn put(&mut self, kind: Kind, name: &str) {
        let json = format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"n","uid":"u-{name}","resourceVersion":"5"}},"spec":{{}}}}"#
        );
        let object = canonical(kind, json.as_bytes()).unwrap();
        self.objects.insert(object.key.clone(), Arc::new(object));
    }
}

impl View for Things {
    fn keys(&self, kind: Kind) -> Vec<ObjectKey> {
        self.objects
            .keys()
            .filter(|key| key.kind == kind)
            .cloned()
            .collect()
    }

    fn find(&self, key: &ObjectKey) -> Found {
        self.objects
            .get(key)
            .map_or(Found::Nothing, |object| Found::Object(Arc::clone(object)))
    }

    fn closure(&self, _: &ObjectKey) -> Vec<ObjectKey> {
        Vec::new()
    }

    fn revision(&self, kind: Kind) -> Revision {
        Revision(if self.lists(kind) { 9 } else { 0 })
    }

    fn is_listed(&self, kind: Kind) -> bool {
        self.lists(kind)
    }
}

/// Both halves, and what was sent.
struct Pair {
    view: Things,
    cloud: Publisher,
    edge: Replica,
    sent: Vec<desired_down::Kind>,
}

impl Pair {
    fn connect(view: Things, held: &Things) -> Self {
        let row = |object: &Arc<Object>| Held {
            key: object.key.clone(),
            version: object.version.clone(),
            references: std::collections::BTreeSet::new(),
        };
        let mut edge = Replica::load(held.objects.values().map(row).collect(), Fences::default());
        edge.connected("c", 0).unwrap();
        let mut cloud = Publisher::new();
        cloud.consistent(Kind::Pod, Revision(9));
        let mut pair = Self {
            view,
            cloud,
            edge,
            sent: Vec::new(),
        };
        pair.settle();
        pair
    }

    fn settle(&mut self) {
        loop {
            let mut idle = true;
            while let Some(commit) = self.edge.poll_commit() {
                self.edge.committed(commit.id).unwrap();
            }
            while let Some(frame) = self.edge.poll_transmit() {
                self.cloud.handle_frame(frame).unwrap();
                idle = false;
            }
            while let Some(frame) = self.cloud.poll_transmit(&self.view) {
                self.sent.extend(frame.kind.clone());
                self.edge.handle_frame(DesiredDown { kind: frame.kind }).unwrap();
                idle = false;
            }
            if idle {
                return;
            }
        }
    }

    fn synced(&self) -> Vec<Kind> {
        Kind::ALL
            .into_iter()
            .filter(|kind| self.edge.synced(*kind))
            .collect()
    }

    /// Kinds put and removed, in the order in which they went.
    fn changes(&self) -> Vec<(Kind, &'static str)> {
        let change = |frame: &desired_down::Kind| {
            if let desired_down::Kind::Upsert(upsert) = frame {
                Some((Kind::from_wire(upsert.kind)?, "put"))
            } else if let desired_down::Kind::Remove(remove) = frame {
                Some((Kind::from_wire(remove.kind)?, "removed"))
            } else {
                None
            }
        };
        self.sent.iter().filter_map(change).collect()
    }
}

fn pump() -> Things {
    let mut things = Things::default();
    things.put(Kind::Device, "pump");
    things.put(Kind::DeviceModel, "pump-model");
    things
}

#[test]
fn in_a_cluster_without_devices_everything_else_is_brought_up_to_date() {
    let pair = Pair::connect(Things::default(), &Things::default());
    assert_eq!(pair.synced(), Kind::ALL);
}

#[test]
fn devices_stay_at_their_node_until_the_cluster_has_listed_them() {
    let mut pair = Pair::connect(Things::default(), &pump());
    assert_eq!(pair.edge.entries().count(), 2);
    let others = Kind::ALL
        .into_iter()
        .filter(|kind| !matches!(kind, Kind::DeviceModel | Kind::Device));
    assert_eq!(pair.synced(), others.collect::<Vec<_>>());
    let asked: Vec<Request> = std::iter::from_fn(|| pair.cloud.poll_request()).collect();
    assert_eq!(
        asked,
        [
            Request::Consistent(Kind::DeviceModel),
            Request::Consistent(Kind::Device)
        ]
    );

    pair.view.listed = true;
    for kind in [Kind::DeviceModel, Kind::Device] {
        pair.cloud.consistent(kind, Revision(9));
    }
    pair.settle();
    assert_eq!(pair.edge.entries().count(), 0, "the list has none");
    assert_eq!(
        pair.changes(),
        [(Kind::Device, "removed"), (Kind::DeviceModel, "removed")]
    );
}

#[test]
fn devices_begin_to_work_when_their_kinds_appear_and_the_model_goes_first() {
    let mut pair = Pair::connect(Things::default(), &Things::default());
    pair.view = pump();
    pair.view.listed = true;
    for key in pair.view.objects.keys().cloned().collect::<Vec<_>>() {
        pair.cloud.mark_dirty(key);
    }
    pair.settle();
    assert_eq!(
        pair.changes(),
        [(Kind::DeviceModel, "put"), (Kind::Device, "put")]
    );
}

#[test]
fn a_device_is_removed_although_the_models_cannot_be_listed_and_the_others_wait_for_theirs() {
    let mut view = pump();
    view.put(Kind::Device, "valve");
    view.listed = true;
    view.models_away = true;
    let mut pair = Pair::connect(view, &pump());
    assert!(!pair.edge.synced(Kind::DeviceModel) && pair.changes().is_empty());
    let pump = ObjectKey::new(Kind::Device, "n", "pump");
    pair.view.objects.remove(&pump);
    pair.cloud.mark_dirty(pump);
    pair.settle();
    assert_eq!(pair.changes(), [(Kind::Device, "removed")], "a new device waits");
    pair.view.models_away = false;
    pair.settle();
    assert_eq!(pair.changes(), [(Kind::Device, "removed"), (Kind::Device, "put")]);
}

fn refuse(cloud: &mut Publisher, name: &str) -> Result<(), Violation> {
    let rejected = Rejected {
        seq: 99,
        kind: Kind::Device.wire(),
        key: Some(ObjectName {
            namespace: "n".into(),
            name: name.into(),
        }),
        ..Rejected::default()
    };
    cloud.handle_frame(DesiredUp {
        kind: Some(desired_up::Kind::Rejected(rejected)),
    })
}

#[test]
fn only_what_the_edge_was_told_of_can_be_refused() {
    let mut view = pump();
    view.listed = true;
    let mut pair = Pair::connect(view, &Things::default());
    let never = refuse(&mut pair.cloud, "never");
    assert_eq!(never, Err(Violation::NeverOffered { kind: Kind::Device }));
    assert!(!pair.cloud.has_refused());
    // Put again and again, it is refused once.
    for _ in 0..3 {
        refuse(&mut pair.cloud, "pump").unwrap();
    }
    pair.cloud.retry_refused();
    assert_eq!(pair.cloud.dirty_keys(), 1);
    pair.settle();
    // A removal may be refused until it was applied.
    pair.view.objects.retain(|key, _| key.kind != Kind::Device);
    pair.cloud.mark_dirty(ObjectKey::new(Kind::Device, "n", "pump"));
    while pair.cloud.poll_transmit(&pair.view).is_some() {}
    refuse(&mut pair.cloud, "pump").unwrap();
    assert!(pair.cloud.has_refused());
}
