//! A disk that became read-only: the node goes on with what it holds.
//!
//! The kernel makes a file system read-only when it does not trust it any more. What lies there can still be read,
//! and nothing that changes outlasts the program. So a change is refused where its answer promises that it is
//! kept: reports, what devices say, which secret gave access to an image. The node does then as on a full disk: it
//! keeps them in memory, sends them, and offers them again. A change that the cluster makes again whenever it is
//! asked is taken in, in memory: pods come and end, and a restart begins with what the disk has, as after a power cut.
//!
//! That such a pod is *gone* is not said (`run::reports`): the cluster would make its successor, maybe elsewhere, and
//! the next start without a link would start the pod again, of whose deletion the disk knows nothing. Neither is it said
//! that a pod has failed because the node wanted it: its object may then go, and it has a successor. To start no pods
//! from such a disk before the cluster has spoken is no way out. A device that boots without a link would stay dark;
//! and the usual cure, a boot that checks the disk, leaves a store of which nobody can tell that it was ever
//! read-only. A pod whose object goes without the node's word (by force, or because it has ended) rests on no promise:
//! it may run again until there is a link.
//!
//! ```text
//! <root> ──copied──► <scratch> ──ladder──► memory ◄──changes      <scratch> is gone before the node starts
//! <root> ◄──changes── memory                                      when it can be written again
//! ```
//!
//! The disk is opened again beside the writer, which serves memory meanwhile: that may take long, and on a disk
//! that fails for ever.
//!
//! What it does not do: keep a copy. Nothing outlives the program that the next one could take for the store.
//!
//! **Invariant:** no answer of [`Store::commit`] says of what others rely on that it is kept (`held`); and nothing is
//! written to `<root>` but changes that were made here, once every row there is what was read from it (`stand_in`).

mod held;
mod stand_in;

use super::{
    Db, Store, StoreError, Stores, format,
    guarded::Guarded,
    look,
    place::{Place, disk_bytes},
    pulse::Pulse,
    recovery::{SAYS, tail_of, with_room},
    space::Space,
    stores::{HOLDS, RootLock, open_stores, tell},
    tail::Tail,
    untold,
};
use nix::sys::statvfs::{FsFlags, statvfs};
use stand_in::StandIn;
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};
use tokio::sync::oneshot;

/// Reading the databases takes them once as a copy, and that once more while it is opened.
const COPIES: u64 = 2;
/// Of what is free where the copy is made, it takes no more than one part in so many.
const SHARE: u64 = 2;

/// Opens both databases below `root`; where its disk is read-only, what can be read of them, through a copy in
/// the first of `scratch` that has the room.
pub fn open_stores_or_freeze(root: &Path, scratch: &[PathBuf]) -> Result<Stores, StoreError> {
    match open_stores(root) {
        Err(error) if root.join(HOLDS).is_dir() && (error.is_read_only() || is_read_only(root)) => {
            freeze(root, scratch)
        }
        opened => opened,
    }
}

fn freeze(root: &Path, scratch: &[PathBuf]) -> Result<Stores, StoreError> {
    let lock = RootLock::hold(root)?;
    format::check(root)?;
    let mut incidents = Vec::new();
    for name in [HOLDS, SAYS] {
        incidents.extend(untold::load(&untold::path(&root.join(name))));
    }
    let [(holds, of_holds), (says, of_says)] = read(root, scratch)?;
    let found: Vec<_> = [of_holds, of_says].concat();
    tell(&found);
    incidents.retain(|incident| !found.contains(incident));
    incidents.extend(found);
    let epoch = super::recovery::known_epoch(&holds)?.unwrap_or_default();
    let frost = Frost::of(root);
    let start = |name, rows, pulse: &Pulse| {
        let stand_in = StandIn::new(root.join(name), rows, pulse.clone());
        Db::start_with(name, stand_in, pulse.clone()).map_err(StoreError::io("start a thread for", root))
    };
    let [of_holds, of_says] = &frost.databases;
    let stores = Stores {
        meta: start(HOLDS, holds, &of_holds.pulse)?,
        outbox: start(SAYS, says, &of_says.pulse)?,
        epoch,
        incidents,
        lock,
        frost: Some(Arc::new(frost)),
        root: root.to_owned(),
    };
    tracing::error!(error = %StoreError::ReadOnly { path: root.to_owned() }, "the store is read-only");
    Ok(stores)
}

/// What both databases hold, read through a copy in the first place where that does not take the room of others, who
/// may be lost without it.
fn read(root: &Path, scratch: &[PathBuf]) -> Result<[look::Read; 2], StoreError> {
    let log = fs::metadata(tail_of(root, SAYS)).map_or(0, |log| log.len());
    let databases = [HOLDS, SAYS].map(|name| disk_bytes(&root.join(name)));
    let wanted = (databases.iter().sum::<u64>() + log) * COPIES * SHARE;
    let has_room = |place: &&PathBuf| {
        let free = statvfs(place.as_path()).map(|stat| stat.blocks_available() * stat.fragment_size());
        free.is_ok_and(|free| free >= wanted)
    };
    for place in scratch.iter().filter(has_room) {
        match look::hold(root, place) {
            Err(error) if error.is_read_only() || error.is_full() => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(place = %place.display(), error, "there is no copy of the store");
            }
            read => return read,
        }
    }
    let all: Vec<_> = scratch.iter().map(|place| place.to_string_lossy()).collect();
    let what = "read the store of a read-only disk: make room for a copy of it in one of";
    Err(StoreError::io(what, all.join(", "))(
        io::ErrorKind::StorageFull.into(),
    ))
}

/// What became of a try to go on with the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thaw {
    /// Both databases are open there.
    Done,
    /// It is read-only still; nothing was tried.
    ReadOnly,
    /// It can be written, and the store could not be opened there, which may have taken a copy of it.
    Failed,
}

/// Both databases of a disk that was read-only at the start.
#[derive(Debug)]
pub struct Frost {
    root: PathBuf,
    space: Arc<Space>,
    databases: [Frozen; 2],
}

#[derive(Debug)]
struct Frozen {
    name: &'static str,
    /// It cannot be written.
    waits: AtomicBool,
    pulse: Pulse,
}

impl Frozen {
    fn melt(&self) {
        self.waits.store(false, Ordering::Relaxed);
        let database = self.name;
        tracing::warn!(database, "the disk can be written again; the store is open");
    }
}

impl Frost {
    pub(super) fn of(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            space: Arc::new(Space::of(root.to_owned())),
            databases: [HOLDS, SAYS].map(|name| Frozen {
                name,
                waits: AtomicBool::new(true),
                pulse: Pulse::default(),
            }),
        }
    }

    /// Why nothing new is kept, and what to do; until both can be written.
    pub fn trouble(&self) -> Option<StoreError> {
        let mut waits = self.databases.iter().map(|frozen| &frozen.waits);
        let is_any = waits.any(|waits| waits.load(Ordering::Relaxed));
        is_any.then(|| StoreError::ReadOnly {
            path: self.root.clone(),
        })
    }

    /// Goes on with the disk where it can be written again. What hinders that is tried again, unless it breaks the
    /// store.
    pub(super) async fn thaw(&self, dbs: [&Db; 2]) -> Result<Thaw, StoreError> {
        for (frozen, db) in self.databases.iter().zip(dbs) {
            if !frozen.waits.load(Ordering::Relaxed) {
                continue;
            }
            let thawed = match self.opened(frozen).await {
                Ok(disk) => db.thaw(disk).await,
                Err(StoreError::ReadOnly { .. }) => return Ok(Thaw::ReadOnly),
                // Nothing of it was changed here.
                Err(error) => {
                    waits(frozen.name, &error);
                    return Ok(Thaw::Failed);
                }
            };
            match thawed {
                Err(error) if error.breaks() => return Err(error),
                Err(error) => {
                    waits(frozen.name, &error);
                    return Ok(Thaw::Failed);
                }
                Ok(()) => frozen.melt(),
            }
        }
        Ok(Thaw::Done)
    }

    /// The database on the disk, opened by a thread that nobody waits for at the end of the program.
    async fn opened(&self, frozen: &Frozen) -> Result<Box<dyn Store>, StoreError> {
        let (done, opened) = oneshot::channel();
        let (root, name, space, pulse) = (
            self.root.clone(),
            frozen.name,
            Arc::clone(&self.space),
            frozen.pulse.clone(),
        );
        thread::Builder::new()
            .name(format!("thaw-{name}"))
            .spawn(move || drop(done.send(open(&root, name, space, pulse))))
            .map_err(StoreError::io("start a thread for", &self.root))?;
        opened.await.map_err(|_| StoreError::Stopped)?
    }

    /// As if the disk could be written again.
    #[cfg(test)]
    pub(crate) fn melt_all(&self) {
        self.databases.iter().for_each(Frozen::melt);
    }
}

fn waits(database: &str, error: &StoreError) {
    let error = error as &dyn std::error::Error;
    tracing::warn!(database, error, "the store is read-only still");
}

/// The database on a disk that can be written.
fn open(root: &Path, name: &str, space: Arc<Space>, pulse: Pulse) -> Result<Box<dyn Store>, StoreError> {
    if !takes_writes(root) {
        return Err(StoreError::ReadOnly {
            path: root.to_owned(),
        });
    }
    format::check(root)?;
    let place = Place::new(root, name);
    // What was done is told after the next start: it is on the disk until then.
    let opened = with_room(&place, &space)?;
    tell(&opened.incidents);
    let store = Guarded::new(place, Arc::clone(&space), opened.store);
    if name != SAYS {
        return Ok(Box::new(store));
    }
    let tail = Tail::open(&tail_of(root, name), store, Some(space))?;
    tell(tail.found().as_slice());
    Ok(Box::new(tail.beating(pulse)))
}

/// Whether the kernel says that nothing can be written there.
fn is_read_only(root: &Path) -> bool {
    statvfs(root).is_ok_and(|stat| stat.flags().contains(FsFlags::ST_RDONLY))
}

/// Whether something can be written there; a kernel need not say that it cannot.
fn takes_writes(root: &Path) -> bool {
    !is_read_only(root) && fs::set_permissions(root, fs::Permissions::from_mode(0o700)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_frozen_until_both_databases_can_be_written() {
        let frost = Frost::of(Path::new("/nowhere"));
        frost.databases[0].melt();
        assert!(matches!(frost.trouble(), Some(StoreError::ReadOnly { .. })));
        frost.databases[1].melt();
        assert!(frost.trouble().is_none());
    }
}
