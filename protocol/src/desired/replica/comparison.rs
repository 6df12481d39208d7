//! The edge's side of a comparison: what it has, where it differs, whether it is done.

use std::collections::BTreeSet;

use crate::desired::digest::{BucketSet, BucketSums, MapDigest};
use crate::desired::{Violation, frames};
use crate::object::{Kind, ObjectKey, Revision, Version};
use crate::wire::{
    Behind, BucketDigests, Have, Inventory, InventoryEntry, Plan, Same, Synced, WantKeys, desired_down,
    desired_up,
};

use super::{Notice, Replica};

/// Entries in one inventory frame: with the longest names that Kubernetes allows it stays below
/// the limit of the edge's frames.
const ENTRIES: usize = 500;

/// A comparison that ends unequal so often waits for the next hour.
const TRIES: u8 = 3;

/// Fewer pods than this may all be removed by one comparison without a word.
const MASS: u64 = 4;

/// Where the comparison of one kind is, at the edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// No stream, or this kind was not offered yet.
    #[default]
    Offline,
    /// `Have` was sent for the first time on this stream; nothing may be changed.
    Offered,
    /// The cloud has said what it will change, and closures flow; so many comparisons have ended
    /// unequal.
    Planned { tries: u8 },
    /// Equal; changes flow.
    Synced,
    /// Was Synced and is compared again; changes flow on.
    Again,
}

impl Stage {
    pub(super) const fn takes_closures(self) -> bool {
        matches!(self, Self::Planned { .. } | Self::Synced | Self::Again)
    }

    pub(super) const fn is_synced(self) -> bool {
        matches!(self, Self::Synced | Self::Again)
    }

    /// Whether no comparison is going on that a new one would disturb.
    pub(super) const fn may_compare_again(self) -> bool {
        match self {
            Self::Synced => true,
            Self::Planned { tries } => tries >= TRIES,
            Self::Offline | Self::Offered | Self::Again => false,
        }
    }

    /// After `Have` was sent.
    const fn compared(self) -> Self {
        match self {
            Self::Offline | Self::Offered => Self::Offered,
            Self::Planned { tries } if tries >= TRIES => Self::Planned { tries: 0 },
            Self::Planned { tries } => Self::Planned { tries },
            Self::Synced | Self::Again => Self::Again,
        }
    }

    /// After a comparison ended unequal.
    const fn unequal(self) -> Self {
        match self {
            Self::Planned { tries } => Self::Planned {
                tries: tries.saturating_add(1),
            },
            Self::Offline | Self::Offered | Self::Synced | Self::Again => Self::Planned { tries: 1 },
        }
    }
}

impl Replica {
    /// Sends the `Have`s that are due, unless the map is about to change.
    pub(super) fn open_comparisons(&mut self) {
        if self.flying.is_some() || !self.batch.is_idle() {
            return;
        }
        for kind in std::mem::take(&mut self.comparisons_due) {
            let have = self.have(kind);
            self.out.push_back(frames::up(desired_up::Kind::Have(have)));
            self.stages[kind.index()] = self.stages[kind.index()].compared();
        }
    }

    fn have(&self, kind: Kind) -> Have {
        let mut sum = MapDigest::default();
        self.standing(kind)
            .for_each(|(key, version)| sum.add(key, &version.uid, &version.digest));
        Have {
            kind: kind.wire(),
            count: sum.count,
            digest: frames::of_digest(sum.digest()),
            view_revision: self.fence(kind).0,
            applied_seq: self.applied,
            unproven: !self.proven.contains(&kind),
        }
    }

    /// The entries of a kind, less those whose removal only waits for a pod to be gone.
    fn standing(&self, kind: Kind) -> impl Iterator<Item = (&ObjectKey, &Version)> {
        self.entries()
            .filter(move |(key, _)| key.kind == kind && !self.deferred.contains(*key))
    }

    /// Takes a word of a comparison; everything received before it is settled.
    pub(super) fn word(&mut self, word: desired_down::Kind) -> Result<(), Violation> {
        match word {
            desired_down::Kind::Same(same) => self.same(&same),
            desired_down::Kind::Different(different) => self.different(different.kind),
            desired_down::Kind::WantKeys(want) => self.want_keys(&want),
            desired_down::Kind::Plan(plan) => self.plan(&plan),
            desired_down::Kind::Synced(synced) => self.ended(synced),
            desired_down::Kind::Behind(behind) => self.behind(behind),
            desired_down::Kind::CompareNow(compare) => self.compare_now(compare.kind),
            desired_down::Kind::Begin(_)
            | desired_down::Kind::Upsert(_)
            | desired_down::Kind::Remove(_)
            | desired_down::Kind::Absent(_)
            | desired_down::Kind::End(_) => Err(Violation::OutsideClosure {
                frame: "a closure's frame",
            }),
        }
    }

    fn same(&mut self, same: &Same) -> Result<(), Violation> {
        let kind = self.being_compared(same.kind, "Same")?;
        self.check_view(kind, same.view_revision)?;
        if kind == Kind::Pod && !self.proven.contains(&kind) && !same.consistent {
            return Err(Violation::NotConsistent);
        }
        let view = Revision(same.view_revision);
        self.now_synced(kind, view);
        self.forget_told(kind);
        // What differs may still be on its way where differences were announced; here nothing is.
        self.heal_revisions(kind, view);
        Ok(())
    }

    fn different(&mut self, kind: u32) -> Result<(), Violation> {
        let kind = self.being_compared(kind, "Different")?;
        let mut sums = BucketSums::default();
        self.standing(kind)
            .for_each(|(key, version)| sums.add(key, &version.uid, &version.digest));
        let buckets = BucketDigests {
            kind: kind.wire(),
            digests: sums.to_wire().into(),
        };
        self.out.push_back(frames::up(desired_up::Kind::Buckets(buckets)));
        Ok(())
    }

    fn want_keys(&mut self, want: &WantKeys) -> Result<(), Violation> {
        let kind = self.being_compared(want.kind, "WantKeys")?;
        let buckets = BucketSet::from_wire(&want.buckets).ok_or(Violation::Malformed { field: "buckets" })?;
        self.forget_told(kind);
        let mut entries: Vec<InventoryEntry> = self
            .standing(kind)
            .filter(|(key, _)| buckets.has(key))
            .map(inventory_entry)
            .collect();
        loop {
            let rest = entries.split_off(entries.len().min(ENTRIES));
            let inventory = Inventory {
                kind: kind.wire(),
                entries,
                last: rest.is_empty(),
            };
            let last = inventory.last;
            self.out
                .push_back(frames::up(desired_up::Kind::Inventory(inventory)));
            if last {
                return Ok(());
            }
            entries = rest;
        }
    }

    fn plan(&mut self, plan: &Plan) -> Result<(), Violation> {
        let kind = self.being_compared(plan.kind, "Plan")?;
        self.check_view(kind, plan.view_revision)?;
        let moves_pods =
            kind == Kind::Pod && (plan.adds > 0 || plan.removes > 0 || !self.proven.contains(&kind));
        if moves_pods && !plan.consistent {
            return Err(Violation::NotConsistent);
        }
        let held = self.standing(kind).count() as u64;
        if kind == Kind::Pod && held >= MASS && plan.removes * 2 > held {
            self.notices.push_back(Notice::MassRemoval {
                removes: plan.removes,
                held,
            });
        }
        if self.stages[kind.index()] == Stage::Offered {
            self.stages[kind.index()] = Stage::Planned { tries: 0 };
        }
        Ok(())
    }

    fn ended(&mut self, synced: Synced) -> Result<(), Violation> {
        let kind = self.being_compared(synced.kind, "Synced")?;
        self.check_view(kind, synced.view_revision)?;
        let digest = frames::to_digest(&synced.digest)?;
        for name in synced.skipped {
            let key = frames::to_key(synced.kind, Some(name))?;
            // Others are in no sum, and would take memory.
            if self.held.contains_key(&key) || self.told.contains_key(&key) {
                self.skipped.insert(key);
            }
        }
        if synced.more {
            return Ok(());
        }
        let skipped = std::mem::take(&mut self.skipped);
        let sum = self.identities(kind, &skipped);
        if sum.count == synced.count && sum.digest() == digest {
            self.now_synced(kind, Revision(synced.view_revision));
            return Ok(());
        }
        let stage = self.stages[kind.index()].unequal();
        self.stages[kind.index()] = stage;
        if stage.may_compare_again() {
            self.notices.push_back(Notice::Diverged { kind });
        } else {
            self.comparisons_due.insert(kind);
            self.open_comparisons();
        }
        Ok(())
    }

    /// The sum over what the publisher believes to be held.
    fn identities(&self, kind: Kind, skipped: &BTreeSet<ObjectKey>) -> MapDigest {
        let mut sum = MapDigest::default();
        let believed = |key: &ObjectKey| !skipped.contains(key) && !self.told.contains_key(key);
        let held = self.standing(kind).filter(|(key, _)| believed(key));
        held.for_each(|(key, version)| sum.add_identity(key, &version.uid));
        let told = self
            .told
            .iter()
            .filter(|(key, _)| key.kind == kind && !skipped.contains(*key));
        told.filter_map(|(key, uid)| Some((key, uid.as_ref()?)))
            .for_each(|(key, uid)| sum.add_identity(key, uid));
        sum
    }

    /// The publisher believes what this comparison tells it, and nothing that it has sent before.
    fn forget_told(&mut self, kind: Kind) {
        self.told.retain(|key, _| key.kind != kind);
    }

    fn behind(&mut self, behind: Behind) -> Result<(), Violation> {
        let kind = self.being_compared(behind.kind, "Behind")?;
        if behind.view_revision < self.fence(kind).0 {
            self.reset_fence(kind);
        }
        Ok(())
    }

    /// A kind that this version does not know is not compared.
    fn compare_now(&mut self, kind: u32) -> Result<(), Violation> {
        let kind = frames::to_kind(kind)?;
        if self.stages[kind.index()].may_compare_again() {
            self.comparisons_due.insert(kind);
            self.open_comparisons();
        }
        Ok(())
    }

    fn now_synced(&mut self, kind: Kind, view: Revision) {
        self.stages[kind.index()] = Stage::Synced;
        self.proven.insert(kind);
        self.behind.remove(&kind);
        if kind == Kind::Pod {
            // What this comparison did not offer is not wanted any more.
            let Self { untaken, told, .. } = self;
            untaken.retain(|key, _| told.contains_key(key));
        }
        if view > self.fence(kind) {
            self.fences.views.insert(kind, view);
            self.fences_moved = true;
        }
    }

    fn being_compared(&self, kind: u32, frame: &'static str) -> Result<Kind, Violation> {
        let kind = frames::to_kind(kind)?;
        match self.stages[kind.index()] {
            Stage::Offered | Stage::Planned { .. } | Stage::Again => Ok(kind),
            Stage::Offline | Stage::Synced => Err(Violation::OutOfTurn { frame, kind }),
        }
    }

    fn check_view(&self, kind: Kind, view: u64) -> Result<(), Violation> {
        let fence = self.fence(kind).0;
        if view < fence {
            Err(Violation::OldView { kind, view, fence })
        } else {
            Ok(())
        }
    }
}

fn inventory_entry((key, version): (&ObjectKey, &Version)) -> InventoryEntry {
    InventoryEntry {
        key: Some(frames::to_name(key)),
        uid: version.uid.clone(),
        revision: version.revision.0,
        digest: frames::of_digest(version.digest),
    }
}
