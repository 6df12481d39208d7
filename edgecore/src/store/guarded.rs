//! A store that outlives a full disk.
//!
//! A commit that would leave too little room is refused before the engine hears of it: nothing breaks, and
//! the next one is tried again. When others fill the disk in between, the engine breaks; it is opened again
//! from what the disk has, now or at a later commit, with the ballast's room.

use super::{
    Batch, Op, SledStore, Store, StoreError, Table, place::Place, recovery::with_room, space::Space,
    stores::tell,
};
use bytes::Bytes;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// A database, and how to open it again.
pub(super) struct Guarded {
    place: Place,
    space: Arc<Space>,
    /// `None` while there is no room to open it.
    store: Option<SledStore>,
}

impl Guarded {
    pub(super) const fn new(place: Place, space: Arc<Space>, store: SledStore) -> Self {
        Self {
            place,
            space,
            store: Some(store),
        }
    }

    fn open(&self) -> Result<&SledStore, StoreError> {
        self.store.as_ref().ok_or_else(|| self.space.full())
    }

    fn reopened(&mut self) -> Result<&mut SledStore, StoreError> {
        if self.store.is_none() {
            // What was done is told after the next start: it is on the disk until then.
            let opened = with_room(&self.place, &self.space)?;
            tell(&opened.incidents);
            tracing::warn!(database = self.place.name(), "the store is open again");
            self.store = Some(opened.store);
        }
        self.store.as_mut().ok_or(StoreError::Stopped)
    }

    /// A commit, with a panic of the engine as an error.
    fn try_commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let path = self.place.db.clone();
        let store = self.reopened()?;
        catch_unwind(AssertUnwindSafe(|| store.commit(batch)))
            .unwrap_or_else(|panic| Err(StoreError::panicked(path, &*panic)))
    }
}

impl Store for Guarded {
    fn get(&self, table: Table, key: &str) -> Result<Option<Bytes>, StoreError> {
        self.open()?.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Bytes)>, StoreError> {
        self.open()?.scan(table, after, limit)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        batch.check()?;
        self.space.check(bytes_of(batch))?;
        let error = match self.try_commit(batch) {
            Err(error) if error.breaks() => error,
            done => return done,
        };
        if !error.is_full() && !self.space.is_tight() {
            return Err(error);
        }
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "the disk was filled during a commit; the store is opened again"
        );
        // What a broken engine says while it is dropped is of no interest.
        let broken = self.store.take();
        drop(catch_unwind(AssertUnwindSafe(|| drop(broken))));
        match self.reopened() {
            Err(error) if !error.is_full() => Err(error),
            _ => Err(self.space.filled()),
        }
    }
}

/// What a batch takes on the disk: each value in the log or in a file, and the log again when it is tidied.
pub(super) fn bytes_of(batch: &Batch) -> u64 {
    let bytes = batch.changes().map(|(key, op)| match op {
        Op::Put(value) => key + value.len(),
        Op::Delete => key,
    });
    2 * bytes.sum::<usize>() as u64
}
