//! What `join` wrote, so that a failed join and `reset` take back exactly that.
//!
//! A file is noted, durably, before it is written: whatever instant the power goes at, the
//! record names at least what is there (but for an empty directory). Files are replaced whole (write, fsync, rename, fsync
//! of the directory).

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

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

    /// Writes a file of ours.
    pub fn file(&mut self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), RecordError> {
        self.note(vec![Entry::File {
            path: path.to_owned(),
        }])?;
        replace(path, bytes, mode)
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

    /// Takes back what was written after the first `keep` entries, last first. What could not be
    /// removed, or was changed by someone since, is returned in words.
    pub fn undo(&mut self, keep: usize) -> Vec<String> {
        let undone = self.entries.split_off(keep.min(self.entries.len()));
        let mut troubles = Vec::new();
        for entry in undone.iter().rev() {
            // The record goes just before its own directory, or it would keep that alive.
            if Some(entry.path()) == self.file.parent() {
                let _ = fs::remove_file(&self.file);
            }
            troubles.extend(take_back(entry).err());
        }
        troubles.extend(self.forget(keep).err());
        troubles
    }

    fn forget(&self, keep: usize) -> Result<(), String> {
        if keep > 0 {
            return self.save().map_err(|error| error.to_string());
        }
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("{}: {error}", self.file.display()))
            }
            _ => Ok(()),
        }
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

fn take_back(entry: &Entry) -> Result<(), String> {
    let path = entry.path();
    let removed = match entry {
        Entry::File { .. } | Entry::Service { .. } => fs::remove_file(path),
        Entry::Shared { digest: written, .. } => match fs::read(path) {
            Ok(bytes) if digest(&bytes) != *written => {
                return Err(format!(
                    "{} was changed since join wrote it, and is left alone",
                    path.display()
                ));
            }
            _ => fs::remove_file(path),
        },
        // What others put there since keeps it alive.
        Entry::Directory { .. } => fs::remove_dir(path).or_else(|error| {
            let kept = error.kind() == io::ErrorKind::DirectoryNotEmpty;
            if kept { Ok(()) } else { Err(error) }
        }),
        Entry::Tree { .. } => fs::remove_dir_all(path),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|error| format!("{} could not be removed: {error}", path.display())),
    }
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Replaces a file whole: after a power cut there is the old one or the new one.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), RecordError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
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
    write().map_err(failed("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("tombolo-record-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn written(root: &Path) -> Record {
        let config = root.join("etc/tombolo");
        let mut record = Record::open(&config.join("joined.json")).unwrap();
        record.directory(&config, 0o700).unwrap();
        record
            .file(&config.join("edgecore.yaml"), b"node_name: a\n", 0o600)
            .unwrap();
        record
            .shared(&root.join("etc/cni/net.d/90-tombolo.conflist"), b"{}", 0o644)
            .unwrap();
        record.tree(&root.join("var/lib/tombolo"), 0o700).unwrap();
        record
    }

    fn left(root: &Path) -> Vec<PathBuf> {
        let mut found: Vec<_> = fs::read_dir(root)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        let below: Vec<_> = found
            .iter()
            .filter(|path| path.is_dir())
            .flat_map(|path| left(path))
            .collect();
        found.extend(below);
        found
    }

    #[test]
    fn undoing_everything_leaves_nothing_behind() {
        let root = scratch("all");
        let mut record = written(&root);
        fs::write(root.join("var/lib/tombolo/db"), "x").unwrap();
        assert_eq!(record.undo(0), Vec::<String>::new());
        assert_eq!(left(&root), Vec::<PathBuf>::new());
    }

    #[test]
    fn the_record_is_read_back_by_another_process() {
        let root = scratch("again");
        let record = written(&root);
        let again = Record::open(&root.join("etc/tombolo/joined.json")).unwrap();
        assert_eq!(again.entries(), record.entries());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_someone_changed_or_added_is_left_alone_and_named() {
        let root = scratch("foreign");
        let mut record = written(&root);
        let network = root.join("etc/cni/net.d/90-tombolo.conflist");
        fs::write(&network, "{\"changed\": true}").unwrap();
        fs::write(root.join("etc/tombolo/notes.txt"), "mine").unwrap();
        let told = record.undo(0);
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("90-tombolo.conflist was changed"), "{told:?}");
        assert!(network.exists() && root.join("etc/tombolo/notes.txt").exists());
        assert!(!root.join("etc/tombolo/edgecore.yaml").exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn only_what_came_after_a_point_is_taken_back() {
        let root = scratch("part");
        let mut record = written(&root);
        let keep = record.entries().len();
        record.file(&root.join("etc/tombolo/late"), b"", 0o600).unwrap();
        assert_eq!(record.undo(keep), Vec::<String>::new());
        assert!(root.join("etc/tombolo/edgecore.yaml").exists() && !root.join("etc/tombolo/late").exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn secrets_are_readable_by_root_alone() {
        let root = scratch("mode");
        replace(&root.join("key"), b"secret", 0o600).unwrap();
        let mode = fs::metadata(root.join("key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::remove_dir_all(root).unwrap();
    }
}
