//! Files below a directory that a pod may write to: opened, made and removed by descriptor.
//!
//! **Invariant:** no function here follows a symbolic link in the last step, or leaves the directory it was
//! given.

use std::fs::{File, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use nix::NixPath;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, fchown};

/// How a directory is opened.
pub(super) const DIR: OFlag = OFlag::O_DIRECTORY
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// Who a file belongs to and what may be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
}

impl Access {
    /// That of a volume's directory: everybody's, and what is made there belongs to the pod's group if it has one.
    pub(super) fn of_volume(fs_group: Option<u32>) -> Self {
        let (gid, mode) = fs_group.map_or((0, 0o777), |gid| (gid, 0o2777));
        Self { uid: 0, gid, mode }
    }

    /// That of the same on a tmpfs: sticky, as any is that is mounted without a mode of its own. A kubelet leaves
    /// it so.
    pub(super) const fn on_tmpfs(self) -> Self {
        Self {
            mode: self.mode | 0o1000,
            ..self
        }
    }
}

/// Opens a directory that we made ourselves.
pub(super) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(DIR.bits())
        .open(path)?;
    Ok(file.into())
}

/// Opens the directory `name` in `dir`.
pub(super) fn open_dir_at<P: NixPath + ?Sized>(dir: impl AsFd, name: &P) -> io::Result<OwnedFd> {
    Ok(openat(dir, name, DIR | OFlag::O_RDONLY, Mode::empty())?)
}

/// Opens the directory `name` in `dir`, made if it is not there.
pub(super) fn make_dir_at<P: NixPath + ?Sized>(dir: impl AsFd, name: &P, mode: u32) -> io::Result<OwnedFd> {
    match mkdirat(&dir, name, Mode::from_bits_truncate(0o700)) {
        Ok(()) => {
            let new = open_dir_at(&dir, name)?;
            set_mode(&new, mode)?;
            Ok(new)
        }
        Err(Errno::EEXIST) => open_dir_at(dir, name),
        Err(error) => Err(error.into()),
    }
}

/// Makes a new file in `dir` with everything it must have, on disk when this returns.
pub(super) fn create_at<P: NixPath + ?Sized>(
    dir: impl AsFd,
    name: &P,
    bytes: &[u8],
    access: Access,
) -> io::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(dir, name, flags, Mode::empty())?);
    file.write_all(bytes)?;
    set_access(&file, access)?;
    file.sync_all()
}

/// Sets owner, group and mode of an open file or directory.
pub(super) fn set_access(file: impl AsFd, access: Access) -> io::Result<()> {
    fchown(
        &file,
        Some(Uid::from_raw(access.uid)),
        Some(Gid::from_raw(access.gid)),
    )?;
    set_mode(file, access.mode)
}

fn set_mode(file: impl AsFd, mode: u32) -> io::Result<()> {
    Ok(nix::sys::stat::fchmod(file, Mode::from_bits_truncate(mode))?)
}

/// Reads a regular file in `dir`, at most `limit` bytes and one more.
pub(super) fn read_at<P: NixPath + ?Sized>(
    dir: impl AsFd,
    name: &P,
    limit: usize,
) -> io::Result<(Vec<u8>, Access)> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = File::from(openat(dir, name, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok((
        bytes,
        Access {
            uid: metadata.uid(),
            gid: metadata.gid(),
            mode: metadata.mode() & 0o7777,
        },
    ))
}

/// Writes a file of ours in place, so that containers that have it mounted see the new text.
pub(in super::super) fn overwrite(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(mode)
        .custom_flags(flags)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(format!(
            "{} is not a regular file",
            path.display()
        )));
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    file.set_len(0)?;
    file.write_all(bytes)
}

/// Reads the last `limit` bytes of a regular file, without following a link or waiting for a pipe.
pub(in super::super) fn read_end(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other(format!(
            "{} is not a regular file",
            path.display()
        )));
    }
    file.seek(SeekFrom::Start(metadata.len().saturating_sub(limit as u64)))?;
    let mut bytes = Vec::new();
    file.take(limit as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Names in a directory.
pub(super) fn names(dir: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    let again = openat(dir, c".", DIR | OFlag::O_RDONLY, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(again)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// `lstat` of `name` in `dir`.
pub(super) fn lstat_at<P: NixPath + ?Sized>(dir: impl AsFd, name: &P) -> io::Result<FileStat> {
    Ok(fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?)
}

/// Whether a `stat` is of a directory.
pub(super) fn is_dir(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
}

#[cfg(test)]
mod tests {
    use super::super::testing::Scratch;
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_no_regular_file_is_neither_read_nor_written() {
        let scratch = Scratch::new("special");
        let link = scratch.path().join("link");
        std::fs::write(scratch.path().join("real"), "secret").unwrap();
        symlink(scratch.path().join("real"), &link).unwrap();
        assert!(read_end(&link, 10).is_err());
        assert!(overwrite(&link, b"x", 0o644).is_err());
        let pipe = scratch.path().join("pipe");
        nix::unistd::mkfifo(&pipe, Mode::from_bits_truncate(0o600)).unwrap();
        assert!(read_end(&pipe, 10).is_err());
        assert!(read_end(scratch.path(), 10).is_err());
        assert_eq!(read_end(&scratch.path().join("real"), 3).unwrap(), b"ret");
    }
}
