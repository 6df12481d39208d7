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
//! Each rung that was needed becomes an [`Incident`], to be told to the cluster. When rows may be missing or
//! old, the store gets a new epoch. A store that is empty where it was not is never an order: nothing is
//! removed from the runtime until the cluster has spoken.
//!
//! A database that has grown far beyond what it holds is written anew at the end.
//!
//! What it does not do: put a database aside because the disk is full, the directory forbidden or the store
//! in use. Those are the operator's, and a healthy store must survive them.

mod attempt;

use super::{
    Batch, Damage, Db, Findings, Incident, Rung, SledStore, Store, StoreError, Table,
    guarded::Guarded,
    place::{Place, remove_all},
    space::Space,
    tail::Tail,
};
use attempt::{Attempt, attempt, is_damage};
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The database of what the node has to say: small commits, and many of them.
const SAYS: &str = "outbox";
/// The key of a store's epoch in [`Table::Meta`].
const EPOCH: &str = "epoch";
/// Dropped rows that are named one by one.
const NAMED_ROWS: usize = 8;
/// A database may be four times as large as what it holds, and this.
const SLACK_BYTES: u64 = 16 * 1024 * 1024;
/// And no larger than this, unless what it holds is.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// Both databases of the node, open.
#[derive(Debug)]
pub struct Stores {
    /// What the node must hold, and what it must remember.
    pub meta: Db,
    /// What the node has to say.
    pub outbox: Db,
    /// A number that changes when a database had to start empty.
    pub epoch: u64,
    /// What had to be done to open them, for the log and the cluster.
    pub incidents: Vec<Incident>,
    /// Keeps every other process out.
    pub lock: RootLock,
}

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

/// The only right to open the stores below a directory, held while it lives.
#[derive(Debug)]
pub struct RootLock(#[expect(dead_code, reason = "holding it is its use")] Flock<File>);

impl RootLock {
    /// Takes the lock, or says that another process has it.
    pub fn take(root: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(root).map_err(StoreError::io("create", root))?;
        fs::set_permissions(root, fs::Permissions::from_mode(0o700))
            .map_err(StoreError::io("protect", root))?;
        let path = root.join("lock");
        let file = File::create(&path).map_err(StoreError::io("create", &path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(StoreError::InUse {
                path: root.to_owned(),
            }),
            Err((_, errno)) => Err(StoreError::io("lock", path)(errno.into())),
        }
    }
}

/// Opens both databases below `root`, each with the ladder of its own: what befalls one spares the other.
pub fn open_stores(root: &Path) -> Result<Stores, StoreError> {
    let lock = RootLock::take(root)?;
    let space = Arc::new(Space::of(root.to_owned()));
    let (meta, told, epoch) = open_guarded(root, "meta", &space)?;
    let (outbox, also_told, _) = open_guarded(root, SAYS, &space)?;
    Ok(Stores {
        meta,
        outbox,
        epoch,
        incidents: [told, also_told].concat(),
        lock,
    })
}

fn open_guarded(root: &Path, name: &str, space: &Arc<Space>) -> Result<(Db, Vec<Incident>, u64), StoreError> {
    let place = Place::new(root, name);
    let opened = with_room(&place, space)?;
    let store = Guarded::new(place, Arc::clone(space), opened.store);
    let started = if name == SAYS {
        Db::start(
            name,
            Tail::open(&tail_of(root, name), store, Some(Arc::clone(space)))?,
        )
    } else {
        Db::start(name, store)
    };
    let db = started.map_err(StoreError::io("start a thread for", root))?;
    Ok((db, opened.incidents, opened.epoch))
}

/// Opens the database `name` below `root`, with what its log holds in it. The caller holds the [`RootLock`].
pub fn open(root: &Path, name: &str) -> Result<Opened, StoreError> {
    let mut opened = open_at(&Place::new(root, name))?;
    if name == SAYS {
        opened.store = Tail::open(&tail_of(root, name), opened.store, None)?.into_store();
    }
    Ok(opened)
}

fn tail_of(root: &Path, name: &str) -> PathBuf {
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
    fs::create_dir_all(&place.objects).map_err(StoreError::io("create", &place.objects))?;
    place.clear()?;
    let mut incidents = Vec::new();
    let (store, findings) = climb(place, &mut incidents)?;
    note(place, &findings, &mut incidents);
    let mut store = compact(place, store, &findings)?;
    let in_doubt = |incident: &Incident| matches!(incident.rung, Rung::Stale | Rung::Salvaged);
    let epoch = epoch_of(&mut store, incidents.iter().any(in_doubt))?;
    store.settle()?;
    for incident in &incidents {
        tracing::warn!(%incident, "the store was repaired");
    }
    Ok(Opened {
        store,
        epoch,
        incidents,
    })
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
    let count = rows.len();
    let moved = fresh(place, |fresh| fresh.fill(&rows));
    // What a damaged engine says while it is dropped is of no interest.
    drop(catch_unwind(AssertUnwindSafe(|| drop(store))));
    let moved = moved.and_then(|()| place.swap(&place.fresh()));
    match moved.and_then(|()| place.quarantine_fresh()) {
        Err(error) if error.is_full() => return Err(error),
        Err(error) => tracing::error!(error = chain(&error), "nothing could be salvaged"),
        Ok(()) => {
            if let Attempt::Ready(store, findings) = attempt(place) {
                let detail = format!("{count} rows were saved: {}", chain(error));
                incidents.push(place.incident(Rung::Salvaged, detail));
                place.clear()?;
                return Ok((store, findings));
            }
        }
    }
    start_empty(place, error, incidents)
}

fn start_empty(
    place: &Place,
    error: &StoreError,
    incidents: &mut Vec<Incident>,
) -> Result<(SledStore, Findings), StoreError> {
    place.quarantine()?;
    incidents.push(place.incident(Rung::Emptied, chain(error)));
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

fn epoch_of(store: &mut SledStore, in_doubt: bool) -> Result<u64, StoreError> {
    let known = store.get(Table::Meta, EPOCH)?;
    let known = known.and_then(|bytes| Some(u64::from_le_bytes(bytes.as_ref().try_into().ok()?)));
    if let Some(epoch) = known.filter(|_| !in_doubt) {
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
