//! Where a database lies, and the moves of whole directories that repairs are made of.
//!
//! ```text
//! <root>/<name>/               the database
//! <root>/<name>.trial/         a copy of it, to be opened first
//! <root>/<name>.new/           one that is being written
//! <root>/<name>.quarantined/   the last one that was given up
//! <root>/objects/<name>/       its content files
//! <root>/<name>.tail           the log in front of it, where there is one
//! <root>/<name>.tail.quarantined   the last one that was damaged
//! ```
//!
//! **Invariant:** `<name>` is a whole database at any instant: another one takes its place by one exchange of
//! names, and what is called `.trial` or `.new` is never needed.

use super::{Incident, QUARANTINED, Rung, StoreError, objects::sync_dir};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// The largest database that is kept for whoever wants to look.
const QUARANTINE_BYTES: u64 = 64 * 1024 * 1024;

/// The directories of one database.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) db: PathBuf,
    pub(super) objects: PathBuf,
}

impl Place {
    pub(super) fn new(root: &Path, name: &str) -> Self {
        Self {
            db: root.join(name),
            objects: root.join("objects").join(name),
        }
    }

    pub(super) fn name(&self) -> String {
        let name = self.db.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Something that was done to this database.
    pub(super) fn incident(&self, rung: Rung, detail: String) -> Incident {
        Incident {
            database: self.name(),
            rung,
            detail,
        }
    }

    /// Whether there is a database.
    pub(super) fn exists(&self) -> bool {
        self.db.join("db").exists()
    }

    /// Where a new database is written.
    pub(super) fn fresh(&self) -> Self {
        self.beside("new")
    }

    /// Where a copy is opened.
    pub(super) fn trial(&self) -> Self {
        self.beside("trial")
    }

    fn beside(&self, extension: &str) -> Self {
        Self {
            db: self.db.with_extension(extension),
            objects: self.objects.clone(),
        }
    }

    /// Removes what an interrupted open has left.
    pub(super) fn clear(&self) -> Result<(), StoreError> {
        remove_all(&self.fresh().db)?;
        remove_all(&self.trial().db)
    }

    /// Puts another database in the place of this one, and this one in its place.
    pub(super) fn swap(&self, other: &Self) -> Result<(), StoreError> {
        renameat2(
            AT_FDCWD,
            &other.db,
            AT_FDCWD,
            &self.db,
            RenameFlags::RENAME_EXCHANGE,
        )
        .map_err(|errno| StoreError::io("exchange", &self.db)(errno.into()))?;
        self.db.parent().map_or(Ok(()), sync_dir)
    }

    /// Keeps what [`swap`](Self::swap) has taken out of the way.
    pub(super) fn quarantine_fresh(&self) -> Result<(), StoreError> {
        quarantine(&self.fresh().db, &self.db.with_extension(QUARANTINED))
    }

    /// Keeps the damaged database for whoever wants to look; only the newest one is kept.
    pub(super) fn quarantine(&self) -> Result<(), StoreError> {
        for path in [&self.db, &self.objects] {
            quarantine(path, &path.with_extension(QUARANTINED))?;
        }
        Ok(())
    }

    /// Copies the database, with its snapshots or without; nobody has locked the copy.
    pub(super) fn copy(&self, with_snapshots: bool) -> Result<Self, StoreError> {
        let trial = self.trial();
        remove_all(&trial.db)?;
        fs::create_dir(&trial.db).map_err(StoreError::io("create", &trial.db))?;
        for entry in fs::read_dir(&self.db)
            .map_err(StoreError::io("read", &self.db))?
            .flatten()
        {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let wanted =
                matches!(&*name, "conf" | "db" | "mark") || with_snapshots && name.starts_with("snap.");
            if wanted {
                let (from, to) = (entry.path(), trial.db.join(&*name));
                let copied = fs::copy(&from, &to).and_then(|_| fs::File::open(&to)?.sync_all());
                copied.map_err(StoreError::io("copy", from))?;
            }
        }
        Ok(trial)
    }

    /// What the database takes of the disk.
    pub(super) fn disk_bytes(&self) -> u64 {
        disk_bytes(&self.db)
    }
}

fn quarantine(path: &Path, aside: &Path) -> Result<(), StoreError> {
    remove_all(aside)?;
    if disk_bytes(path) > QUARANTINE_BYTES {
        remove_all(path)?;
    } else {
        match fs::rename(path, aside) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(StoreError::io("rename", path)(error));
            }
            _ => {}
        }
    }
    path.parent().map_or(Ok(()), sync_dir)
}

/// Removes a directory that need not exist.
pub(super) fn remove_all(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

pub(super) fn disk_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}
