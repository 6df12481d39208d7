//! What `join` wrote, so that a failed join and `reset` take back exactly that.
//!
//! A file is noted, durably, before it is written: whatever instant the power goes at, the
//! record names at least what is there (but for an empty directory). Files are replaced whole (write, fsync, rename, fsync
//! of the directory).

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::pods::volumes::removal;

/// Something that join put on the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Entry {
    /// A file that is ours whatever is in it by now.
    File {
        /// Where.
        path: PathBuf,
    },
    /// A file among others' files: removed only while it is as we wrote it.
    Shared {
        /// Where.
        path: PathBuf,
        /// SHA-256 of what was written.
        digest: String,
    },
    /// A directory that did not exist: removed when it is empty.
    Directory {
        /// Where.
        path: PathBuf,
    },
    /// A directory that is ours with all that is in it.
    Tree {
        /// Where.
        path: PathBuf,
    },
    /// The systemd service: stopped and disabled, then removed.
    Service {
        /// The unit file.
        path: PathBuf,
    },
}

impl Entry {
    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Self::File { path }
            | Self::Shared { path, .. }
            | Self::Directory { path }
            | Self::Tree { path }
            | Self::Service { path } => path,
        }
    }
}

/// Something that could not be written or removed.
#[derive(Debug, Error)]
#[error("cannot {verb} {}", path.display())]
pub struct RecordError {
    verb: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RecordError {
    let path = path.to_owned();
    move |source| RecordError { verb, path, source }
}

/// What is still there after [`Record::undo`], in words.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// What could not be removed; it stays in the record, so that it can be tried again.
    pub troubles: Vec<String>,
    /// What is not ours, or not ours alone, and is left alone.
    pub kept: Vec<String>,
}

/// The list of what was written, in order.
#[derive(Debug)]
pub struct Record {
    file: PathBuf,
    entries: Vec<Entry>,
}

impl Record {
    /// Reads the record at `file`; an absent one is empty.
    pub fn open(file: &Path) -> Result<Self, RecordError> {
        let entries = match fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| failed("read", file)(e.into()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed("read", file)(error)),
        };
        Ok(Self {
            file: file.to_owned(),
            entries,
        })
    }

    /// What was written, first to last.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry whose file or directory has this name.
    pub fn named(&self, name: &str) -> Option<&Path> {
        let mut paths = self.entries.iter().map(Entry::path);
        paths.find(|path| path.file_name().is_some_and(|last| last == name))
    }

    /// Writes a file of ours.
    pub fn file(&mut self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), RecordError> {
        self.note(vec![Entry::File {
            path: path.to_owned(),
        }])?;
        replace(path, bytes, mode)
    }

    /// Makes a symbolic link of ours, which leads to `target`.
    pub fn link(&mut self, path: &Path, target: &Path) -> Result<(), RecordError> {
        self.directory(path.parent().unwrap_or(path), 0o755)?;
        let was_known = self.entries.iter().any(|entry| entry.path() == path);
        self.note(vec![Entry::File {
            path: path.to_owned(),
        }])?;
        let made = link(path, target);
        if made.is_err() && !was_known {
            // What is there is not ours.
            self.entries.retain(|entry| entry.path() != path);
            self.save()?;
        }
        made
    }

    /// Writes a file among others' files.
    pub fn shared(&mut self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), RecordError> {
        self.directory(path.parent().unwrap_or(path), 0o755)?;
        self.note(vec![Entry::Shared {
            path: path.to_owned(),
            digest: digest(bytes),
        }])?;
        replace(path, bytes, mode)
    }

    /// Writes the unit of the service.
    pub fn service(&mut self, path: &Path, bytes: &[u8]) -> Result<(), RecordError> {
        self.directory(path.parent().unwrap_or(path), 0o755)?;
        self.note(vec![Entry::Service {
            path: path.to_owned(),
        }])?;
        replace(path, bytes, 0o644)
    }

    /// Makes a directory, and those above it, where they do not exist.
    pub fn directory(&mut self, path: &Path, mode: u32) -> Result<(), RecordError> {
        let mut missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.is_dir()).collect();
        missing.reverse();
        for dir in &missing {
            make_dir(dir, if *dir == path { mode } else { 0o755 })?;
        }
        // Noted afterwards, for the record itself lives in the first that is made.
        let entries = missing
            .into_iter()
            .map(|dir| Entry::Directory { path: dir.to_owned() });
        self.note(entries.collect())
    }

    /// Makes a directory that is ours with all that will be in it.
    pub fn tree(&mut self, path: &Path, mode: u32) -> Result<(), RecordError> {
        if let Some(parent) = path.parent() {
            self.directory(parent, 0o755)?;
        }
        self.note(vec![Entry::Tree {
            path: path.to_owned(),
        }])?;
        if !path.is_dir() {
            make_dir(path, mode)?;
        }
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed("restrict", path))
    }

    /// Puts `entries` in front of those that are not among them.
    pub fn begin_with(&mut self, entries: Vec<Entry>) {
        let since = std::mem::replace(&mut self.entries, entries);
        for entry in since {
            if !self.entries.iter().any(|known| known.path() == entry.path()) {
                self.entries.push(entry);
            }
        }
    }

    /// Takes back what was written after the first `keep` entries, last first. Cut short at any instant, or
    /// with troubles, it can be done again.
    pub fn undo(&mut self, keep: usize) -> Left {
        let undone = self.entries.split_off(keep.min(self.entries.len()));
        let (mut left, mut again, mut stays) = (Left::default(), Vec::new(), Vec::new());
        for entry in undone.into_iter().rev() {
            // The record goes just before its own directory, or it would keep that alive.
            if keep == 0 && again.is_empty() && Some(entry.path()) == self.file.parent() {
                let _ = remove_file(&self.file);
            }
            match take_back(&entry) {
                Ok(None) => {}
                // It may be the file of a trouble that is in it.
                Ok(Some(_)) if !again.is_empty() && matches!(entry, Entry::Directory { .. }) => {
                    again.push(entry);
                }
                Ok(Some(kept)) => {
                    // A directory above what was named has nothing to add.
                    if !stays
                        .iter()
                        .any(|below: &PathBuf| below.starts_with(entry.path()))
                    {
                        left.kept.push(kept);
                    }
                    stays.push(entry.path().to_owned());
                }
                Err(trouble) => {
                    left.troubles.push(trouble);
                    again.push(entry);
                }
            }
        }
        self.entries.extend(again.into_iter().rev());
        left.troubles.extend(self.settle().err());
        left
    }

    fn settle(&self) -> Result<(), String> {
        if !self.entries.is_empty() {
            return self.save().map_err(|error| error.to_string());
        }
        remove_file(&self.file).map_err(|error| format!("{}: {error}", self.file.display()))
    }

    fn note(&mut self, entries: Vec<Entry>) -> Result<(), RecordError> {
        if entries.is_empty() {
            return Ok(());
        }
        self.entries
            .retain(|known| !entries.iter().any(|entry| entry.path() == known.path()));
        self.entries.extend(entries);
        self.save()
    }

    fn save(&self) -> Result<(), RecordError> {
        let bytes =
            serde_json::to_vec_pretty(&self.entries).map_err(|e| failed("write", &self.file)(e.into()))?;
        replace(&self.file, &bytes, 0o600)
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<(), RecordError> {
    let created = fs::DirBuilder::new().mode(mode).create(path);
    match created {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        created => created.map_err(failed("make the directory", path)),
    }
}

/// Says what is left alone, or what went wrong.
fn take_back(entry: &Entry) -> Result<Option<String>, String> {
    let path = entry.path();
    let removed = match entry {
        Entry::File { .. } | Entry::Service { .. } => remove_file(path).map(|()| None),
        Entry::Shared { digest: written, .. } => remove_unchanged(path, written),
        Entry::Directory { .. } => remove_dir(path),
        Entry::Tree { .. } => remove_tree(path),
    };
    removed.map_err(|error| format!("{} could not be removed: {error}", path.display()))
}

/// Removes a file, with what a write that was cut short left beside it. None there is well.
fn remove_file(path: &Path) -> io::Result<()> {
    for path in [&temporary(path), path] {
        // On a read-only file system what is not there cannot be removed.
        if let Err(error) = path.symlink_metadata()
            && error.kind() == io::ErrorKind::NotFound
        {
            continue;
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    Ok(())
}

fn remove_unchanged(path: &Path, written: &str) -> io::Result<Option<String>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Ok(bytes) if digest(&bytes) == written => {}
        Ok(_) => {
            let kept = format!(
                "{} was changed since join wrote it, and is left alone",
                path.display()
            );
            return Ok(Some(kept));
        }
        Err(error) => return Err(error),
    }
    remove_file(path).map(|()| None)
}

/// What others put there since keeps a directory alive.
fn remove_dir(path: &Path) -> io::Result<Option<String>> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            let inside = fs::read_dir(path)?.flatten().map(|entry| entry.file_name());
            let inside: Vec<_> = inside.map(|name| name.display().to_string()).collect();
            Ok(Some(format!(
                "{} is left, for there is in it: {}",
                path.display(),
                inside.join(", ")
            )))
        }
        removed => removed.map(|()| None),
    }
}

/// Removes a directory that is ours, or empties it where it is a link or a mount point of the operator's.
fn remove_tree(path: &Path) -> io::Result<Option<String>> {
    if path.is_symlink() {
        let target = fs::canonicalize(path)?;
        // A link to the whole of a data partition does not make that partition ours.
        if target.file_name() != path.file_name() {
            return Err(io::Error::other(format!(
                "it is a link to {}, and what is there may be others' too; remove what is Tombolo's there, and the \
                 link",
                target.display()
            )));
        }
        removal::empty(&target)?;
        return Ok(Some(format!(
            "{} leads to {}, which was emptied and is left",
            path.display(),
            target.display()
        )));
    }
    removal::empty(path)?;
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(Some(format!(
            "{} is a mount point: it was emptied and is left",
            path.display()
        ))),
        removed => removed.map(|()| None),
    }
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Where the new text of a file is written first.
fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

/// Replaces a file whole: after a power cut there is the old one or the new one.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), RecordError> {
    #[cfg(test)]
    testing::step();
    let temporary = temporary(path);
    let write = || -> io::Result<()> {
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(|error| {
        // It may be half a key, and nobody would look for it there.
        let _ = fs::remove_file(&temporary);
        failed("write", path)(error)
    })
}

/// Makes a symbolic link, or leads one elsewhere: after a power cut it is the old one or the new one.
pub fn link(path: &Path, target: &Path) -> Result<(), RecordError> {
    #[cfg(test)]
    testing::step();
    let temporary = temporary(path);
    let make = || -> io::Result<()> {
        let _ = fs::remove_file(&temporary);
        symlink(target, &temporary)?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    make().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        failed("make the link", path)(error)
    })
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
