//! The in-memory store, for tests: the same rules, nothing on disk.

use super::{Batch, Op, Store, StoreError, Table};
use bytes::Bytes;
use std::{collections::BTreeMap, ops::Bound};
#[cfg(test)]
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A store that forgets everything when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryStore {
    rows: BTreeMap<(Table, String), Bytes>,
    /// Rows of tables that are not known here.
    foreign: BTreeMap<Vec<u8>, Bytes>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a row in.
    pub(super) fn hold(&mut self, table: Table, key: String, value: Bytes) {
        self.rows.insert((table, key), value);
    }

    /// The value of a row of a table that is not known here.
    #[cfg(test)]
    pub(super) fn foreign(&self, raw: &[u8]) -> Option<&Bytes> {
        self.foreign.get(raw)
    }
}

impl Store for MemoryStore {
    fn get(&self, table: Table, key: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(self.rows.get(&(table, key.to_owned())).cloned())
    }

    fn scan(
        &self,
        table: Table,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Bytes)>, StoreError> {
        let from = match after {
            Some(key) => Bound::Excluded((table, key.to_owned())),
            None => Bound::Included((table, String::new())),
        };
        let rows = self.rows.range((from, Bound::Unbounded));
        Ok(rows
            .take_while(|((of, _), _)| *of == table)
            .take(limit)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect())
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        batch.check()?;
        for (table, key, op) in batch.ops() {
            let at = (*table, key.clone());
            match op {
                Op::Put(value) => self.rows.insert(at, value.clone()),
                Op::Delete => self.rows.remove(&at),
            };
        }
        for (raw, op) in batch.foreign() {
            match op {
                Op::Put(value) => self.foreign.insert(raw.clone(), value.clone()),
                Op::Delete => self.foreign.remove(raw),
            };
        }
        Ok(())
    }
}

/// A store on a disk that can be full: it is while the flag says so.
#[cfg(test)]
pub(super) struct Fillable(MemoryStore, Arc<AtomicBool>);

#[cfg(test)]
impl Fillable {
    pub(super) fn new(full: Arc<AtomicBool>) -> Self {
        Self(MemoryStore::new(), full)
    }
}

#[cfg(test)]
impl Store for Fillable {
    fn get(&self, table: Table, key: &str) -> Result<Option<Bytes>, StoreError> {
        self.0.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Bytes)>, StoreError> {
        self.0.scan(table, after, limit)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if self.1.load(Ordering::Relaxed) {
            return Err(StoreError::Full {
                path: PathBuf::new(),
                free: 0,
            });
        }
        self.0.commit(batch)
    }
}
