//! Opening the stores, whatever state the last power cut left them in.
//!
//! ```text
//! half-written snapshots and repairs are removed
//! open a copy ──ok──► read and believe every row ──ok──► the copy takes the database's place
//!  │                   └─fails─► salvage: what can be read goes into a new database
//!  └─fails─► open a copy without the snapshots ──ok──► read ...
//!             └─fails─► put the directory aside, start empty
//! ```
//!
//! A copy, because the engine overwrites parts of its log while it opens, before it has made sure of the
//! snapshot that makes those parts useless: a power cut then would leave neither. Only a database that was
//! not written to since it was last opened is opened where it is; then there is nothing to overwrite.
//!
//! Each rung that was needed becomes an [`Incident`], written down before it is acted on, until the cluster is
//! told. When rows may be missing or old, the store gets a new epoch. A store that is empty where it was not is
//! never an order: nothing is removed from the runtime until the cluster has spoken.
//!
//! A database that has grown far beyond what it holds is written anew at the end.
//!
//! What it does not do: put a database aside because the disk is full, the directory forbidden, the store
//! in use or of a [later format](super::format). Those are the operator's, and a healthy store must survive them.

mod attempt;

use super::{
    Batch, Damage, Findings, Incident, Rung, SledStore, Store, StoreError, Table, format,
    place::{Place, remove_all},
    sled_store::check_engine,
    space::Space,
    tail::Tail,
    untold,
};
use attempt::{Attempt, attempt, is_damage};
use std::{
    fs,
    io::ErrorKind,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

/// The database of what the node has to say: small commits, and many of them.
pub(super) const SAYS: &str = "outbox";
/// The key of a store's epoch in [`Table::Meta`].
pub(super) const EPOCH: &str = "epoch";
/// Dropped rows that are named one by one.
const NAMED_ROWS: usize = 8;
/// A database may be four times as large as what it holds, and this.
const SLACK_BYTES: u64 = 16 * 1024 * 1024;
/// And no larger than this, unless what it holds is.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// One database, open.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: SledStore,
    /// Random, made with the database.
    pub epoch: u64,
    /// What had to be done to open it.
    pub incidents: Vec<Incident>,
}

/// Opens the database `name` below `root`, with what its log holds in it. The caller holds the
/// [`RootLock`](super::RootLock).
pub fn open(root: &Path, name: &str) -> Result<Opened, StoreError> {
    format::check(root)?;
    let mut opened = open_at(&Place::new(root, name))?;
    if name == SAYS {
        let tail = Tail::open(&tail_of(root, name), opened.store, None)?;
        opened.incidents.extend(tail.found());
        opened.store = tail.into_store();
    }
    Ok(opened)
}

pub(super) fn tail_of(root: &Path, name: &str) -> PathBuf {
    root.join(name).with_extension("tail")
}

/// Opens a database on a disk that may be full: it takes the room that was kept for that.
pub(super) fn with_room(place: &Place, space: &Space) -> Result<Opened, StoreError> {
    if space.is_tight() {
        space.make_room();
    }
    match open_at(place) {
        Err(error) if error.is_full() || space.is_tight() => {}
        done => return done,
    }
    space.make_room();
    open_at(place).map_err(|error| {
        if error.is_full() || space.is_tight() {
            space.full()
        } else {
            error
        }
    })
}

fn open_at(place: &Place) -> Result<Opened, StoreError> {
    let (store, findings, incidents) = repair(place)?;
    let mut store = compact(place, store, &findings)?;
    let in_doubt = |incident: &Incident| matches!(incident.rung, Rung::Stale | Rung::Salvaged);
    let epoch = epoch_of(&mut store, incidents.iter().any(in_doubt))?;
    store.settle()?;
    Ok(Opened {
        store,
        epoch,
        incidents,
    })
}

/// Opens a database and mends it. What a newer program wrote stays; what of it is needed ends the open.
pub(super) fn repair(place: &Place) -> Result<(SledStore, Findings, Vec<Incident>), StoreError> {
    check_engine(&place.db)?;
    fs::create_dir_all(&place.objects).map_err(StoreError::io("create", &place.objects))?;
    place.clear()?;
    let mut incidents = Vec::new();
    let (mut store, findings) = climb(place, &mut incidents)?;
    note(place, &findings, &mut incidents);
    write_down(place, &incidents);
    store.mend()?;
    if findings.newer.is_some() {
        // Settled: the next try need not copy it again.
        store.settle()?;
    }
    store.check_version(&findings)?;
    if findings.foreign > 0 {
        let (database, rows) = (place.name(), findings.foreign);
        tracing::info!(database, rows, "rows of a newer edgecore are kept as they are");
    }
    Ok((store, findings, incidents))
}

/// Before it is done: whoever does it may be gone before it can tell.
fn write_down(place: &Place, incidents: &[Incident]) {
    untold::add(&untold::path(&place.db), incidents);
}

/// What reading has shown, as incidents.
fn note(place: &Place, findings: &Findings, incidents: &mut Vec<Incident>) {
    if let Some(doubt) = &findings.doubt {
        incidents.push(place.incident(Rung::Stale, doubt.clone()));
    }
    let rows = findings.damage.iter();
    let mut named: Vec<_> = rows
        .take(NAMED_ROWS)
        .map(|Damage { key, why }| format!("{key}: {why}"))
        .collect();
    if let Some(more @ 1..) = findings.damage.len().checked_sub(NAMED_ROWS) {
        named.push(format!("and {more} more"));
    }
    if !named.is_empty() {
        incidents.push(place.incident(Rung::Rows, named.join("; ")));
    }
}

/// The ladder: the first rung that holds.
fn climb(place: &Place, incidents: &mut Vec<Incident>) -> Result<(SledStore, Findings), StoreError> {
    let error = match first_try(place)? {
        Attempt::Ready(store, findings) => return Ok((store, findings)),
        Attempt::Unreadable(store, error) => return salvage(place, store, &error, incidents),
        Attempt::Refused(error) if is_damage(&error) => error,
        Attempt::Refused(error) => return Err(error),
    };
    incidents.push(place.incident(Rung::Snapshots, chain(&error)));
    let error = match attempt(&place.copy(false)?) {
        Attempt::Ready(store, findings) => return Ok((take_place(place, store)?, findings)),
        Attempt::Unreadable(store, error) => return salvage(place, store, &error, incidents),
        Attempt::Refused(error) if is_damage(&error) => error,
        Attempt::Refused(error) => return Err(error),
    };
    start_empty(place, &error, incidents)
}

/// Opens a copy; where nothing can be overwritten, or there is no room for a copy, the database itself.
fn first_try(place: &Place) -> Result<Attempt, StoreError> {
    if !place.exists() || SledStore::is_settled(&place.db) {
        return Ok(attempt(place));
    }
    let trial = match place.copy(true) {
        Ok(trial) => trial,
        Err(error) => {
            tracing::warn!(error = chain(&error), "the store is opened without a copy");
            place.clear()?;
            return Ok(attempt(place));
        }
    };
    Ok(match attempt(&trial) {
        Attempt::Ready(store, findings) => Attempt::Ready(take_place(place, store)?, findings),
        failed @ (Attempt::Unreadable(..) | Attempt::Refused(_)) => failed,
    })
}

/// Puts an opened copy in the database's place. Where the file system cannot do that, nothing has happened.
fn take_place(place: &Place, mut store: SledStore) -> Result<SledStore, StoreError> {
    store.sync()?;
    match place.swap(&place.trial()) {
        Ok(()) => {
            store.moved_to(&place.db);
            place.clear()?;
            Ok(store)
        }
        Err(error) => {
            tracing::warn!(error = chain(&error), "the store is opened without a copy");
            drop(store);
            place.clear()?;
            match attempt(place) {
                Attempt::Ready(store, _) => Ok(store),
                Attempt::Unreadable(_, error) | Attempt::Refused(error) => Err(error),
            }
        }
    }
}

/// Moves what can be read into a new database.
fn salvage(
    place: &Place,
    store: SledStore,
    error: &StoreError,
    incidents: &mut Vec<Incident>,
) -> Result<(SledStore, Findings), StoreError> {
    let rows = store.salvage();
    let detail = format!("{} rows were saved: {}", rows.len(), chain(error));
    let saved = [&incidents[..], &[place.incident(Rung::Salvaged, detail)]].concat();
    let written = fresh(place, |fresh| fresh.fill(&rows));
    // What a damaged engine says while it is dropped is of no interest.
    drop(catch_unwind(AssertUnwindSafe(|| drop(store))));
    let moved = written.and_then(|()| {
        write_down(place, &saved);
        place.swap(&place.fresh())?;
        place.quarantine_fresh()
    });
    match moved.map(|()| attempt(place)) {
        Ok(Attempt::Ready(store, findings)) => {
            *incidents = saved;
            place.clear()?;
            return Ok((store, findings));
        }
        // The disk's trouble, or the operator's: when it is over, what can be read now can be read still.
        Ok(Attempt::Refused(error)) | Err(error) if !is_damage(&error) && !cannot_swap(&error) => {
            return Err(error);
        }
        Ok(_) => {}
        Err(error) => tracing::error!(error = chain(&error), "nothing could be salvaged"),
    }
    start_empty(place, error, incidents)
}

/// Whether the file system has no exchange of names.
fn cannot_swap(error: &StoreError) -> bool {
    let StoreError::Io { source, .. } = error else {
        return false;
    };
    matches!(source.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported)
}

fn start_empty(
    place: &Place,
    error: &StoreError,
    incidents: &mut Vec<Incident>,
) -> Result<(SledStore, Findings), StoreError> {
    incidents.push(place.incident(Rung::Emptied, chain(error)));
    write_down(place, incidents);
    place.quarantine()?;
    match attempt(place) {
        Attempt::Ready(store, findings) => Ok((store, findings)),
        Attempt::Unreadable(_, error) | Attempt::Refused(error) => Err(error),
    }
}

/// Writes a new database beside the old one.
fn fresh(
    place: &Place,
    write: impl FnOnce(&mut SledStore) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let fresh = place.fresh();
    remove_all(&fresh.db)?;
    let mut store = SledStore::open_unread(&fresh.db, &fresh.objects)?;
    write(&mut store)?;
    store.sync()
}

/// Writes a database anew that takes far more room than what it holds.
fn compact(place: &Place, store: SledStore, findings: &Findings) -> Result<SledStore, StoreError> {
    let before = place.disk_bytes();
    if before <= allowed_bytes(findings.live) {
        return Ok(store);
    }
    let rows = store.salvage();
    let written = fresh(place, |fresh| {
        fresh.fill(&rows)?;
        // Every row, or nothing happens.
        if fresh.sum() == store.sum() {
            Ok(())
        } else {
            Err(StoreError::Stopped)
        }
    });
    if let Err(error) = written {
        tracing::warn!(error = chain(&error), "the store was not written anew");
        place.clear()?;
        return Ok(store);
    }
    drop(store);
    let swapped = place.swap(&place.fresh());
    place.clear()?;
    if let Err(error) = swapped {
        tracing::warn!(error = chain(&error), "the store was not written anew");
    }
    match attempt(place) {
        Attempt::Ready(store, _) => {
            let after = place.disk_bytes();
            tracing::info!(
                database = place.name(),
                before,
                after,
                "the store was written anew"
            );
            Ok(store)
        }
        Attempt::Unreadable(_, error) | Attempt::Refused(error) => Err(error),
    }
}

/// How large a database that holds so much may be.
const fn allowed_bytes(live: u64) -> u64 {
    let most = if live * 2 > MOST_BYTES {
        live * 2
    } else {
        MOST_BYTES
    };
    if live * 4 + SLACK_BYTES < most {
        live * 4 + SLACK_BYTES
    } else {
        most
    }
}

/// The epoch of a store, if it has one.
pub(super) fn known_epoch(store: &impl Store) -> Result<Option<u64>, StoreError> {
    let known = store.get(Table::Meta, EPOCH)?;
    Ok(known.and_then(|bytes| Some(u64::from_le_bytes(bytes.as_ref().try_into().ok()?))))
}

fn epoch_of(store: &mut SledStore, in_doubt: bool) -> Result<u64, StoreError> {
    if let Some(epoch) = known_epoch(store)?.filter(|_| !in_doubt) {
        return Ok(epoch);
    }
    let epoch = rand::random::<u64>();
    store.commit(&Batch::new().put(Table::Meta, EPOCH, epoch.to_le_bytes().to_vec()))?;
    Ok(epoch)
}

fn chain(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
