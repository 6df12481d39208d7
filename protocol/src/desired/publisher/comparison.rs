//! One comparison per kind: from what the edge claims to have, to the set of keys that differ.

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::digest::{BucketSet, BucketSums, MapDigest};
use crate::desired::{ENTRY, MAX_CLAIMED, MAX_STRAYS, View, Violation, frames};
use crate::object::{Digest, Kind, ObjectKey, Revision, Version};
use crate::wire::{BucketDigests, Different, Have, Inventory, Plan, Same, Synced, WantKeys, desired_down};

use super::closures::{Offer, offer};
use super::{Publisher, Request, Sent, skipped};

/// With so few entries on both sides, asking for all keys is cheaper than bucket digests.
const FEW: usize = 32;

/// Where the comparison of one kind is.
#[derive(Debug, Default)]
pub(super) enum Stage {
    /// The edge has not said what it has; nothing of the kind may be sent.
    #[default]
    Silent,
    /// The edge has said it; the view is not yet fit to answer.
    Waiting(Claim),
    /// The maps differ; the edge is asked where. Later changes go to the dirty set.
    Frozen(Frozen),
    /// The differences are in the dirty set; these of them were not sent yet.
    Catching(BTreeSet<ObjectKey>),
    /// As before; but the view has gone back in time meanwhile, and a list is being made to say by how much.
    Fallen(BTreeSet<ObjectKey>),
    /// Equal, up to what is dirty or in flight.
    Synced,
}

impl Stage {
    /// Whether changes from now on must be remembered.
    pub(super) const fn has_frozen(&self) -> bool {
        matches!(
            self,
            Self::Frozen(_) | Self::Catching(_) | Self::Fallen(_) | Self::Synced
        )
    }

    /// Whether it is known what the edge holds, so that objects may be sent.
    pub(super) const fn may_send(&self) -> bool {
        matches!(self, Self::Catching(_) | Self::Synced)
    }
}

/// What the edge says that it has.
#[derive(Debug)]
pub(super) struct Claim {
    count: u64,
    digest: Digest,
    fence: Revision,
    applied: u64,
    unproven: bool,
    pub(super) asked: bool,
    /// What is not known to have been read, once the view was looked through for it.
    unread: Option<BTreeSet<ObjectKey>>,
}

/// A view that differs from what the edge has, and the edge's entries as they come in.
#[derive(Debug)]
pub(super) struct Frozen {
    view: BTreeMap<ObjectKey, Version>,
    revision: Revision,
    wanted: Option<BucketSet>,
    entries: BTreeMap<ObjectKey, (String, Digest)>,
}

impl Publisher {
    pub(super) fn claimed(&mut self, have: &Have) -> Result<(), Violation> {
        // A kind that this version does not know is left alone.
        let Some(kind) = Kind::from_wire(have.kind) else {
            return Ok(());
        };
        if have.count > MAX_CLAIMED as u64 {
            return Err(Violation::Oversize {
                kind,
                limit: MAX_CLAIMED,
            });
        }
        self.dirty.forget(kind);
        if !matches!(self.stages[kind.index()], Stage::Silent) {
            // A list made for an earlier comparison does not count for this one.
            self.consistent[kind.index()] = None;
        }
        self.strays[kind.index()] = 0;
        self.stages[kind.index()] = Stage::Waiting(Claim {
            count: have.count,
            digest: frames::to_digest(&have.digest)?,
            fence: Revision(have.view_revision),
            applied: have.applied_seq,
            unproven: have.unproven,
            asked: false,
            unread: None,
        });
        Ok(())
    }

    /// Answers the claims that the view is fit to answer.
    pub(super) fn answer_claims(&mut self, view: &dyn View) {
        for kind in Kind::ALL {
            if !matches!(self.stages[kind.index()], Stage::Waiting(_)) {
                continue;
            }
            if let Stage::Waiting(claim) = std::mem::take(&mut self.stages[kind.index()]) {
                self.stages[kind.index()] = self.answer(view, kind, claim);
            }
        }
    }

    fn answer(&mut self, view: &dyn View, kind: Kind, mut claim: Claim) -> Stage {
        if !self.hurried && claim.waits_for_reads(view, kind) {
            return Stage::Waiting(claim);
        }
        // The list is under way that a difference, or a first comparison, is to rest on.
        if kind == Kind::Pod && claim.asked && !self.is_consistent(kind) {
            return Stage::Waiting(claim);
        }
        // An edge that holds nothing agrees with a cluster that lacks the kind.
        if !view.is_listed(kind) && claim.count > 0 {
            return self.ask_for_list(kind, claim);
        }
        let revision = self.view_revision(view, kind);
        // What is on its way to the edge moves its fence too.
        claim.fence = claim.fence.max(self.spoken[kind.index()]);
        let first_pods = kind == Kind::Pod && claim.unproven;
        if (first_pods || revision < claim.fence) && !self.is_consistent(kind) {
            return self.ask_for_list(kind, claim);
        }
        if revision < claim.fence {
            // Even a consistent list is older than what the edge has seen: etcd was restored.
            self.behind(kind, revision);
        } else {
            self.spoken[kind.index()] = claim.fence;
        }
        let (frozen, unread) = freeze(view, kind);
        if !self.hurried && !unread.is_empty() {
            // Named since the view was looked through.
            claim.unread = Some(unread);
            return Stage::Waiting(claim);
        }
        if claim.matches(&frozen) && self.flight.ends_with(claim.applied) {
            return self.same(kind, frozen, revision);
        }
        if kind == Kind::Pod && !self.is_consistent(kind) {
            return self.ask_for_list(kind, claim);
        }
        self.ask_where(kind, &claim, frozen, revision)
    }

    fn ask_for_list(&mut self, kind: Kind, mut claim: Claim) -> Stage {
        if !claim.asked {
            claim.asked = true;
            self.requests.push_back(Request::Consistent(kind));
        }
        Stage::Waiting(claim)
    }

    fn same(&mut self, kind: Kind, frozen: BTreeMap<ObjectKey, Version>, revision: Revision) -> Stage {
        self.forget(kind);
        self.sent.extend(
            frozen
                .into_iter()
                .map(|(key, version)| (key, Sent::from_edge(version.uid, version.digest))),
        );
        let consistent = self.is_consistent(kind);
        self.spoke(kind, revision);
        let same = Same {
            kind: kind.wire(),
            view_revision: revision.0,
            consistent,
        };
        self.out.push_back(frames::down(desired_down::Kind::Same(same)));
        Stage::Synced
    }

    fn ask_where(
        &mut self,
        kind: Kind,
        claim: &Claim,
        view: BTreeMap<ObjectKey, Version>,
        revision: Revision,
    ) -> Stage {
        let few = view.len() <= FEW && claim.count <= FEW as u64;
        let (question, wanted) = if few {
            (want(kind, BucketSet::ALL), Some(BucketSet::ALL))
        } else {
            (different(kind), None)
        };
        self.out.push_back(frames::down(question));
        Stage::Frozen(Frozen {
            view,
            revision,
            wanted,
            entries: BTreeMap::new(),
        })
    }

    pub(super) fn buckets(&mut self, buckets: &BucketDigests) -> Result<(), Violation> {
        let kind = frames::to_kind(buckets.kind)?;
        let Stage::Frozen(frozen @ Frozen { wanted: None, .. }) = &mut self.stages[kind.index()] else {
            return Err(Violation::OutOfTurn {
                frame: "BucketDigests",
                kind,
            });
        };
        let mut sums = BucketSums::default();
        frozen
            .view
            .iter()
            .for_each(|(key, version)| sums.add(key, &version.uid, &version.digest));
        let differing = sums
            .differing(&buckets.digests)
            .ok_or(Violation::Malformed { field: "digests" })?;
        frozen.wanted = Some(differing);
        self.out.push_back(frames::down(want(kind, differing)));
        Ok(())
    }

    pub(super) fn inventory(&mut self, inventory: Inventory) -> Result<(), Violation> {
        let kind = frames::to_kind(inventory.kind)?;
        let Stage::Frozen(frozen @ Frozen { wanted: Some(_), .. }) = &mut self.stages[kind.index()] else {
            return Err(Violation::OutOfTurn {
                frame: "Inventory",
                kind,
            });
        };
        for entry in inventory.entries {
            let key = frames::to_key(inventory.kind, entry.key)?;
            let (uid, digest) = (frames::to_uid(entry.uid)?, frames::to_digest(&entry.digest)?);
            if !frozen.view.contains_key(&key) {
                self.strays[kind.index()] += ENTRY + key.namespace.len() + key.name.len() + uid.len();
            }
            frozen.entries.insert(key, (uid, digest));
        }
        if self.strays.iter().sum::<usize>() > MAX_STRAYS {
            return Err(Violation::OversizeKeys { limit: MAX_STRAYS });
        }
        if frozen.entries.len() > MAX_CLAIMED {
            return Err(Violation::Oversize {
                kind,
                limit: MAX_CLAIMED,
            });
        }
        if inventory.last {
            let stage = std::mem::take(&mut self.stages[kind.index()]);
            if let Stage::Frozen(frozen) = stage {
                self.plan(kind, frozen);
            }
        }
        Ok(())
    }

    /// Everything is known: what differs becomes dirty, and the edge is told how much it is.
    fn plan(&mut self, kind: Kind, frozen: Frozen) {
        let Frozen {
            view,
            revision,
            wanted,
            entries,
        } = frozen;
        let wanted = wanted.unwrap_or(BucketSet::ALL);
        let mut plan = Plan {
            kind: kind.wire(),
            view_revision: revision.0,
            consistent: self.is_consistent(kind),
            ..Plan::default()
        };
        let mut outstanding = BTreeSet::new();
        for (key, version) in view.iter().filter(|(key, _)| wanted.has(key)) {
            match entries.get(key) {
                Some((uid, digest)) if *uid == version.uid && *digest == version.digest => continue,
                Some(_) => plan.updates += 1,
                None => plan.adds += 1,
            }
            outstanding.insert(key.clone());
        }
        for key in entries.keys().filter(|key| !view.contains_key(key)) {
            plan.removes += 1;
            outstanding.insert(key.clone());
        }
        self.spoke(kind, revision);
        self.forget(kind);
        let same = view.into_iter().filter(|(key, _)| !wanted.has(key));
        self.sent
            .extend(same.map(|(key, version)| (key, Sent::from_edge(version.uid, version.digest))));
        self.sent.extend(
            entries
                .into_iter()
                .map(|(key, (uid, digest))| (key, Sent::from_edge(uid, digest))),
        );
        for key in &outstanding {
            self.dirty.mark(key.clone());
        }
        self.out.push_back(frames::down(desired_down::Kind::Plan(plan)));
        self.stages[kind.index()] = Stage::Catching(outstanding);
    }

    /// Ends the comparisons whose last difference was sent.
    pub(super) fn announce_synced(&mut self, view: &dyn View) {
        for kind in Kind::ALL {
            if matches!(&self.stages[kind.index()], Stage::Catching(outstanding) if outstanding.is_empty()) {
                self.stages[kind.index()] = Stage::Synced;
                self.spoke(kind, self.view_revision(view, kind));
                let synced = self.synced_frames(view, kind).into_iter();
                self.out
                    .extend(synced.map(|synced| frames::down(desired_down::Kind::Synced(synced))));
            }
        }
    }

    fn synced_frames(&self, view: &dyn View, kind: Kind) -> Vec<Synced> {
        let mut sum = MapDigest::default();
        let held = self
            .sent
            .iter()
            .filter(|(key, _)| key.kind == kind && !self.refused.contains(*key));
        held.for_each(|(key, sent)| sum.add_identity(key, &sent.uid));
        let skipped = self
            .refused
            .iter()
            .filter(|key| key.kind == kind)
            .map(frames::to_name);
        let end = Synced {
            kind: kind.wire(),
            count: sum.count,
            digest: frames::of_digest(sum.digest()),
            view_revision: self.view_revision(view, kind).0,
            consistent: self.is_consistent(kind),
            ..Synced::default()
        };
        skipped::frames(end, skipped)
    }

    /// The edge's inventory replaces what was believed of it.
    fn forget(&mut self, kind: Kind) {
        self.forget_named(kind);
        self.sent.retain(|key, _| key.kind != kind);
        self.refused.retain(|key| key.kind != kind);
        self.withheld.retain(|key| key.kind != kind);
    }
}

impl Sent {
    const fn from_edge(uid: String, digest: Digest) -> Self {
        Self { uid, digest, seq: 0 }
    }
}

impl Claim {
    /// Whether something of the kind is to be read first. What is not is looked at one by one, as often as it takes.
    fn waits_for_reads(&mut self, view: &dyn View, kind: Kind) -> bool {
        let unread = self.unread.get_or_insert_with(|| freeze(view, kind).1);
        while let Some(key) = unread.first() {
            if matches!(offer(view, key), Offer::Unread) {
                return true;
            }
            unread.pop_first();
        }
        false
    }

    fn matches(&self, view: &BTreeMap<ObjectKey, Version>) -> bool {
        let mut sum = MapDigest::default();
        for (key, version) in view {
            sum.add(key, &version.uid, &version.digest);
        }
        sum.count == self.count && sum.digest() == self.digest
    }
}

/// The versions of all that the view has of a kind, and what it has not read yet.
fn freeze(view: &dyn View, kind: Kind) -> (BTreeMap<ObjectKey, Version>, BTreeSet<ObjectKey>) {
    let (mut frozen, mut unread) = (BTreeMap::new(), BTreeSet::new());
    for key in view.keys(kind) {
        let offered = offer(view, &key);
        if let Some(version) = offered.version() {
            frozen.insert(key, version);
        } else if matches!(offered, Offer::Unread) {
            unread.insert(key);
        }
    }
    (frozen, unread)
}

fn want(kind: Kind, buckets: BucketSet) -> desired_down::Kind {
    desired_down::Kind::WantKeys(WantKeys {
        kind: kind.wire(),
        buckets: buckets.to_wire().into(),
    })
}

fn different(kind: Kind) -> desired_down::Kind {
    desired_down::Kind::Different(Different { kind: kind.wire() })
}
