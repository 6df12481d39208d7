//! Closures become commits. While one commit is being written, what arrives is gathered into
//! the next, so that a burst of pods costs few syncs; if a gathered commit fails, its closures
//! are tried one by one.

use std::collections::BTreeMap;

use crate::desired::{AbsentReason, Violation, absent_version, frames};
use crate::object::{Kind, Object, ObjectKey, Revision, Version};
use crate::wire::{Applied, Rejected, desired_up};

use super::assemble::{Closure, Item, Received};
use super::guards::{Judged, Overlay, RejectReason};
use super::{Entry, Fences, Replica};

/// Bytes of bodies after which a batch takes no further closure.
const BATCH: usize = 1024 * 1024;

/// Names a commit between [`Replica::poll_commit`] and [`Replica::committed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CommitId(u64);

/// A reference of a pod that cannot be had, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absence {
    /// What is absent.
    pub key: ObjectKey,
    /// The version to store with it and to load it with.
    pub version: Version,
    /// Why.
    pub reason: AbsentReason,
}

impl Absence {
    pub(super) fn new(key: ObjectKey, reason: AbsentReason, seen: Revision) -> Self {
        Self {
            key,
            version: absent_version(reason, seen),
            reason,
        }
    }
}

/// What the shell writes in one atomic, durable batch.
#[derive(Clone, Debug)]
pub struct Commit {
    /// To answer with.
    pub id: CommitId,
    /// Objects to store; they replace objects and absences of the same key.
    pub puts: Vec<Object>,
    /// Keys to delete, objects and absences alike.
    pub removes: Vec<ObjectKey>,
    /// Absences to store; they replace objects of the same key.
    pub absent: Vec<Absence>,
    /// The fences to store.
    pub fences: Fences,
}

/// One change of the map.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Put { object: Box<Object>, entry: Entry },
    Absent(Absence),
    Remove { view: Revision },
}

impl Change {
    pub(super) fn entry(&self) -> Option<Entry> {
        match self {
            Self::Put { entry, .. } => Some(entry.clone()),
            Self::Absent(absence) => Some(Entry {
                version: absence.version.clone(),
                references: std::collections::BTreeSet::new(),
            }),
            Self::Remove { .. } => None,
        }
    }

    /// Whether the map has the key afterwards.
    pub(super) const fn keeps(&self) -> bool {
        match self {
            Self::Put { .. } | Self::Absent(_) => true,
            Self::Remove { .. } => false,
        }
    }
}

/// Changes that are written together, and the closures that they come from.
#[derive(Debug, Default)]
pub(super) struct Batch {
    id: u64,
    session: u64,
    pub(super) changes: BTreeMap<ObjectKey, Change>,
    closures: Vec<Taken>,
    bytes: usize,
    fences: bool,
}

/// A closure as it was judged.
#[derive(Debug)]
struct Taken {
    closure: Closure,
    deferred: Vec<ObjectKey>,
    refused: Vec<(ObjectKey, RejectReason)>,
}

impl Batch {
    pub(super) fn is_idle(&self) -> bool {
        self.changes.is_empty() && self.closures.is_empty()
    }

    fn needs_writing(&self) -> bool {
        !self.changes.is_empty() || self.fences
    }
}

impl Replica {
    /// The next batch to write. Answer with [`Self::committed`] once it is durable, or
    /// [`Self::failed`]; there is never more than one to answer.
    pub fn poll_commit(&mut self) -> Option<Commit> {
        if self.flying.is_some() {
            return None;
        }
        self.batch.fences |= self.fences_moved;
        if !self.batch.needs_writing() {
            return None;
        }
        let mut batch = std::mem::take(&mut self.batch);
        self.last_commit += 1;
        batch.id = self.last_commit;
        batch.session = self.session;
        self.fences_moved = false;
        let commit = self.commit_of(&batch);
        self.flying = Some(batch);
        Some(commit)
    }

    /// The commit is durable.
    pub fn committed(&mut self, id: CommitId) -> Result<(), Violation> {
        let Some(batch) = self.flying.take_if(|batch| batch.id == id.0) else {
            return Ok(());
        };
        self.settle(batch);
        self.release_deferred();
        self.open_comparisons();
        self.advance()
    }

    /// The commit could not be written, and nothing of it was. Its closures are tried one by
    /// one; one that fails alone is rejected, and the cloud offers it again later.
    pub fn failed(&mut self, id: CommitId) -> Result<(), Violation> {
        let Some(mut batch) = self.flying.take_if(|batch| batch.id == id.0) else {
            return Ok(());
        };
        if batch.session == self.session {
            match batch.closures.len() {
                0 => self.deferred.extend(batch.changes.into_keys()),
                1 => self.reject_unwritten(&mut batch),
                many => {
                    self.alone = many;
                    let closures = std::mem::take(&mut batch.closures).into_iter().rev();
                    closures
                        .for_each(|Taken { closure, .. }| self.inbox.push_front(Received::Closure(closure)));
                }
            }
        }
        self.open_comparisons();
        self.advance()
    }

    /// Works through what was received, as far as it can go without a commit being written.
    pub(super) fn advance(&mut self) -> Result<(), Violation> {
        while self.flying.is_none() {
            let is_closure = matches!(self.inbox.front(), Some(Received::Closure(_)));
            let busy = !self.batch.closures.is_empty();
            let full = busy && (self.alone > 0 || self.batch.bytes >= BATCH);
            if full || (busy && !is_closure) {
                return Ok(());
            }
            match self.inbox.pop_front() {
                Some(Received::Closure(closure)) => self.take_closure(closure)?,
                Some(Received::Word(word)) => self.word(word)?,
                None => return Ok(()),
            }
            if !self.batch.needs_writing() {
                let batch = std::mem::take(&mut self.batch);
                self.settle(Batch {
                    session: self.session,
                    ..batch
                });
            }
        }
        Ok(())
    }

    fn take_closure(&mut self, closure: Closure) -> Result<(), Violation> {
        self.alone = self.alone.saturating_sub(1);
        let overlay = Overlay {
            held: &self.held,
            changes: &self.batch.changes,
        };
        let Judged {
            changes,
            deferred,
            refused,
        } = self.judge(&overlay, &closure)?;
        self.batch.bytes += closure.bytes;
        self.batch.changes.extend(changes);
        self.batch.closures.push(Taken {
            closure,
            deferred,
            refused,
        });
        Ok(())
    }

    fn commit_of(&mut self, batch: &Batch) -> Commit {
        let (mut puts, mut removes, mut absent) = (Vec::new(), Vec::new(), Vec::new());
        for (key, change) in &batch.changes {
            match change {
                Change::Put { object, .. } => puts.push((**object).clone()),
                Change::Absent(absence) => absent.push(absence.clone()),
                Change::Remove { view } => {
                    // In the same batch as the removal: an older view cannot bring it back.
                    let fence = self.fences.views.entry(key.kind).or_default();
                    *fence = (*fence).max(*view);
                    removes.push(key.clone());
                }
            }
        }
        let mut fences = self.fences.clone();
        fences.void.retain(|key, _| !batch.changes.contains_key(key));
        Commit {
            id: CommitId(batch.id),
            puts,
            removes,
            absent,
            fences,
        }
    }

    /// The batch is on disk: the map follows, and the cloud is told.
    fn settle(&mut self, batch: Batch) {
        let current = batch.session == self.session;
        for (key, change) in batch.changes {
            self.deferred.remove(&key);
            self.fences.void.remove(&key);
            let before = match change.entry() {
                Some(entry) => self.held.insert(key.clone(), entry),
                None => self.held.remove(&key),
            };
            self.keep_what_it_names(&key, before);
        }
        for taken in batch.closures {
            self.follow_deferred(&taken);
            if current {
                self.answer(&taken.closure, &taken.refused);
            }
        }
    }

    /// Whatever is offered again is no longer to be removed.
    fn follow_deferred(&mut self, taken: &Taken) {
        let refused = |key: &ObjectKey| taken.refused.iter().any(|(refused, _)| refused == key);
        for item in taken.closure.items.iter().filter(|item| !refused(&item.key)) {
            if taken.deferred.contains(&item.key) {
                self.deferred.insert(item.key.clone());
            } else {
                self.deferred.remove(&item.key);
            }
        }
    }

    /// What a removed pod names is kept until its containers are gone.
    fn keep_what_it_names(&mut self, key: &ObjectKey, before: Option<Entry>) {
        let Some(before) = before.filter(|before| !before.references.is_empty()) else {
            return;
        };
        let now = self.held.get(key).map(|entry| &entry.version.uid);
        if now != Some(&before.version.uid) {
            self.terminating.insert(before.version.uid, before.references);
        }
    }

    fn reject_unwritten(&mut self, batch: &mut Batch) {
        for Taken { closure, .. } in std::mem::take(&mut batch.closures) {
            let refused = closure
                .items
                .iter()
                .map(|item| (item.key.clone(), RejectReason::NotStored))
                .collect::<Vec<_>>();
            self.answer(&closure, &refused);
        }
    }

    fn answer(&mut self, closure: &Closure, refused: &[(ObjectKey, RejectReason)]) {
        for item in &closure.items {
            if refused.iter().any(|(key, _)| *key == item.key) {
                self.told_in_vain(item);
            } else {
                self.told.remove(&item.key);
                self.untaken.remove(&item.key);
            }
        }
        for (key, reason) in refused {
            let rejected = Rejected {
                seq: closure.seq,
                kind: key.kind.wire(),
                key: Some(frames::to_name(key)),
                reason: reason.text().to_owned(),
                code: reason.wire(),
            };
            self.out
                .push_back(frames::up(desired_up::Kind::Rejected(rejected)));
        }
        self.applied = closure.seq;
        self.out.push_back(frames::up(desired_up::Kind::Applied(Applied {
            seq: closure.seq,
        })));
    }

    fn told_in_vain(&mut self, item: &Item) {
        let offered = item.offered();
        if let Some(uid) = offered.clone().filter(|_| item.key.kind == Kind::Pod) {
            self.untaken.insert(item.key.clone(), uid);
        }
        self.told.insert(item.key.clone(), offered);
    }

    /// Removals that waited for a pod become changes when nothing names their key any more.
    pub(super) fn release_deferred(&mut self) {
        if self.flying.is_some() || !self.batch.closures.is_empty() {
            return;
        }
        let free: Vec<_> = self
            .deferred
            .iter()
            .filter(|key| !self.is_named(key))
            .cloned()
            .collect();
        for key in free {
            self.deferred.remove(&key);
            let view = self.fence(key.kind);
            self.batch.changes.insert(key, Change::Remove { view });
        }
    }
}
