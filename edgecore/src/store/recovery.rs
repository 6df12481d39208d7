//! Opening the stores, whatever state the last power cut left them in.
//!
//! ```text
//! open ──ok──► verify every value ──► ready
//!  └─fails─► drop the snapshots, open again ──ok──► ...
//!             └─fails─► put the directory aside, start empty with a new epoch
//! ```
//!
//! Each step that was needed becomes an incident, to be told to the cluster. A store that is empty where it
//! was not is never an order: nothing is removed from the runtime until the cluster has spoken.
//!
//! What it does not do: put a database aside because the disk is full, the directory forbidden or the store
//! in use. Those are the operator's, and a healthy store must survive them.

use super::{
    Batch, Damage, Db, SledStore, Store, StoreError, Table, objects::sync_dir, sled_store::remove_matching,
};
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// The key of a store's epoch in [`Table::Meta`].
const EPOCH: &str = "epoch";
/// sled's threads let go of the lock a moment after a failed open.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

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
    pub incidents: Vec<String>,
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
    pub incidents: Vec<String>,
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
    let meta = open(root, "meta")?;
    let outbox = open(root, "outbox")?;
    let start =
        |name: &str, store| Db::start(name, store).map_err(StoreError::io("start a thread for", root));
    Ok(Stores {
        epoch: meta.epoch,
        incidents: [meta.incidents, outbox.incidents].concat(),
        meta: start("meta", meta.store)?,
        outbox: start("outbox", outbox.store)?,
        lock,
    })
}

/// Opens the database `name` below `root`. The caller holds the [`RootLock`].
pub fn open(root: &Path, name: &str) -> Result<Opened, StoreError> {
    let place = Place {
        db: root.join(name),
        objects: root.join("objects").join(name),
    };
    fs::create_dir_all(root.join("objects")).map_err(StoreError::io("create", root))?;
    let mut incidents = Vec::new();
    let (mut store, damage) = climb(&place, &mut incidents)?;
    incidents.extend(
        damage
            .iter()
            .map(|Damage { key, why }| format!("{name}: dropped {key}: {why}")),
    );
    let epoch = epoch_of(&mut store)?;
    for incident in &incidents {
        tracing::warn!(incident, "the store was repaired");
    }
    Ok(Opened {
        store,
        epoch,
        incidents,
    })
}

struct Place {
    db: PathBuf,
    objects: PathBuf,
}

/// The ladder: the first rung that holds.
fn climb(place: &Place, incidents: &mut Vec<String>) -> Result<(SledStore, Vec<Damage>), StoreError> {
    let error = match attempt(place) {
        Err(error) if is_damage(&error) => error,
        done => return done,
    };
    incidents.push(format!(
        "{}: dropping its snapshots, because it did not open: {}",
        name(place),
        chain(&error)
    ));
    let had_snapshots = has_snapshots(&place.db);
    remove_matching(&place.db, |name| name.starts_with("snap."))?;
    let error = match attempt(place) {
        Err(StoreError::InUse { path }) if had_snapshots => return Err(StoreError::InUse { path }),
        Err(error @ StoreError::InUse { .. }) => error,
        Err(error) if is_damage(&error) => error,
        done => return done,
    };
    put_aside(place)?;
    incidents.push(format!(
        "{}: put aside and started empty: {}",
        name(place),
        chain(&error)
    ));
    attempt(place)
}

fn name(place: &Place) -> String {
    place
        .db
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// One open, with panics of the engine caught and its own late threads waited for.
fn attempt(place: &Place) -> Result<(SledStore, Vec<Damage>), StoreError> {
    for _ in 0..LOCK_TRIES {
        match open_once(place) {
            Err(StoreError::InUse { .. }) => thread::sleep(LOCK_PAUSE),
            done => return done,
        }
    }
    Err(StoreError::InUse {
        path: place.db.clone(),
    })
}

fn open_once(place: &Place) -> Result<(SledStore, Vec<Damage>), StoreError> {
    let caught = catch_unwind(AssertUnwindSafe(|| SledStore::open(&place.db, &place.objects)));
    let result = caught.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let message = text
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message")
            .to_owned();
        Err(StoreError::Panicked {
            path: place.db.clone(),
            message,
        })
    });
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
fn is_damage(error: &StoreError) -> bool {
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
        | StoreError::Stopped => false,
    }
}

fn has_snapshots(db: &Path) -> bool {
    let names = fs::read_dir(db).into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .any(|name| name.starts_with("snap."))
}

/// Keeps the damaged database for whoever wants to look; only the newest one is kept.
fn put_aside(place: &Place) -> Result<(), StoreError> {
    for path in [&place.db, &place.objects] {
        let aside = path.with_extension("quarantined");
        match fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(StoreError::io("remove", aside)(error));
            }
            _ => {}
        }
        match fs::rename(path, &aside) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(StoreError::io("rename", path)(error));
            }
            _ => {}
        }
        path.parent().map_or(Ok(()), sync_dir)?;
    }
    Ok(())
}

fn epoch_of(store: &mut SledStore) -> Result<u64, StoreError> {
    let known = store.get(Table::Meta, EPOCH)?;
    if let Some(epoch) = known.and_then(|bytes| Some(u64::from_le_bytes(bytes.as_ref().try_into().ok()?))) {
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
mod tests {
    use super::*;
    use crate::store::suite::Scratch;

    fn with_rows(root: &Path) {
        let mut opened = open(root, "meta").unwrap();
        for n in 0..50 {
            let batch = Batch::new().put(Table::Desired, format!("k{n}"), vec![n; 300]);
            opened.store.commit(&batch).unwrap();
        }
    }

    fn rows(opened: &Opened) -> usize {
        opened.store.scan(Table::Desired, None, 1000).unwrap().len()
    }

    #[test]
    fn a_half_written_snapshot_does_not_matter() {
        let root = Scratch::new();
        with_rows(root.path());
        fs::write(root.path().join("meta/snap.00000000FFFFFFFF.generating"), b"half").unwrap();
        let opened = open(root.path(), "meta").unwrap();
        assert_eq!((rows(&opened), opened.incidents.len()), (50, 0));
    }

    #[test]
    fn a_damaged_snapshot_is_dropped_and_everything_replayed() {
        let root = Scratch::new();
        with_rows(root.path());
        fs::write(root.path().join("meta/snap.7FFFFFFFFFFFFFFF"), b"not a snapshot").unwrap();
        let opened = open(root.path(), "meta").unwrap();
        assert_eq!(rows(&opened), 50);
        assert_eq!(opened.incidents.len(), 1, "{:?}", opened.incidents);
    }

    #[test]
    fn a_database_that_cannot_be_read_is_put_aside_and_gets_a_new_epoch() {
        let root = Scratch::new();
        with_rows(root.path());
        let before = open(root.path(), "meta").unwrap().epoch;
        fs::write(root.path().join("meta/conf"), b"garbage that is no configuration").unwrap();
        let opened = open(root.path(), "meta").unwrap();
        assert_eq!(rows(&opened), 0);
        assert_ne!(opened.epoch, before);
        assert_eq!(opened.incidents.len(), 2, "{:?}", opened.incidents);
        assert!(root.path().join("meta.quarantined/db").exists());
        drop(opened);
        let again = open(root.path(), "meta").unwrap();
        assert!(again.incidents.is_empty());
    }

    #[test]
    fn a_second_process_is_told_so_and_nothing_is_put_aside() {
        let root = Scratch::new();
        let _first = open_stores(root.path()).unwrap();
        assert!(matches!(open_stores(root.path()), Err(StoreError::InUse { .. })));
        assert!(!root.path().join("meta.quarantined").exists());
    }

    #[test]
    fn a_missing_content_file_costs_its_key_only() {
        let root = Scratch::new();
        let mut opened = open(root.path(), "meta").unwrap();
        let batch = Batch::new()
            .put(Table::Desired, "big", vec![7; 9000])
            .put(Table::Desired, "small", "s");
        opened.store.commit(&batch).unwrap();
        drop(opened);
        fs::remove_dir_all(root.path().join("objects/meta")).unwrap();
        let opened = open(root.path(), "meta").unwrap();
        assert_eq!(opened.incidents.len(), 1, "{:?}", opened.incidents);
        assert_eq!(opened.store.get(Table::Desired, "big").unwrap(), None);
        assert_eq!(opened.store.get(Table::Desired, "small").unwrap().unwrap(), "s");
    }

    #[test]
    fn a_forbidden_directory_is_an_error_and_not_damage() {
        let error = StoreError::io("open", "/x")(ErrorKind::PermissionDenied.into());
        assert!(!is_damage(&error));
    }
}
