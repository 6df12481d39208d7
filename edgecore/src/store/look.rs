//! A look at a store whose daemon does not run, which changes nothing.
//!
//! The engine writes while it opens, and what is damaged is repaired then and told once. So a copy is opened,
//! outside of the store, with the same ladder; its content files are links to the true ones. What would be
//! repaired is said, and left to the daemon.
//!
//! ```text
//! <root>/<name>, its log ──copied──► <tmp>/<name> ──ladder──► memory     <tmp> is gone after that
//! <root>/objects/<name>/ ◄──links─── <tmp>/objects/<name>/
//! ```

use super::{
    Db, Incident, MemoryStore, Rung, SledStore, Store, StoreError, Table, format,
    place::{Place, remove_all},
    recovery::{SAYS, repair, tail_of},
    stores::{HOLDS, RootLock},
    tail::Tail,
    untold,
};
use std::{
    fs::{self, DirBuilder, FileType},
    io,
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
};

/// The engine's threads may still look after a database that was closed.
const REMOVALS: usize = 3;

/// What the databases hold, in memory.
#[derive(Debug)]
pub struct Look {
    /// What the node must hold, and what it must remember.
    pub meta: Db,
    /// What the node has to say.
    pub outbox: Db,
    /// What is wrong with them, and what to do.
    pub troubles: Vec<String>,
}

/// Reads the store below `root`, where there is one. A copy is made where `TMPDIR` says.
pub fn look_at(root: &Path) -> Result<Option<Look>, StoreError> {
    look_in(root, &std::env::temp_dir())
}

fn look_in(root: &Path, tmp: &Path) -> Result<Option<Look>, StoreError> {
    if !root.join(HOLDS).is_dir() {
        return Ok(None);
    }
    // Until the end: content files are read where they are.
    let _lock = RootLock::share(root)?;
    format::check(root)?;
    let seen = Copied::of(root, tmp).and_then(|copy| {
        let mut troubles = Vec::new();
        Ok(Look {
            meta: read(root, &copy, HOLDS, &mut troubles)?,
            outbox: read(root, &copy, SAYS, &mut troubles)?,
            troubles,
        })
    });
    seen.map(Some).map_err(|error| {
        if error.is_full() {
            let what = "make room for a copy (TMPDIR may name another place) in";
            StoreError::io(what, tmp)(io::ErrorKind::StorageFull.into())
        } else {
            error
        }
    })
}

/// What both databases hold, in memory, read through a copy below `tmp`. The caller holds the lock.
pub(super) fn hold(root: &Path, tmp: &Path) -> Result<[Read; 2], StoreError> {
    let copy = Copied::of(root, tmp)?;
    Ok([rows_of(root, &copy, HOLDS)?, rows_of(root, &copy, SAYS)?])
}

fn read(root: &Path, copy: &Copied, name: &str, troubles: &mut Vec<String>) -> Result<Db, StoreError> {
    let done = untold::load(&untold::path(&root.join(name)));
    let (rows, incidents) = rows_of(root, copy, name)?;
    troubles.extend(done.iter().map(ToString::to_string));
    let to_do = incidents.iter().filter(|incident| !done.contains(incident));
    troubles.extend(to_do.map(|incident| {
        let (ours, theirs) = (copy.0.to_string_lossy(), root.to_string_lossy());
        to_be_done(incident).replace(&*ours, &theirs)
    }));
    Ok(Db::holding(rows))
}

/// The rows of a database, and what had to be done to read them.
pub(super) type Read = (MemoryStore, Vec<Incident>);

fn rows_of(root: &Path, copy: &Copied, name: &str) -> Result<Read, StoreError> {
    rows(&copy.0, name).map_err(|error| {
        // It is the store that is newer, not the copy.
        if let StoreError::Newer { what, .. } = error {
            let path = root.join(name);
            return StoreError::Newer { path, what };
        }
        error
    })
}

/// Those of a database that may be changed.
fn rows(root: &Path, name: &str) -> Result<Read, StoreError> {
    let (store, _, mut incidents) = repair(&Place::new(root, name))?;
    let store: SledStore = if name == SAYS {
        let tail = Tail::open(&tail_of(root, name), store, None)?;
        incidents.extend(tail.found());
        tail.into_store()
    } else {
        store
    };
    let mut rows = MemoryStore::new();
    for table in Table::ALL {
        for (key, value) in store.scan(table, None, usize::MAX)? {
            rows.hold(table, key, value);
        }
    }
    Ok((rows, incidents))
}

/// What the daemon will do, and what is left to do.
fn to_be_done(incident: &Incident) -> String {
    let what = match incident.rung {
        Rung::Emptied => {
            "nothing of it can be shown. edgecore puts it aside when it is started, begins anew, and tells the \
             cluster, which sends its part again"
        }
        Rung::Snapshots | Rung::Rows | Rung::Stale | Rung::Salvaged | Rung::Log => {
            "this shows what can be read. edgecore repairs it when it is started, and tells the cluster, which \
             sends what is missing"
        }
    };
    format!(
        "the store {} is damaged, and was left as it is: {what}. When it happens again, replace the disk or card \
         ({})",
        incident.database, incident.detail
    )
}

/// How the name of a copy begins; the process follows.
const COPY: &str = "tombolo-look-";

/// A copy of a store, gone when it is dropped.
struct Copied(PathBuf);

impl Copied {
    fn of(root: &Path, tmp: &Path) -> Result<Self, StoreError> {
        sweep(tmp);
        let name = format!("{COPY}{}-{:x}", std::process::id(), rand::random::<u64>());
        let path = tmp.join(name);
        // It holds Secrets.
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(StoreError::io("create", &path))?;
        let copy = Self(path);
        for name in [HOLDS, SAYS] {
            copy.fill(root, name)?;
        }
        Ok(copy)
    }

    fn fill(&self, root: &Path, name: &str) -> Result<(), StoreError> {
        let (from, to) = (Place::new(root, name), Place::new(&self.0, name));
        fs::create_dir_all(&to.db).map_err(StoreError::io("create", &to.db))?;
        for file in entries(&from.db, FileType::is_file)? {
            copy_file(&file, &to.db)?;
        }
        let log = tail_of(root, name);
        if log.exists() {
            copy_file(&log, &self.0)?;
        }
        for folder in entries(&from.objects, FileType::is_dir)? {
            let aside = to.objects.join(folder.file_name().unwrap_or_default());
            fs::create_dir_all(&aside).map_err(StoreError::io("create", &aside))?;
            for file in entries(&folder, FileType::is_file)? {
                let link = aside.join(file.file_name().unwrap_or_default());
                let linked = fs::canonicalize(&file).and_then(|file| symlink(file, &link));
                linked.map_err(StoreError::io("link to", file))?;
            }
        }
        Ok(())
    }
}

/// Removes copies of looks that were cut short, by Ctrl-C for one.
fn sweep(tmp: &Path) {
    for path in entries(tmp, FileType::is_dir).unwrap_or_default() {
        let name = path.file_name().and_then(|name| name.to_str());
        let rest = name.and_then(|name| name.strip_prefix(COPY));
        let process = rest.and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
            let _ = remove_all(&path);
        }
    }
}

/// Copies a file into a directory, under its own name.
fn copy_file(file: &Path, into: &Path) -> Result<(), StoreError> {
    let copied = fs::copy(file, into.join(file.file_name().unwrap_or_default()));
    copied.map(drop).map_err(StoreError::io("copy", file))
}

impl Drop for Copied {
    fn drop(&mut self) {
        let removed = (0..REMOVALS).map(|_| remove_all(&self.0)).find(Result::is_ok);
        if removed.is_none() {
            tracing::warn!(path = %self.0.display(), "a copy of the store is left: remove it");
        }
    }
}

/// What a directory, which need not exist, has of one kind.
fn entries(dir: &Path, is_wanted: fn(&FileType) -> bool) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(StoreError::io("read", dir))?,
    };
    let mut wanted = Vec::new();
    // What cannot be read is told: a part of a database must not pass for the whole.
    for entry in entries {
        let entry = entry.map_err(StoreError::io("read", dir))?;
        let kind = entry
            .file_type()
            .map_err(StoreError::io("look at", entry.path()))?;
        if is_wanted(&kind) {
            wanted.push(entry.path());
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests;
