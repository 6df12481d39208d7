//! One open of a database, and what its failure speaks of.

use crate::store::{Findings, SledStore, StoreError, place::Place};
use std::{
    io::ErrorKind,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// How one open went.
pub(super) enum Attempt {
    Ready(SledStore, Findings),
    /// It is open, and not all of it can be read.
    Unreadable(SledStore, StoreError),
    Refused(StoreError),
}

/// One open, with panics of the engine caught.
pub(super) fn attempt(place: &Place) -> Attempt {
    match caught(place, || SledStore::open_unread(&place.db, &place.objects)) {
        Err(error) => Attempt::Refused(error),
        Ok(store) => read(place, store),
    }
}

fn read(place: &Place, mut store: SledStore) -> Attempt {
    match caught(place, || store.read_all()) {
        Ok(findings) => Attempt::Ready(store, findings),
        Err(error) if is_damage(&error) => Attempt::Unreadable(store, error),
        Err(error) => Attempt::Refused(error),
    }
}

fn caught<T>(place: &Place, run: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|panic| Err(StoreError::panicked(place.db.clone(), &*panic)))
}

/// Whether the error speaks of the database's content, not of the disk or its owner.
pub(super) fn is_damage(error: &StoreError) -> bool {
    match error {
        StoreError::Panicked { .. } | StoreError::Damaged { .. } => true,
        StoreError::Engine { source, .. } => match &**source {
            sled::Error::Io(e) => matches!(
                e.kind(),
                ErrorKind::UnexpectedEof
                    | ErrorKind::InvalidData
                    | ErrorKind::InvalidInput
                    | ErrorKind::NotFound
            ),
            sled::Error::CollectionNotFound(_)
            | sled::Error::Unsupported(_)
            | sled::Error::ReportableBug(_)
            | sled::Error::Corruption { .. } => true,
        },
        StoreError::Io { .. }
        | StoreError::TooManyOps { .. }
        | StoreError::TooLarge { .. }
        | StoreError::InUse { .. }
        | StoreError::Newer { .. }
        | StoreError::Full { .. }
        | StoreError::Filled { .. }
        | StoreError::ReadOnly { .. }
        | StoreError::Moved { .. }
        | StoreError::Stopped => false,
    }
}
