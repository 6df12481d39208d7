//! What stands in for a database whose disk is read-only, until it is handed that disk.
//!
//! **Invariant:** nothing is written to a disk of which one row is another than was read. Of a write that failed it is
//! known that nothing is there, or the store breaks: the next start reads what there is.

use super::super::{Batch, MemoryStore, Store, StoreError, Table, pulse::Pulse};
use super::held::Held;
use bytes::Bytes;
use std::path::PathBuf;

/// A database whose disk is read-only, or was.
pub(super) struct StandIn {
    path: PathBuf,
    pulse: Pulse,
    state: State,
}

enum State {
    Frozen(Held),
    /// It can be written again.
    Open(Box<dyn Store>),
}

impl StandIn {
    pub(super) const fn new(path: PathBuf, rows: MemoryStore, pulse: Pulse) -> Self {
        Self {
            path,
            pulse,
            state: State::Frozen(Held::of(rows)),
        }
    }

    fn store(&self) -> &dyn Store {
        match &self.state {
            State::Frozen(held) => held.rows(),
            State::Open(store) => &**store,
        }
    }
}

impl Store for StandIn {
    fn get(&self, table: Table, key: &str) -> Result<Option<Bytes>, StoreError> {
        self.store().get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Bytes)>, StoreError> {
        self.store().scan(table, after, limit)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let held = match &mut self.state {
            State::Open(store) => return store.commit(batch),
            State::Frozen(held) => held,
        };
        batch.check()?;
        if held.take(batch)? {
            return Ok(());
        }
        let path = self.path.clone();
        Err(StoreError::ReadOnly { path })
    }

    fn merges(&self) -> bool {
        match &self.state {
            State::Frozen(_) => false,
            State::Open(store) => store.merges(),
        }
    }

    fn thaw(&mut self, mut disk: Box<dyn Store>) -> Result<(), StoreError> {
        let State::Frozen(held) = &mut self.state else {
            return Ok(());
        };
        let path = self.path.clone();
        match held.is_of(&*disk, &self.pulse) {
            Ok(true) => {}
            Ok(false) => return Err(StoreError::Moved { path }),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the disk cannot be read");
                return Err(StoreError::ReadOnly { path });
            }
        }
        for batch in held.batches()? {
            self.pulse.beat();
            match disk.commit(&batch) {
                Ok(()) => held.wrote(&batch),
                Err(error) if error.breaks() || error.wrote_nothing() => return Err(error),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "nobody knows what of a batch is on the disk");
                    return Err(StoreError::Stopped);
                }
            }
        }
        self.state = State::Open(disk);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
