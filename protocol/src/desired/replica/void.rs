//! Revisions that a restore of the cluster's store has made meaningless.
//!
//! What is stored keeps the revision that it was stored with, and most of it is never written again: it is
//! equal to what the restored store holds. In memory such a revision counts as 0; which ones do is kept
//! beside the fences, or the next start would take them for the newest of all and refuse every change.
//!
//! **Invariant:** an entry of the map whose stored revision is not its own is in the list.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::object::{Kind, ObjectKey, Revision};

use super::{Entry, Replica};

type Void = BTreeMap<ObjectKey, Revision>;

impl Replica {
    /// The revisions of a kind count as 0 from here on.
    pub(super) fn void_revisions(&mut self, kind: Kind) {
        for (key, entry) in self.held.iter_mut().filter(|(key, _)| key.kind == kind) {
            let stored = std::mem::take(&mut entry.version.revision);
            if stored > Revision(0) {
                self.fences.void.insert(key.clone(), stored);
            }
        }
    }

    /// The view has come so far: what is not beyond it is older than whatever comes, as it always was.
    pub(super) fn heal_revisions(&mut self, kind: Kind, view: Revision) {
        let healed = self
            .fences
            .void
            .extract_if(.., |key, stored| key.kind == kind && *stored <= view);
        for (key, stored) in healed {
            if let Some(entry) = self.held.get_mut(&key) {
                entry.version.revision = stored;
            }
        }
    }
}

/// What the list names counts as 0, unless it was written anew after all.
pub(super) fn apply(void: &mut Void, held: &mut BTreeMap<ObjectKey, Entry>) {
    void.retain(|key, stored| {
        let entry = held.get_mut(key);
        let Some(entry) = entry.filter(|entry| entry.version.revision == *stored) else {
            return false;
        };
        entry.version.revision = Revision(0);
        true
    });
}

/// Pairs, as older versions wrote them: JSON takes no key that is more than a word.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Void, D::Error> {
    Ok(Vec::deserialize(from)?.into_iter().collect())
}
