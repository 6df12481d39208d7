//! One open of a database, and what its failure speaks of.

use crate::store::{Findings, SledStore, StoreError, place::Place};
use std::{
    io::ErrorKind,
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::Duration,
};

/// sled's threads let go of the lock a moment after a failed open.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// How one open went.
pub(super) enum Attempt {
    Ready(SledStore, Findings),
    /// It is open, and not all of it can be read.
    Unreadable(SledStore, StoreError),
    Refused(StoreError),
}

/// One open, with panics of the engine caught and its own late threads waited for.
pub(super) fn attempt(place: &Place) -> Attempt {
    for _ in 0..LOCK_TRIES {
        match caught(place, || SledStore::open_unread(&place.db, &place.objects)) {
            Err(StoreError::InUse { .. }) => thread::sleep(LOCK_PAUSE),
            Err(error) => return Attempt::Refused(error),
            Ok(store) => return read(place, store),
        }
    }
    Attempt::Refused(StoreError::InUse {
        path: place.db.clone(),
    })
}

fn read(place: &Place, mut store: SledStore) -> Attempt {
    match caught(place, || store.read_all()) {
        Ok(findings) => Attempt::Ready(store, findings),
        Err(error) if is_damage(&error) => Attempt::Unreadable(store, error),
        Err(error) => Attempt::Refused(error),
    }
}

fn caught<T>(place: &Place, run: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let result = catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|panic| Err(StoreError::panicked(place.db.clone(), &*panic)));
    result.map_err(|error| {
        if is_lock(&error) {
            StoreError::InUse {
                path: place.db.clone(),
            }
        } else {
            error
        }
    })
}

/// sled has no kind for it, only this text.
fn is_lock(error: &StoreError) -> bool {
    let StoreError::Engine { source, .. } = error else {
        return false;
    };
    matches!(&**source, sled::Error::Io(e) if e.to_string().contains("could not acquire lock"))
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
        | StoreError::Full { .. }
        | StoreError::Stopped => false,
    }
}
