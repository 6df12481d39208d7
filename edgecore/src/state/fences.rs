//! How far the edge has seen, in the store.
//!
//! One small row is written with each commit. Revisions that a restore of the cluster's store has made
//! meaningless have a row each: there is one for nearly every object after a restore, each commit changes
//! one or two, and all of them in one row would be tens of kilobytes for every change.
//!
//! **Invariant:** a void revision is on disk before the view that stands for the restored store is, and it
//! goes after what replaces it: one too many costs nothing, one too few makes the edge refuse changes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use protocol::desired::Fences;
use protocol::object::{ObjectKey, Revision};

use super::codec;
use crate::store::{Db, Op, StoreError, Table};

/// The row of the views.
pub(super) const FENCES: &str = "fences";
/// How the keys of the rows of void revisions begin.
const VOID: &str = "void/";

/// The rows of void revisions that may be on disk.
#[derive(Debug, Default)]
pub(super) struct VoidRows {
    /// There for certain.
    sure: BTreeMap<ObjectKey, Revision>,
    /// Touched by a commit that has not ended well: there, or not.
    unsure: BTreeSet<ObjectKey>,
}

/// What must change of them.
#[derive(Debug, Default)]
pub(super) struct VoidChanges {
    pub(super) puts: Vec<(String, Op)>,
    pub(super) deletes: Vec<(String, Op)>,
}

/// The fences with all void revisions, also those that an older version kept in the row of the views.
pub(super) async fn load(db: &Db) -> Result<(Fences, VoidRows), StoreError> {
    let (mut fences, mut rows) = (Fences::default(), VoidRows::default());
    for (row, bytes) in db.scan(Table::Fence).await? {
        if row == FENCES {
            fences = serde_json::from_slice(&bytes).unwrap_or_default();
        } else if let Some((key, revision)) = read(&row, &bytes) {
            rows.sure.insert(key, revision);
        }
    }
    let apart = rows.sure.iter().map(|(key, revision)| (key.clone(), *revision));
    fences.void.extend(apart);
    Ok((fences, rows))
}

fn read(row: &str, bytes: &[u8]) -> Option<(ObjectKey, Revision)> {
    let key = codec::read_store_key(row.strip_prefix(VOID)?)?;
    let revision = std::str::from_utf8(bytes).ok()?.parse().ok()?;
    Some((key, Revision(revision)))
}

impl VoidRows {
    /// What is to be written so that the rows are `wanted`. Until [`written`](Self::written) nothing is sure of
    /// what is touched: a commit in several batches can fail between them, and the next one writes it again.
    pub(super) fn change(&mut self, wanted: &BTreeMap<ObjectKey, Revision>) -> VoidChanges {
        let row = |key: &ObjectKey| format!("{VOID}{}", codec::store_key(key));
        let put = |revision: &Revision| Op::Put(Bytes::from(revision.0.to_string()));
        let Self { sure, unsure } = self;
        let is_new = |(key, revision): &(&ObjectKey, &Revision)| sure.get(*key) != Some(*revision);
        let new: Vec<_> = wanted.iter().filter(is_new).collect();
        let known = sure.keys().chain(unsure.iter());
        let over: BTreeSet<_> = known.filter(|key| !wanted.contains_key(*key)).cloned().collect();
        let puts = new.iter().map(|(key, revision)| (row(key), put(revision)));
        let deletes = over.iter().map(|key| (row(key), Op::Delete));
        let changes = VoidChanges {
            puts: puts.collect(),
            deletes: deletes.collect(),
        };
        unsure.extend(new.into_iter().map(|(key, _)| key.clone()));
        unsure.extend(over);
        sure.retain(|key, _| !unsure.contains(key));
        changes
    }

    /// All of it is durable.
    pub(super) fn written(&mut self, wanted: &BTreeMap<ObjectKey, Revision>) {
        self.sure.clone_from(wanted);
        self.unsure.clear();
    }
}

#[cfg(test)]
mod tests {
    use protocol::object::Kind;

    use super::*;

    #[test]
    fn what_a_failed_commit_may_not_have_written_is_written_by_the_next_one() {
        let key = |name: &str| ObjectKey::new(Kind::Pod, "shop", name);
        let wanted = BTreeMap::from([(key("a"), Revision(7)), (key("b"), Revision(9))]);
        let mut rows = VoidRows::default();
        assert_eq!(rows.change(&wanted).puts.len(), 2);
        assert_eq!(rows.change(&wanted).puts.len(), 2, "nothing is sure yet");
        rows.written(&wanted);
        assert_eq!(rows.change(&wanted).puts.len(), 0);
        let one = BTreeMap::from([(key("a"), Revision(7))]);
        for _ in 0..2 {
            let changes = rows.change(&one);
            assert_eq!((changes.puts.len(), changes.deletes.len()), (0, 1));
        }
        assert_eq!(rows.change(&wanted).puts.len(), 1, "it may be deleted by now");
    }
}
