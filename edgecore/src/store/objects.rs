//! Content files: values too large for the log, under the blake3 of what they hold.
//!
//! The engine never syncs large values, so they are written here first: temporary file, fsync, rename,
//! fsync of the directory, and only then the batch that names them. A file that no key names any more is
//! swept; one that is named is never written again, because its name is its content.
//!
//! **Invariant:** a file under its final name is whole and durable before any batch refers to it.

use super::{StoreError, envelope::ContentHash};
use bytes::Bytes;
use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

/// Releases after which a sweep is due; each sweep reads up to 256 directories.
const SWEEP_AFTER: usize = 256;

/// The content files of one database, with the number of keys that name each.
#[derive(Debug)]
pub(super) struct Objects {
    dir: PathBuf,
    named: HashMap<ContentHash, usize>,
    released: usize,
}

impl Objects {
    /// Opens the directory, making it where it is missing.
    pub(super) fn open(dir: PathBuf) -> Result<Self, StoreError> {
        fs::create_dir_all(&dir).map_err(StoreError::io("create", &dir))?;
        if let Some(parent) = dir.parent() {
            sync_dir(parent)?;
        }
        Ok(Self {
            dir,
            named: HashMap::new(),
            released: 0,
        })
    }

    /// Counts one more key that names `hash`.
    pub(super) fn name(&mut self, hash: ContentHash) {
        *self.named.entry(hash).or_default() += 1;
    }

    /// Counts one key less that names `hash`, and sweeps when that has happened often enough.
    pub(super) fn release(&mut self, hash: ContentHash) {
        if let Some(count) = self.named.get_mut(&hash) {
            *count -= 1;
            if *count == 0 {
                self.named.remove(&hash);
                self.released += 1;
            }
        }
    }

    /// Whether enough has been released that sweeping pays.
    pub(super) const fn sweep_is_due(&self) -> bool {
        self.released >= SWEEP_AFTER
    }

    /// Writes a value durably and returns its name. Writing what is there already costs nothing.
    pub(super) fn write(&self, value: &[u8]) -> Result<ContentHash, StoreError> {
        let hash = blake3::hash(value);
        let path = self.path(&hash);
        if fs::metadata(&path).is_ok_and(|meta| meta.len() == value.len() as u64) {
            return Ok(hash);
        }
        let folder = path.parent().unwrap_or(&self.dir);
        if !folder.is_dir() {
            fs::create_dir(folder).map_err(StoreError::io("create", folder))?;
            sync_dir(&self.dir)?;
        }
        let tmp = path.with_extension("tmp");
        write_synced(&tmp, value)?;
        fs::rename(&tmp, &path).map_err(StoreError::io("rename", &tmp))?;
        sync_dir(folder)?;
        Ok(hash)
    }

    /// Reads a value back; `None` when the file is missing or not what its name says.
    pub(super) fn read(&self, hash: &ContentHash) -> Option<Bytes> {
        let bytes = fs::read(self.path(hash)).ok()?;
        (blake3::hash(&bytes) == *hash).then(|| bytes.into())
    }

    /// Removes every file that no key names. A file that cannot be removed waits for the next sweep.
    pub(super) fn sweep(&mut self) {
        self.released = 0;
        let folders = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for file in folders
            .filter_map(|folder| fs::read_dir(folder.path()).ok())
            .flatten()
            .flatten()
        {
            let name = file.file_name();
            let hash = name.to_str().and_then(|name| ContentHash::from_hex(name).ok());
            if !hash.is_some_and(|hash| self.named.contains_key(&hash)) {
                drop(fs::remove_file(file.path()));
            }
        }
    }

    fn path(&self, hash: &ContentHash) -> PathBuf {
        let hex = hash.to_hex();
        self.dir.join(&hex[..2]).join(hex.as_str())
    }
}

/// Writes a file and makes its content durable; its name is durable after [`sync_dir`] of its folder.
pub(super) fn write_synced(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let mut file = File::create(path).map_err(StoreError::io("create", path))?;
    file.write_all(content).map_err(StoreError::io("write", path))?;
    file.sync_all().map_err(StoreError::io("sync", path))
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(StoreError::io("sync", path))
}
