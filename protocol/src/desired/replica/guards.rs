//! Whether a closure may be taken. Pure: this only judges, the batch carries it out.
//!
//! A damaged or incomplete closure is refused whole; an item that is older than what is held is
//! refused alone, and what is held stays.

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::{MAX_INVENTORY, Violation};
use crate::object::{Kind, ObjectKey};

use super::assemble::{Closure, Item, What};
use super::commits::{Absence, Change};
use super::{Entry, Replica};

/// Why the edge does not take an object. The older version, if any, stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// The edge holds, or has seen, something newer.
    Older,
    /// The body does not open, or is not what its digest says.
    Damaged,
    /// A pod came without something that it names.
    Incomplete,
    /// The node holds as many objects of the kind as it may.
    Full,
    /// Removals of what pods name wait until the pods are Synced.
    TooEarly,
    /// The store could not write it.
    NotStored,
}

impl RejectReason {
    /// The reason's number on the wire.
    pub const fn wire(self) -> u32 {
        match self {
            Self::Older => 1,
            Self::Damaged => 2,
            Self::Incomplete => 3,
            Self::Full => 4,
            Self::TooEarly => 5,
            Self::NotStored => 6,
        }
    }

    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Older => "the edge has seen a newer version",
            Self::Damaged => "the body is damaged or does not match its digest",
            Self::Incomplete => "the pod came without something that it names",
            Self::Full => "the node holds as many objects of this kind as it may",
            Self::TooEarly => "the pods of this node are not synced yet",
            Self::NotStored => "the edge's store could not write it",
        }
    }
}

/// What becomes of a closure.
#[derive(Debug, Default)]
pub(super) struct Judged {
    pub(super) changes: Vec<(ObjectKey, Change)>,
    /// Accepted, but to be carried out when no pod names the key any more.
    pub(super) deferred: Vec<ObjectKey>,
    pub(super) refused: Vec<(ObjectKey, RejectReason)>,
}

/// What a single item comes to.
enum Ruling {
    Change(Change),
    Already,
    Defer,
    Refuse(RejectReason),
}

/// The map as it will be once all changes so far are written.
pub(super) struct Overlay<'a> {
    pub(super) held: &'a BTreeMap<ObjectKey, Entry>,
    pub(super) changes: &'a BTreeMap<ObjectKey, Change>,
}

impl Overlay<'_> {
    fn find(&self, key: &ObjectKey) -> Option<Entry> {
        match self.changes.get(key) {
            Some(change) => change.entry(),
            None => self.held.get(key).cloned(),
        }
    }

    fn has(&self, key: &ObjectKey) -> bool {
        self.changes
            .get(key)
            .map_or_else(|| self.held.contains_key(key), Change::keeps)
    }

    /// Whether any pod, also one that is just being removed, names the key.
    fn names(&self, key: &ObjectKey) -> bool {
        let named = |references: &BTreeSet<ObjectKey>| references.contains(key);
        self.held.values().any(|entry| named(&entry.references))
            || self
                .changes
                .values()
                .filter_map(Change::entry)
                .any(|entry| named(&entry.references))
    }

    fn count(&self, kind: Kind) -> usize {
        let of_kind = |key: &&ObjectKey| key.kind == kind;
        let stays = |key: &&ObjectKey| self.changes.get(*key).is_none_or(Change::keeps);
        let new = |(key, change): &(&ObjectKey, &Change)| change.keeps() && !self.held.contains_key(*key);
        let held = self.held.keys().filter(of_kind).filter(stays).count();
        held + self
            .changes
            .iter()
            .filter(new)
            .filter(|(key, _)| key.kind == kind)
            .count()
    }

    /// Whether the map would have more of a kind than it may, were these written too.
    fn overflows(&self, brought: &BTreeSet<&ObjectKey>) -> bool {
        Kind::ALL.into_iter().any(|kind| {
            let of_kind = brought.iter().filter(|key| key.kind == kind);
            let new = of_kind.filter(|key| !self.has(key)).count();
            new > 0 && self.count(kind) + new > MAX_INVENTORY
        })
    }
}

impl Replica {
    /// Judges a closure against the map and the changes not yet written.
    pub(super) fn judge(&self, overlay: &Overlay<'_>, closure: &Closure) -> Result<Judged, Violation> {
        let mut judged = Judged::default();
        for item in &closure.items {
            let kind = item.key.kind;
            if !self.stages[kind.index()].takes_closures() {
                return Err(Violation::OutOfTurn {
                    frame: "a closure",
                    kind,
                });
            }
            match self.rule(overlay, item) {
                Ruling::Change(change) => judged.changes.push((item.key.clone(), change)),
                Ruling::Already => {}
                Ruling::Defer => judged.deferred.push(item.key.clone()),
                Ruling::Refuse(reason) => judged.refused.push((item.key.clone(), reason)),
            }
        }
        let whole = closure.fault.or_else(|| judged.fault(overlay));
        Ok(whole.map_or(judged, |reason| Judged::refuse_all(closure, reason)))
    }

    fn rule(&self, overlay: &Overlay<'_>, item: &Item) -> Ruling {
        if item.view < self.fence(item.key.kind) {
            return Ruling::Refuse(RejectReason::Older);
        }
        let held = overlay.find(&item.key);
        match &item.what {
            What::Put { object, references } => {
                let entry = Entry {
                    version: object.version.clone(),
                    references: references.clone(),
                };
                match held {
                    Some(held) if held.is_newer_than(&entry) => Ruling::Refuse(RejectReason::Older),
                    Some(held) if held.is_same_as(&entry) => Ruling::Already,
                    Some(_) | None => Ruling::Change(Change::Put {
                        object: object.clone(),
                        entry,
                    }),
                }
            }
            What::Absent { reason, seen } => {
                let absence = Absence::new(item.key.clone(), *reason, *seen);
                match held {
                    Some(held) if held.version.revision > *seen => Ruling::Refuse(RejectReason::Older),
                    Some(held) if held.version.digest == absence.version.digest => Ruling::Already,
                    Some(_) | None => Ruling::Change(Change::Absent(absence)),
                }
            }
            What::Remove { uid } => self.rule_removal(overlay, item, uid, held),
            What::Unreadable { .. } => Ruling::Refuse(RejectReason::Damaged),
        }
    }

    fn rule_removal(&self, overlay: &Overlay<'_>, item: &Item, uid: &str, held: Option<Entry>) -> Ruling {
        let Some(held) = held else { return Ruling::Already };
        let another = !uid.is_empty() && held.version.uid != uid;
        // Which ConfigMaps and Secrets a node needs follows from its pods, whose view the fence
        // has judged; how new their content is says nothing about that.
        let follows_pods = matches!(item.key.kind, Kind::ConfigMap | Kind::Secret);
        if another || (!follows_pods && held.version.revision > item.view) {
            return Ruling::Refuse(RejectReason::Older);
        }
        if !follows_pods {
            return Ruling::Change(Change::Remove { view: item.view });
        }
        if !self.synced(Kind::Pod) {
            return Ruling::Refuse(RejectReason::TooEarly);
        }
        if overlay.names(&item.key) || self.is_terminating(&item.key) {
            return Ruling::Defer;
        }
        Ruling::Change(Change::Remove { view: item.view })
    }

    /// Whether a removed pod whose containers may still run names the key.
    pub(super) fn is_terminating(&self, key: &ObjectKey) -> bool {
        self.terminating
            .values()
            .any(|references| references.contains(key))
    }

    /// Whether anything that is held or still runs names the key.
    pub(super) fn is_named(&self, key: &ObjectKey) -> bool {
        self.held.values().any(|entry| entry.references.contains(key)) || self.is_terminating(key)
    }
}

impl Judged {
    /// Why the closure as a whole cannot be taken.
    fn fault(&self, overlay: &Overlay<'_>) -> Option<RejectReason> {
        let kept = self.changes.iter().filter(|(_, change)| change.keeps());
        let brought: BTreeSet<&ObjectKey> = kept.map(|(key, _)| key).collect();
        if overlay.overflows(&brought) {
            return Some(RejectReason::Full);
        }
        let entries = self.changes.iter().filter_map(|(_, change)| change.entry());
        let lacks = |named: &ObjectKey| !brought.contains(named) && !overlay.has(named);
        let incomplete = entries
            .flat_map(|entry| entry.references)
            .any(|named| lacks(&named));
        incomplete.then_some(RejectReason::Incomplete)
    }

    fn refuse_all(closure: &Closure, reason: RejectReason) -> Self {
        let refused = closure
            .items
            .iter()
            .map(|item| (item.key.clone(), reason))
            .collect();
        Self {
            refused,
            ..Self::default()
        }
    }
}

impl Entry {
    /// Whether this must not be replaced by what is offered. Revisions are the whole store's, so
    /// they order incarnations of a name too.
    fn is_newer_than(&self, offered: &Self) -> bool {
        self.version.revision > offered.version.revision
    }

    fn is_same_as(&self, offered: &Self) -> bool {
        self.version.uid == offered.version.uid && self.version.digest == offered.version.digest
    }
}
