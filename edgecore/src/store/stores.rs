//! Both databases of the node, and the only right to them.

use super::{
    Db, Frost, Incident, StoreError, Thaw, format,
    guarded::Guarded,
    place::Place,
    recovery::{SAYS, tail_of, with_room},
    space::Space,
    tail::Tail,
    untold,
};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use std::{
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

/// The database of what the node must hold.
pub(super) const HOLDS: &str = "meta";
/// The file that is locked.
const LOCK: &str = "lock";
/// A look at the store is soon over, and must not keep the node from its start.
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
    /// What had to be done to open them, now or before, and is not [told](Self::told) yet.
    pub incidents: Vec<Incident>,
    /// Keeps every other process out.
    pub lock: RootLock,
    /// Where their disk was read-only at the start.
    pub frost: Option<Arc<Frost>>,
    pub(super) root: PathBuf,
}

impl Stores {
    /// The cluster will hear of the incidents: the next start need not tell them.
    pub fn told(&self) -> Result<(), StoreError> {
        [HOLDS, SAYS]
            .iter()
            .try_for_each(|name| untold::clear(&untold::path(&self.root.join(name))))
    }

    /// Why nothing new is kept, and what to do, while the disk is read-only.
    pub fn frozen(&self) -> Option<StoreError> {
        self.frost.as_ref()?.trouble()
    }

    /// As on a disk that is read-only.
    #[cfg(test)]
    pub(crate) fn freeze(&mut self) -> Arc<Frost> {
        let frost = Arc::new(Frost::of(&self.root));
        self.frost = Some(Arc::clone(&frost));
        frost
    }

    /// Looks whether a disk that was read-only can be written again, and goes on there if so.
    pub async fn thaw(&self) -> Result<Thaw, StoreError> {
        match &self.frost {
            // In this order: what is said rests on what is held.
            Some(frost) => frost.thaw([&self.meta, &self.outbox]).await,
            None => Ok(Thaw::Done),
        }
    }
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
        let path = root.join(LOCK);
        let file = File::create(&path).map_err(StoreError::io("create", &path))?;
        Self::lock(root, file, FlockArg::LockExclusiveNonblock)
    }

    /// Keeps the others from changing anything, and changes nothing itself.
    pub(super) fn share(root: &Path) -> Result<Self, StoreError> {
        Self::lock(root, Self::open(root)?, FlockArg::LockSharedNonblock)
    }

    /// Keeps the others out of a store that cannot be written.
    pub(super) fn hold(root: &Path) -> Result<Self, StoreError> {
        Self::lock(root, Self::open(root)?, FlockArg::LockExclusiveNonblock)
    }

    /// What is locked, to be read.
    fn open(root: &Path) -> Result<File, StoreError> {
        let path = root.join(LOCK);
        let file = match File::open(&path) {
            // Whoever opens a store makes the file first: nobody has this one open.
            Err(error) if error.kind() == ErrorKind::NotFound => File::open(root),
            file => file,
        };
        file.map_err(StoreError::io("open", path))
    }

    fn lock(root: &Path, mut file: File, how: FlockArg) -> Result<Self, StoreError> {
        for _ in 0..LOCK_TRIES {
            file = match Flock::lock(file, how) {
                Ok(lock) => return Ok(Self(lock)),
                Err((file, Errno::EWOULDBLOCK)) => file,
                Err((_, errno)) => return Err(StoreError::io("lock", root.join(LOCK))(errno.into())),
            };
            thread::sleep(LOCK_PAUSE);
        }
        Err(StoreError::InUse {
            path: root.to_owned(),
        })
    }
}

/// Opens both databases below `root`, each with the ladder of its own: what befalls one spares the other.
pub fn open_stores(root: &Path) -> Result<Stores, StoreError> {
    let lock = RootLock::take(root)?;
    format::check(root)?;
    let space = Arc::new(Space::of(root.to_owned()));
    let (meta, told, epoch) = open_guarded(root, HOLDS, &space)?;
    let (outbox, also_told, _) = open_guarded(root, SAYS, &space)?;
    Ok(Stores {
        meta,
        outbox,
        epoch,
        incidents: [told, also_told].concat(),
        lock,
        root: root.to_owned(),
        frost: None,
    })
}

fn open_guarded(root: &Path, name: &str, space: &Arc<Space>) -> Result<(Db, Vec<Incident>, u64), StoreError> {
    let place = Place::new(root, name);
    let before = untold::load(&untold::path(&place.db));
    let opened = with_room(&place, space)?;
    tell(&opened.incidents);
    let mut now = opened.incidents;
    let store = Guarded::new(place, Arc::clone(space), opened.store);
    let started = if name == SAYS {
        let tail = Tail::open(&tail_of(root, name), store, Some(Arc::clone(space)))?;
        tell(tail.found().as_slice());
        now.extend(tail.found());
        let pulse = tail.pulse();
        Db::start_with(name, tail, pulse)
    } else {
        Db::start(name, store)
    };
    let db = started.map_err(StoreError::io("start a thread for", root))?;
    let mut incidents = before;
    incidents.retain(|incident| !now.contains(incident));
    incidents.extend(now);
    Ok((db, incidents, opened.epoch))
}

/// Writes to the log what was done to a database.
pub(super) fn tell(incidents: &[Incident]) {
    for incident in incidents {
        tracing::warn!(%incident, "the store was repaired");
    }
}

#[cfg(test)]
mod tests {
    use super::super::suite::Scratch;
    use super::*;

    #[test]
    fn a_look_that_is_soon_over_does_not_keep_the_node_from_its_start() {
        let root = Scratch::new();
        drop(RootLock::take(root.path()).unwrap());
        let looks = [(); 2].map(|()| RootLock::share(root.path()).unwrap());
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(2 * LOCK_PAUSE);
                drop(looks);
            });
            let _node = RootLock::take(root.path()).unwrap();
            assert!(matches!(
                RootLock::share(root.path()),
                Err(StoreError::InUse { .. })
            ));
        });
    }
}
