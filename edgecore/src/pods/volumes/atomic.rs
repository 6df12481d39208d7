//! The atomic writer: a set of files that a container sees change all at once.
//!
//! ```text
//! volume/key        -> ..data/key          (made once, never touched again)
//! volume/..data     -> ..<stamp>           (renamed over: the one moment of change)
//! volume/..<stamp>/key                     (the files)
//! ```
//!
//! **Invariants:** a path is validated before the disk is touched; the files are on disk before `..data`
//! names them, so after a power cut a reader sees the old set or the new one, whole; equal content writes
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{readlinkat, renameat};
use nix::unistd::{UnlinkatFlags, fsync, symlinkat, unlinkat};
use thiserror::Error;

use super::file::{self, Access};
use super::removal;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";
const LONGEST_PATH: usize = 4096;
const LONGEST_NAME: usize = 255;

/// One file of a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PayloadFile {
    /// What stands in it.
    pub(super) bytes: Vec<u8>,
    /// Its permission bits.
    pub(super) mode: u32,
    /// Whose it is; root when nobody's.
    pub(super) uid: Option<u32>,
}

/// Files by their path below the volume.
pub(super) type Payload = BTreeMap<String, PayloadFile>;

/// Why a payload was not written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(super) enum WriteError {
    /// A path that could leave the volume, or hide its machinery.
    #[error("invalid path {path:?}: {why}")]
    Path {
        /// As it was given.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The disk refused.
    #[error("cannot {action} {name:?}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what, below the volume.
        name: OsString,
        /// Why not.
        source: io::Error,
    },
}

impl WriteError {
    /// The whole story in one line, for an event.
    pub(super) fn told(&self) -> String {
        match self {
            Self::Path { .. } => self.to_string(),
            Self::Io { source, .. } => format!("{self}: {source}"),
        }
    }
}

/// Writes `payload` below `volume`, with files readable for `fs_group`. Says whether anything changed.
///
/// # Synchronization
///
/// One writer a volume at a time; the caller holds the pod.
pub(super) fn write(volume: &Path, payload: &Payload, fs_group: Option<u32>) -> Result<bool, WriteError> {
    let files = normalized(payload, fs_group)?;
    let writer = Writer {
        dir: told("open", ".", file::open_dir(volume))?,
        files,
        fs_group,
    };
    writer.run()
}

/// Checks a path as the kubelet does; returns its elements.
pub(super) fn validate(path: &str) -> Result<Vec<&str>, WriteError> {
    let refuse = |why| {
        Err(WriteError::Path {
            path: path.chars().take(256).collect(),
            why,
        })
    };
    let elements: Vec<_> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if path.is_empty() || elements.is_empty() {
        return refuse("must not be empty");
    }
    if path.starts_with('/') {
        return refuse("must not be absolute");
    }
    if path.len() > LONGEST_PATH || elements.iter().any(|part| part.len() > LONGEST_NAME) {
        return refuse("must not be longer than a file system takes");
    }
    if path.contains('\0') {
        return refuse("must not contain NUL");
    }
    if elements.contains(&"..") {
        return refuse("must not contain '..'");
    }
    if elements[0].starts_with("..") {
        return refuse("must not start with '..'");
    }
    Ok(elements)
}

struct Planned<'a> {
    bytes: &'a [u8],
    access: Access,
}

type Files<'a> = BTreeMap<Vec<&'a str>, Planned<'a>>;

fn normalized(payload: &Payload, fs_group: Option<u32>) -> Result<Files<'_>, WriteError> {
    let mut files = Files::new();
    for (path, file) in payload {
        let mode = (file.mode & 0o777) | fs_group.map_or(0, |_| 0o440);
        let access = Access {
            uid: file.uid.unwrap_or(0),
            gid: fs_group.unwrap_or(0),
            mode,
        };
        files.insert(
            validate(path)?,
            Planned {
                bytes: &file.bytes,
                access,
            },
        );
    }
    let is_prefix = |(a, b): (&Vec<&str>, &Vec<&str>)| b.len() > a.len() && b[..a.len()] == a[..];
    if let Some((file, _)) = files
        .keys()
        .zip(files.keys().skip(1))
        .find(|pair| is_prefix(*pair))
    {
        return Err(WriteError::Path {
            path: file.join("/"),
            why: "is both a file and a directory",
        });
    }
    Ok(files)
}

struct Writer<'a> {
    dir: OwnedFd,
    files: Files<'a>,
    fs_group: Option<u32>,
}

impl Writer<'_> {
    fn run(&self) -> Result<bool, WriteError> {
        let current = self.current();
        let changed = !current.as_deref().is_some_and(|stamp| self.holds(stamp));
        let stamp = match current {
            Some(stamp) if !changed => stamp,
            current => {
                // What writes that were cut short have left is room for this one.
                self.remove_old_sets(current.as_deref())?;
                self.write_new()?
            }
        };
        self.link_names()?;
        self.remove_stale(&stamp)?;
        Ok(changed)
    }

    /// The directory that `..data` names, when it is one of ours.
    fn current(&self) -> Option<OsString> {
        let stamp = readlinkat(&self.dir, DATA).ok()?;
        let bytes = stamp.as_bytes();
        (bytes.starts_with(b"..") && bytes.len() > 2 && !bytes.contains(&b'/')).then_some(stamp)
    }

    /// Whether the directory holds exactly these files, with these rights.
    fn holds(&self, stamp: &OsStr) -> bool {
        let Ok(dir) = file::open_dir_at(&self.dir, stamp) else {
            return false;
        };
        let Ok(found) = count_files(&dir) else {
            return false;
        };
        found == self.files.len()
            && self
                .files
                .iter()
                .all(|(path, planned)| same(&dir, path, planned).unwrap_or(false))
    }

    fn write_new(&self) -> Result<OsString, WriteError> {
        let stamp = fresh_stamp();
        let written = self.write_set(&stamp);
        // Where the very last step failed, it is the current one already.
        if written.is_err() && self.current().as_ref() != Some(&stamp) {
            // What resists goes before the next try.
            let _ = removal::remove_tree_at(&self.dir, &stamp);
        }
        written.map(|()| stamp)
    }

    fn write_set(&self, stamp: &OsStr) -> Result<(), WriteError> {
        let made = file::make_dir_at(&self.dir, stamp, 0o755);
        let dir = told("make", stamp, made)?;
        told("set the group of", stamp, self.open_to_group(&dir))?;
        for (path, planned) in &self.files {
            told("write", path.join("/"), self.write_file(&dir, path, planned))?;
        }
        told("sync", stamp, fsync(&dir))?;
        told("replace", DATA, self.point_to(stamp))
    }

    fn write_file(&self, dir: &OwnedFd, path: &[&str], planned: &Planned<'_>) -> io::Result<()> {
        let Some((name, parents)) = path.split_last() else {
            return Ok(());
        };
        let mut at = dir.try_clone()?;
        for parent in parents {
            let next = file::make_dir_at(&at, *parent, 0o755)?;
            self.open_to_group(&next)?;
            fsync(&at)?;
            at = next;
        }
        file::create_at(&at, *name, planned.bytes, planned.access)?;
        Ok(fsync(&at)?)
    }

    fn open_to_group(&self, dir: impl AsFd) -> io::Result<()> {
        let Some(gid) = self.fs_group else { return Ok(()) };
        file::set_access(
            dir,
            Access {
                uid: 0,
                gid,
                mode: 0o2755,
            },
        )
    }

    fn point_to(&self, stamp: &OsStr) -> io::Result<()> {
        match unlinkat(&self.dir, DATA_NEXT, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        symlinkat(stamp, &self.dir, DATA_NEXT)?;
        fsync(&self.dir)?;
        renameat(&self.dir, DATA_NEXT, &self.dir, DATA)?;
        Ok(fsync(&self.dir)?)
    }

    fn link_names(&self) -> Result<(), WriteError> {
        let mut linked = false;
        for name in self.visible() {
            linked |= told("link", name, self.link(name))?;
        }
        if linked {
            told("sync", ".", fsync(&self.dir))
        } else {
            Ok(())
        }
    }

    fn visible(&self) -> BTreeSet<&str> {
        self.files
            .keys()
            .filter_map(|path| path.first().copied())
            .collect()
    }

    fn link(&self, name: &str) -> io::Result<bool> {
        let target = format!("{DATA}/{name}");
        if readlinkat(&self.dir, name).is_ok_and(|found| found == target.as_str()) {
            return Ok(false);
        }
        removal::remove_tree_at(&self.dir, OsStr::new(name))?;
        symlinkat(target.as_str(), &self.dir, name)?;
        Ok(true)
    }

    /// Removes every set but the current one.
    fn remove_old_sets(&self, current: Option<&OsStr>) -> Result<(), WriteError> {
        for name in self.names()? {
            if name.as_bytes().starts_with(b"..") && name != DATA && Some(name.as_os_str()) != current {
                told("remove", &name, removal::remove_tree_at(&self.dir, &name))?;
            }
        }
        Ok(())
    }

    fn names(&self) -> Result<impl Iterator<Item = OsString>, WriteError> {
        let names = told("list", ".", file::names(&self.dir))?;
        Ok(names.into_iter().map(OsString::from_vec))
    }

    /// Removes links to what is no longer there, and every set but the current one.
    fn remove_stale(&self, stamp: &OsStr) -> Result<(), WriteError> {
        self.remove_old_sets(Some(stamp))?;
        let visible = self.visible();
        for name in self.names()? {
            let ours = || {
                readlinkat(&self.dir, name.as_os_str()).is_ok_and(|to| to.as_bytes().starts_with(b"..data/"))
            };
            let stale_link = || name.to_str().is_none_or(|name| !visible.contains(name)) && ours();
            if name != DATA && stale_link() {
                told("remove", &name, removal::remove_tree_at(&self.dir, &name))?;
            }
        }
        Ok(())
    }
}

fn same(dir: &OwnedFd, path: &[&str], planned: &Planned<'_>) -> io::Result<bool> {
    let Some((name, parents)) = path.split_last() else {
        return Ok(false);
    };
    let mut at = dir.try_clone()?;
    for parent in parents {
        at = file::open_dir_at(&at, *parent)?;
    }
    let (bytes, access) = file::read_at(&at, *name, planned.bytes.len())?;
    Ok(bytes == planned.bytes && access == planned.access)
}

fn count_files(dir: &OwnedFd) -> io::Result<usize> {
    let mut count = 0;
    for name in file::names(dir)?.into_iter().map(OsString::from_vec) {
        let stat = file::lstat_at(dir, name.as_os_str())?;
        count += if file::is_dir(&stat) {
            count_files(&file::open_dir_at(dir, name.as_os_str())?)?
        } else {
            1
        };
    }
    Ok(count)
}

fn fresh_stamp() -> OsString {
    let now = jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S");
    OsString::from(format!("..{now}.{:010}", rand::random::<u32>()))
}

fn told<T, E: Into<io::Error>>(
    action: &'static str,
    name: impl AsRef<OsStr>,
    result: Result<T, E>,
) -> Result<T, WriteError> {
    result.map_err(|error| WriteError::Io {
        action,
        name: name.as_ref().to_owned(),
        source: error.into(),
    })
}

#[cfg(test)]
mod tests;
