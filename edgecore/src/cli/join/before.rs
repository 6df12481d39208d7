//! What was on the disk before a join, to be put back when it fails: the identity of a cluster that was to be
//! replaced is still in use then.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::super::record::{Entry, Left, Record, replace};
use super::Paths;
use super::machine::Network;

/// What a join may write over.
#[derive(Debug)]
pub(super) struct Before {
    entries: Vec<Entry>,
    files: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    path: PathBuf,
    bytes: Vec<u8>,
    mode: u32,
}

impl Before {
    /// Reads what is there.
    pub(super) fn read(record: &Record, network: &Network, paths: &Paths) -> anyhow::Result<Self> {
        let mut files = Vec::new();
        for path in [
            paths.key(),
            paths.certificate(),
            paths.authority(),
            paths.config(),
        ] {
            files.extend(kept(&path, 0o600)?);
        }
        if let Network::Ours { file, .. } = network {
            files.extend(kept(file, 0o644)?);
        }
        let mut entries = record.entries().to_vec();
        // What has gone since an earlier join wrote it is removed again where this one makes it: the pending key.
        entries.retain(|entry| entry.path().symlink_metadata().is_ok());
        Ok(Self { entries, files })
    }

    /// Puts it back, and removes what came since.
    pub(super) fn restore(self, record: &mut Record) -> Left {
        let mut troubles = Vec::new();
        for file in &self.files {
            // Most often the file could not be written in the first place, and is as it was.
            let same = std::fs::read(&file.path).is_ok_and(|bytes| bytes == file.bytes);
            if !same && let Err(error) = replace(&file.path, &file.bytes, file.mode) {
                troubles.push(error.to_string());
            }
        }
        let keep = self.entries.len();
        record.begin_with(self.entries);
        let mut left = record.undo(keep);
        left.troubles.extend(troubles);
        left
    }
}

fn kept(path: &Path, mode: u32) -> anyhow::Result<Option<Kept>> {
    match std::fs::read(path) {
        // Nothing that could be written over.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::IsADirectory
            ) =>
        {
            Ok(None)
        }
        bytes => Ok(Some(Kept {
            bytes: bytes.with_context(|| format!("cannot read {}", path.display()))?,
            path: path.to_owned(),
            mode,
        })),
    }
}
