//! What to send next, and with what. A pod goes with the `ConfigMaps` and Secrets that it names,
//! or waits until all of them are known; removals go last.

use std::sync::Arc;

use crate::desired::{AbsentReason, Found, MAX_CLOSURE, MAX_ITEMS, View, absent_version, frames};
use crate::object::{Body, Kind, Object, ObjectKey, Revision, Version};
use crate::wire::{Absent, Begin, End, Remove, Upsert, desired_down};

use super::comparison::Stage;
use super::passes::{PASSES, Pass};
use super::{Publisher, Sent};

/// The largest body that still fits a frame beside its status and key.
const MAX_SENT: usize = 3 * 1024 * 1024;

/// What can be said of a key.
pub(super) enum Offer {
    Put(Arc<Object>),
    Absent(AbsentReason, Revision),
    /// Not read yet: wait for it.
    Unread,
    /// Nothing can be said; what the edge holds stays.
    Silence,
    Nothing,
}

impl Offer {
    pub(super) fn version(&self) -> Option<Version> {
        match self {
            Self::Put(object) => Some(object.version.clone()),
            Self::Absent(reason, seen) => Some(absent_version(*reason, *seen)),
            Self::Unread | Self::Silence | Self::Nothing => None,
        }
    }
}

/// Whether the edge needs objects of a kind only where its pods name them.
const fn is_reference(kind: Kind) -> bool {
    matches!(kind, Kind::ConfigMap | Kind::Secret)
}

pub(super) fn offer(view: &dyn View, key: &ObjectKey) -> Offer {
    let is_reference = is_reference(key.kind);
    match view.find(key) {
        Found::Object(object) if object.body.bytes.len() <= MAX_SENT => Offer::Put(object),
        Found::Object(_) if is_reference => Offer::Absent(AbsentReason::TooLarge, view.seen(key)),
        Found::Absent(reason) if is_reference => Offer::Absent(reason, view.seen(key)),
        Found::Unknown => Offer::Unread,
        // A deleted Node is made again by cloudcore, if need be from what the edge holds.
        Found::Nothing if key.kind == Kind::Node => Offer::Silence,
        Found::Object(_) | Found::Absent(_) => Offer::Silence,
        Found::Nothing => Offer::Nothing,
    }
}

/// What is committed together at the edge.
#[derive(Default)]
pub(super) struct Group(Vec<Item>);

enum Item {
    Put(Arc<Object>),
    Absent(ObjectKey, AbsentReason, Version, Revision),
    Remove(ObjectKey),
}

/// What becomes of a dirty key in a pass.
enum Verdict {
    Send(Group),
    /// The edge has it already.
    Settled,
    /// Not in this pass, or not yet; and what a pod waits for.
    Later(Option<ObjectKey>),
    /// Only to be removed.
    Gone,
    /// No edge would take it.
    TooLarge,
}

impl Publisher {
    /// The next closure that has anything to send.
    pub(super) fn next_group(&mut self, view: &dyn View) -> Option<Group> {
        let group = (0..PASSES.len()).find_map(|place| self.run_pass(view, place));
        if group.is_none() {
            // Only while there is something to send is what the pods name asked for again and again.
            self.named = None;
        }
        group
    }

    fn run_pass(&mut self, view: &dyn View, place: usize) -> Option<Group> {
        let (kind, pass) = PASSES[place];
        if !self.may_run(kind, pass) {
            return None;
        }
        while let Some(key) = self.dirty.next(place) {
            match self.consider(view, &key, pass) {
                Verdict::Send(group) => return Some(group),
                Verdict::Settled => self.settle(&key),
                Verdict::TooLarge => self.withhold(&key),
                Verdict::Gone => self.dirty.pass_to_last(key),
                Verdict::Later(waits_for) => self.dirty.pass_on(place, key, waits_for),
            }
        }
        None
    }

    fn may_run(&self, kind: Kind, pass: Pass) -> bool {
        let known = |kind: Kind| self.stages[kind.index()].may_send();
        let pending = |kind: Kind| {
            let stage = &self.stages[kind.index()];
            matches!(stage, Stage::Waiting(_) | Stage::Frozen(_) | Stage::Fallen(_))
        };
        known(kind)
            && match pass {
                // A device is nothing without its model, and outlives it nowhere. To be removed it needs none.
                Pass::Put if kind == Kind::Device => !pending(Kind::DeviceModel),
                Pass::Remove if kind == Kind::DeviceModel && !known(Kind::Device) => false,
                // Which of them the edge needs by itself is known when it is known which pods it has.
                Pass::Put if is_reference(kind) => known(Kind::Pod),
                Pass::Part | Pass::Update | Pass::Put => true,
                Pass::Closure => {
                    known(Kind::ConfigMap)
                        && known(Kind::Secret)
                        && !pending(Kind::Service)
                        && !pending(Kind::RuntimeClass)
                }
                Pass::Remove => matches!(self.stages[Kind::Pod.index()], Stage::Synced),
            }
    }

    fn consider(&mut self, view: &dyn View, key: &ObjectKey, pass: Pass) -> Verdict {
        let offered = offer(view, key);
        let sent = self.sent.contains_key(key);
        let held = sent || self.refused.contains(key);
        match (offered, pass) {
            (Offer::Silence, _) => Verdict::Settled,
            (Offer::Nothing, _) if !held => Verdict::Settled,
            (Offer::Nothing, Pass::Closure | Pass::Remove) => {
                Verdict::Send(Group(vec![Item::Remove(key.clone())]))
            }
            (Offer::Nothing, Pass::Part | Pass::Update | Pass::Put) => Verdict::Gone,
            (Offer::Unread, _) | (_, Pass::Part | Pass::Remove) => Verdict::Later(None),
            (_, Pass::Update) if !sent => Verdict::Later(None),
            // It goes with the first pod that names it: alone it would take the room of what can be used.
            (_, Pass::Put) if is_reference(key.kind) && !sent && !self.is_named(view, key) => {
                Verdict::Settled
            }
            (offered, Pass::Closure) => self.closure(view, key, offered),
            (offered, Pass::Update | Pass::Put) => self.lone(key, offered),
        }
    }

    /// Whether a pod that the edge has names the key.
    fn is_named(&mut self, view: &dyn View, key: &ObjectKey) -> bool {
        let (sent, refused) = (&self.sent, &self.refused);
        let has = |pod: &&ObjectKey| pod.kind == Kind::Pod && !refused.contains(*pod);
        let all = || {
            sent.keys()
                .filter(has)
                .flat_map(|pod| view.closure(pod))
                .collect()
        };
        self.named.get_or_insert_with(all).contains(key)
    }

    fn lone(&self, key: &ObjectKey, offered: Offer) -> Verdict {
        match self.item(key, offered) {
            Some(item) => Verdict::Send(Group(vec![item])),
            None => Verdict::Settled,
        }
    }

    /// The pod with all that it names and the edge lacks; later, while any of it is not read.
    fn closure(&self, view: &dyn View, pod: &ObjectKey, offered: Offer) -> Verdict {
        let mut group = Group::default();
        for key in view.closure(pod) {
            match offer(view, &key) {
                Offer::Unread | Offer::Silence | Offer::Nothing => {
                    return Verdict::Later(Some(key));
                }
                offered @ (Offer::Put(_) | Offer::Absent(..)) => group.0.extend(self.item(&key, offered)),
            }
        }
        group.0.extend(self.item(pod, offered));
        if group.0.is_empty() {
            Verdict::Settled
        } else if group.0.len() > MAX_ITEMS || group.bodies() > MAX_CLOSURE {
            Verdict::TooLarge
        } else {
            Verdict::Send(group)
        }
    }

    /// What to send of an offer, if the edge lacks it.
    fn item(&self, key: &ObjectKey, offered: Offer) -> Option<Item> {
        let version = offered.version().filter(|version| self.lacks(key, version))?;
        match offered {
            Offer::Put(object) => Some(Item::Put(object)),
            Offer::Absent(reason, seen) => Some(Item::Absent(key.clone(), reason, version, seen)),
            Offer::Unread | Offer::Silence | Offer::Nothing => None,
        }
    }

    /// Nothing more is to be sent of this key for now.
    fn settle(&mut self, key: &ObjectKey) {
        self.dirty.remove(key);
        if let Stage::Catching(outstanding) = &mut self.stages[key.kind.index()] {
            outstanding.remove(key);
        }
    }

    /// The pod waits, and is tried again as what the edge refuses is: what it names may be less by then.
    fn withhold(&mut self, pod: &ObjectKey) {
        self.settle(pod);
        self.forget_named(pod.kind);
        if self.is_unknown_there(pod) {
            self.withheld.insert(pod.clone());
        }
        self.refused.insert(pod.clone());
        self.too_large.insert(pod.clone());
    }

    /// Puts a closure on its way.
    pub(super) fn send(&mut self, group: Group, view: &dyn View) {
        let seq = self.flight.start(group.bytes());
        self.out
            .push_back(frames::down(desired_down::Kind::Begin(Begin { seq })));
        for item in group.0 {
            let frame = self.send_item(seq, item, view);
            self.out.push_back(frames::down(frame));
        }
        self.out
            .push_back(frames::down(desired_down::Kind::End(End { seq })));
    }

    fn send_item(&mut self, seq: u64, item: Item, view: &dyn View) -> desired_down::Kind {
        let key = item.key().clone();
        self.forget_named(key.kind);
        let view_revision = self.view_revision(view, key.kind).0;
        self.settle(&key);
        self.refused.remove(&key);
        self.withheld.remove(&key);
        match item {
            Item::Put(object) => {
                let Version { uid, digest, .. } = object.version.clone();
                let before = self.sent.insert(key, Sent { uid, digest, seq });
                let is_new = before.is_none_or(|before| before.uid != object.version.uid);
                desired_down::Kind::Upsert(upsert(seq, &object, view_revision, is_new))
            }
            Item::Absent(key, reason, Version { uid, digest, .. }, seen) => {
                let absent = Absent {
                    seq,
                    kind: key.kind.wire(),
                    key: Some(frames::to_name(&key)),
                    reason: reason.wire(),
                    text: String::new(),
                    view_revision,
                    seen_revision: seen.0,
                };
                self.sent.insert(key, Sent { uid, digest, seq });
                desired_down::Kind::Absent(absent)
            }
            Item::Remove(key) => {
                // Without a uid (the edge's state is unknown), the view alone guards the removal.
                let uid = self.sent.remove(&key).map_or_else(String::new, |sent| sent.uid);
                let (kind, name) = (key.kind.wire(), Some(frames::to_name(&key)));
                self.spoke(key.kind, Revision(view_revision));
                self.removing.insert(key, seq);
                desired_down::Kind::Remove(Remove {
                    seq,
                    kind,
                    key: name,
                    uid,
                    revision: view_revision,
                    view_revision,
                })
            }
        }
    }
}

impl Item {
    fn key(&self) -> &ObjectKey {
        match self {
            Self::Put(object) => &object.key,
            Self::Absent(key, ..) | Self::Remove(key) => key,
        }
    }
}

impl Group {
    /// What it takes of the window.
    fn bytes(&self) -> usize {
        self.bodies() + 256 * self.0.len()
    }

    fn bodies(&self) -> usize {
        let size = |item: &Item| match item {
            Item::Put(object) => object.body.bytes.len(),
            Item::Absent(..) | Item::Remove(_) => 0,
        };
        self.0.iter().map(size).sum()
    }
}

fn upsert(seq: u64, object: &Object, view_revision: u64, is_new: bool) -> Upsert {
    let seed = object.seed_status.as_ref().filter(|_| is_new);
    Upsert {
        seq,
        kind: object.key.kind.wire(),
        key: Some(frames::to_name(&object.key)),
        uid: object.version.uid.clone(),
        revision: object.version.revision.0,
        digest: frames::of_digest(object.version.digest),
        body: Some(object.body.to_wire()),
        seed_status: seed.map(Body::to_wire),
        view_revision,
    }
}
