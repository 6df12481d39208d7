//! How far the edge has seen, in the store.
//!
//! One small row is written with each commit. Revisions that a restore of the cluster's store has made
//! meaningless have a row each: there is one for nearly every object after a restore, each commit changes
//! one or two, and all of them in one row would be tens of kilobytes for every change.
//!
//! **Invariant:** a void revision is on disk before the view that stands for the restored store is, and it
//! goes after what replaces it: one too many costs nothing, one too few makes the edge refuse changes.

use std::collections::BTreeMap;

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
pub(super) struct VoidRows(BTreeMap<ObjectKey, Revision>);

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
            rows.0.insert(key, revision);
        }
    }
    let apart = rows.0.iter().map(|(key, revision)| (key.clone(), *revision));
    fences.void.extend(apart);
    Ok((fences, rows))
}

fn read(row: &str, bytes: &[u8]) -> Option<(ObjectKey, Revision)> {
    let key = codec::read_store_key(row.strip_prefix(VOID)?)?;
    let revision = std::str::from_utf8(bytes).ok()?.parse().ok()?;
    Some((key, Revision(revision)))
}

impl VoidRows {
    /// What is to be written so that the rows are `wanted`. Until [`written`](Self::written) all that may
    /// be on disk is remembered: a commit in several batches can fail between them.
    pub(super) fn change(&mut self, wanted: &BTreeMap<ObjectKey, Revision>) -> VoidChanges {
        let row = |key: &ObjectKey| format!("{VOID}{}", codec::store_key(key));
        let put = |revision: &Revision| Op::Put(Bytes::from(revision.0.to_string()));
        let new = wanted
            .iter()
            .filter(|(key, revision)| self.0.get(key) != Some(revision));
        let puts = new.map(|(key, revision)| (row(key), put(revision))).collect();
        let over = self.0.keys().filter(|key| !wanted.contains_key(key));
        let deletes = over.map(|key| (row(key), Op::Delete)).collect();
        self.0
            .extend(wanted.iter().map(|(key, revision)| (key.clone(), *revision)));
        VoidChanges { puts, deletes }
    }

    /// All of it is durable.
    pub(super) fn written(&mut self, wanted: &BTreeMap<ObjectKey, Revision>) {
        self.0.retain(|key, _| wanted.contains_key(key));
    }
}
