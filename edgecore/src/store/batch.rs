//! Changes that become durable together.

use super::{INLINE_LIMIT, MAX_KEY, MAX_OPS, MAX_VALUE, StoreError, Table};
use bytes::Bytes;

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Set the key to the value.
    Put(Bytes),
    /// Forget the key; it need not exist.
    Delete,
}

/// Changes that become durable together or not at all.
///
/// The last change of a key wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    ops: Vec<(Table, String, Op)>,
    /// Changes of tables that only a newer program knows, by the key on disk.
    foreign: Vec<(Vec<u8>, Op)>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` of `table` to `value`.
    #[must_use]
    pub fn put(mut self, table: Table, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.push(table, key.into(), Op::Put(value.into()));
        self
    }

    /// Forgets `key` of `table`.
    #[must_use]
    pub fn delete(mut self, table: Table, key: impl Into<String>) -> Self {
        self.push(table, key.into(), Op::Delete);
        self
    }

    /// Adds one change.
    pub fn push(&mut self, table: Table, key: String, op: Op) {
        self.ops.push((table, key, op));
    }

    /// Adds one change that a newer program made, of a table that is not known here.
    pub(super) fn push_foreign(&mut self, raw: Vec<u8>, op: Op) {
        self.foreign.push((raw, op));
    }

    /// The changes, oldest first.
    pub fn ops(&self) -> &[(Table, String, Op)] {
        &self.ops
    }

    /// The changes of tables that are not known here, oldest first.
    pub(super) fn foreign(&self) -> &[(Vec<u8>, Op)] {
        &self.foreign
    }

    /// How many changes there are.
    pub fn len(&self) -> usize {
        self.ops.len() + self.foreign.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn append(&mut self, other: &Self) {
        self.ops.extend(other.ops.iter().cloned());
        self.foreign.extend(other.foreign.iter().cloned());
    }

    /// The length of each change's key, and the change.
    pub(super) fn changes(&self) -> impl Iterator<Item = (usize, &Op)> {
        let known = self.ops.iter().map(|(_, key, op)| (key.len(), op));
        known.chain(self.foreign.iter().map(|(raw, op)| (raw.len(), op)))
    }

    /// Bytes that this batch weighs in the log when large values are files.
    pub(super) fn weight(&self) -> usize {
        self.changes().map(|(key, op)| key + op_weight(op)).sum()
    }

    /// Whether a store may be asked to take this batch. What a newer program wrote had its own limits.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if self.len() > MAX_OPS {
            return Err(StoreError::TooManyOps { ops: self.len() });
        }
        for (table, key, op) in &self.ops {
            let len = if let Op::Put(value) = op { value.len() } else { 0 };
            if key.len() > MAX_KEY || len > MAX_VALUE {
                return Err(StoreError::TooLarge {
                    table: *table,
                    key: key.chars().take(80).collect(),
                    len,
                });
            }
        }
        Ok(())
    }
}

fn op_weight(op: &Op) -> usize {
    match op {
        Op::Put(value) if value.len() <= INLINE_LIMIT => value.len(),
        Op::Put(_) | Op::Delete => 0,
    }
}
