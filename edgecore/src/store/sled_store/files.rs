//! The engine and its files: opened, locked, made durable.

use super::{CACHE_BYTES, engine};
use crate::store::{StoreError, objects::sync_dir};
use std::{
    fs::{self, File},
    path::Path,
    thread,
    time::Duration,
};

/// sled's threads let go of the lock a moment after the database was closed, or could not be opened.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// What the engine writes about itself, without the checksum.
const CONF: &[u8] = b"segment_size: 524288\nuse_compression: false\nversion: 0.34\n";

pub(super) fn open_engine(path: &Path) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None);
    for _ in 0..LOCK_TRIES {
        match config.open() {
            Err(error) if is_lock(&error) => thread::sleep(LOCK_PAUSE),
            opened => return opened.map_err(|source| engine(path, source)),
        }
    }
    Err(StoreError::InUse { path: path.into() })
}

/// Whether this engine wrote the database in `path`, as far as that can be told. Its parameters end with their
/// checksum; damaged ones are for the ladder.
pub(in crate::store) fn check_engine(path: &Path) -> Result<(), StoreError> {
    let conf = fs::read(path.join("conf")).unwrap_or_default();
    let Some((fields, written)) = conf.split_last_chunk::<4>() else {
        return Ok(());
    };
    let mut crc = flate2::Crc::new();
    crc.update(fields);
    if fields.is_empty() || fields == CONF || crc.sum().to_le_bytes() != *written {
        return Ok(());
    }
    Err(StoreError::Newer {
        path: path.to_owned(),
        what: format!("its engine says {:?}", String::from_utf8_lossy(fields)),
    })
}

/// sled has no kind for it, only this text.
fn is_lock(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(e) if e.to_string().contains("could not acquire lock"))
}

/// A snapshot that was being written when the power went is taken for a whole one and fails the open.
pub(super) fn remove_generating(path: &Path) -> Result<(), StoreError> {
    remove_matching(path, |name| {
        name.starts_with("snap.") && name.ends_with(".generating")
    })
}

/// Removes the files of a database whose names fit. A database that does not exist has none.
pub(in crate::store) fn remove_matching(path: &Path, fits: impl Fn(&str) -> bool) -> Result<(), StoreError> {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(&fits) {
            let path = entry.path();
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// sled creates `conf` and the directory without a sync: a cut soon after would be corruption for ever.
pub(super) fn make_durable(path: &Path) -> Result<(), StoreError> {
    let conf = path.join("conf");
    File::open(&conf)
        .and_then(|file| file.sync_all())
        .map_err(StoreError::io("sync", &conf))?;
    sync_dir(path)?;
    path.parent().map_or(Ok(()), sync_dir)
}
