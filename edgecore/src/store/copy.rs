//! A copy of a database that leaves it as it is.
//!
//! ```text
//! <root>/<name>, its log ──copied──► <to>/<name>
//! <root>/objects/<name>/ ◄──links─── <to>/objects/<name>/
//! ```

use super::{StoreError, place::Place, recovery::tail_of};
use std::{
    fs::{self, FileType},
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// Copies the database `name` and the log in front of it; content files become links to the true ones.
pub(super) fn database(root: &Path, name: &str, to: &Path) -> Result<(), StoreError> {
    let log = tail_of(root, name);
    let (from, copy) = (Place::new(root, name), Place::new(to, name));
    fs::create_dir_all(&copy.db).map_err(StoreError::io("create", &copy.db))?;
    for file in entries(&from.db, FileType::is_file)? {
        copy_file(&file, &copy.db)?;
    }
    if log.exists() {
        copy_file(&log, to)?;
    }
    for folder in entries(&from.objects, FileType::is_dir)? {
        let aside = copy.objects.join(folder.file_name().unwrap_or_default());
        fs::create_dir_all(&aside).map_err(StoreError::io("create", &aside))?;
        for file in entries(&folder, FileType::is_file)? {
            let link = aside.join(file.file_name().unwrap_or_default());
            let linked = fs::canonicalize(&file).and_then(|file| symlink(file, &link));
            linked.map_err(StoreError::io("link to", file))?;
        }
    }
    Ok(())
}

/// Copies a file into a directory, under its own name.
fn copy_file(file: &Path, into: &Path) -> Result<(), StoreError> {
    let copied = fs::copy(file, into.join(file.file_name().unwrap_or_default()));
    copied.map(drop).map_err(StoreError::io("copy", file))
}

/// What a directory, which need not exist, has of one kind.
pub(super) fn entries(dir: &Path, is_wanted: fn(&FileType) -> bool) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(StoreError::io("read", dir))?,
    };
    let mut wanted = Vec::new();
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| is_wanted(&kind)) {
            wanted.push(entry.path());
        }
    }
    Ok(wanted)
}
