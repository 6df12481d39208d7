//! The end of a directory that a pod wrote to: what is mounted below it is unmounted, and then it is removed.
//!
//! Two locks, for behind a mount lies what is not ours (a subPath of a hostPath shows the site's own data).
//! Names are resolved before they are looked for in the mount table, which has no links in it; and the removal
//! opens no directory of another mount, so what the first lock missed is an error and not a loss.
//!
//! **Invariant:** nothing is removed that lies behind a symbolic link or a mount point.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, renameat};
use nix::sys::stat::fstat;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::file::{DIR, is_dir, lstat_at, names, open_dir, open_dir_at};
use super::mounts;

/// How deep a removal goes before it lifts what is deeper to the top.
const DEEPEST: usize = 48;

/// Removes `name` in the directory `parent`, once everything that is mounted at or below it is unmounted.
/// Where `parent` is not, there is nothing to remove; it may be a link.
pub(crate) fn take_down(parent: &Path, name: &OsStr) -> io::Result<()> {
    let parent = match parent.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        parent => parent?,
    };
    mounts::unmount_below(&parent.join(name))?;
    remove_tree_at(open_dir(&parent)?, name)
}

/// Removes everything that is in the directory `dir`, which may be a link; unmounts nothing.
pub(crate) fn empty(dir: &Path) -> io::Result<()> {
    match dir.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        dir => clear(&open_dir(&dir?)?),
    }
}

/// Removes `name` in `dir` with everything below it. Fails rather than enter another mount.
pub(super) fn remove_tree_at(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    let stat = match lstat_at(&dir, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if !is_dir(&stat) {
        return Ok(unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?);
    }
    let terminated = CString::new(name.as_bytes())?;
    clear(&open_same_mount(&dir, &terminated)?)?;
    Ok(unlinkat(dir, name, UnlinkatFlags::RemoveDir)?)
}

fn clear(top: &OwnedFd) -> io::Result<()> {
    let mut sweep = Sweep {
        top,
        device: fstat(top)?.st_dev,
        moved: 0,
    };
    while sweep.clear(top, 0)? {}
    Ok(())
}

/// One removal. What is nested too deep is moved to the top first, so neither the stack nor the number of
/// open files grows with what a pod has made.
struct Sweep<'a> {
    top: &'a OwnedFd,
    device: nix::libc::dev_t,
    moved: u64,
}

impl Sweep<'_> {
    /// Empties `dir`; says whether something was moved to the top and waits there.
    fn clear(&mut self, dir: &OwnedFd, depth: usize) -> io::Result<bool> {
        let mut again = false;
        for name in names(dir)? {
            let name = CString::new(name)?;
            let stat = lstat_at(dir, name.as_c_str())?;
            if !is_dir(&stat) {
                unlinkat(dir, name.as_c_str(), UnlinkatFlags::NoRemoveDir)?;
            } else if stat.st_dev != self.device {
                return Err(is_a_mount(&name));
            } else if depth >= DEEPEST {
                self.lift(dir, &name)?;
                again = true;
            } else {
                again |= self.clear(&open_same_mount(dir, &name)?, depth + 1)?;
                unlinkat(dir, name.as_c_str(), UnlinkatFlags::RemoveDir)?;
            }
        }
        Ok(again)
    }

    fn lift(&mut self, dir: &OwnedFd, name: &CStr) -> io::Result<()> {
        loop {
            self.moved += 1;
            match renameat(dir, name, self.top, format!("..deep-{}", self.moved).as_str()) {
                Ok(()) => return Ok(()),
                Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Opens the directory `name` in `dir`, unless it is a mount point. A bind mount of the same file system has
/// the same device number, so that cannot tell.
fn open_same_mount(dir: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(DIR | OFlag::O_RDONLY)
        .resolve(ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS);
    match openat2(&dir, name, how) {
        Ok(opened) => Ok(opened),
        Err(Errno::EXDEV) => Err(is_a_mount(name)),
        // Linux before 5.6, or forbidden where we run.
        Err(Errno::ENOSYS | Errno::EPERM) => open_by_mount_id(dir, name),
        Err(error) => Err(error.into()),
    }
}

fn open_by_mount_id(dir: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let opened = open_dir_at(&dir, name)?;
    if mount_id(&opened)? == mount_id(dir)? {
        Ok(opened)
    } else {
        Err(is_a_mount(name))
    }
}

/// The number of the mount that a file was opened on.
fn mount_id(file: impl AsFd) -> io::Result<u64> {
    let told = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_fd().as_raw_fd()))?;
    let id = told.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    id.and_then(|id| id.trim().parse().ok())
        .ok_or_else(|| io::Error::other("the kernel does not tell what is mounted where"))
}

fn is_a_mount(name: &CStr) -> io::Error {
    io::Error::other(format!("{} is a mount", name.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::super::file::make_dir_at;
    use super::super::subpath::{self, Naming};
    use super::super::testing::{Scratch, is_root};
    use super::*;

    /// `real/pods/u` with a directory of the site bound into it, reached by `link`; and the site's file.
    fn site(scratch: &Scratch) -> (PathBuf, PathBuf) {
        let (pod, site) = (scratch.path().join("real/pods/u"), scratch.path().join("site"));
        std::fs::create_dir_all(pod).unwrap();
        std::fs::create_dir_all(site.join("line7")).unwrap();
        std::fs::write(site.join("line7/recipe"), "precious").unwrap();
        symlink("real", scratch.path().join("link")).unwrap();
        let pods = scratch.path().join("link/pods");
        for _ in 0..2 {
            let place = pods.join("u/volume-subpaths/v/c/0");
            subpath::bind((&site, Naming::Full), "line7", &place).unwrap();
        }
        (pods, site.join("line7/recipe"))
    }

    #[test]
    fn removing_a_tree_never_follows_a_link_out_of_it() {
        let scratch = Scratch::new("remove-links");
        let outside = scratch.path().join("outside");
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("precious"), "x").unwrap();
        std::fs::create_dir_all(scratch.path().join("tree/sub")).unwrap();
        symlink(&outside, scratch.path().join("tree/link")).unwrap();
        symlink(&outside, scratch.path().join("tree/sub/link")).unwrap();

        remove_tree_at(open_dir(scratch.path()).unwrap(), OsStr::new("tree")).unwrap();

        assert!(!scratch.path().join("tree").exists());
        assert_eq!(std::fs::read_to_string(outside.join("precious")).unwrap(), "x");
    }

    #[test]
    fn a_tree_of_any_depth_is_removed() {
        let scratch = Scratch::new("remove-deep");
        let mut at = open_dir(scratch.path()).unwrap();
        for _ in 0..1500 {
            at = make_dir_at(&at, "d", 0o755).unwrap();
        }
        drop(at);
        remove_tree_at(open_dir(scratch.path()).unwrap(), OsStr::new("d")).unwrap();
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_sub_path_shows_outlives_its_pod_though_the_pods_are_behind_a_link() {
        if !is_root() {
            return;
        }
        let scratch = Scratch::new("remove-linked");
        let (pods, precious) = site(&scratch);
        take_down(&pods, OsStr::new("u")).unwrap();
        assert_eq!(std::fs::read_to_string(precious).unwrap(), "precious");
        assert_eq!(std::fs::read_dir(pods).unwrap().count(), 0);
    }

    #[test]
    fn a_mount_of_the_same_file_system_that_was_missed_is_an_error_and_not_a_loss() {
        if !is_root() {
            return;
        }
        let scratch = Scratch::new("remove-missed");
        let (pods, precious) = site(&scratch);
        let removed = remove_tree_at(open_dir(&pods.canonicalize().unwrap()).unwrap(), OsStr::new("u"));
        assert!(removed.unwrap_err().to_string().contains("0 is a mount"));
        empty(&pods).unwrap_err();
        let holder = open_dir(&pods.join("u/volume-subpaths/v/c")).unwrap();
        open_by_mount_id(&holder, c"0").unwrap_err();
        open_by_mount_id(open_dir(scratch.path()).unwrap(), c"site").unwrap();
        assert_eq!(std::fs::read_to_string(precious).unwrap(), "precious");
    }

    #[test]
    fn a_directory_is_emptied_behind_its_link() {
        let scratch = Scratch::new("remove-empty");
        std::fs::create_dir_all(scratch.path().join("real/a/b")).unwrap();
        symlink("real", scratch.path().join("link")).unwrap();
        empty(&scratch.path().join("link")).unwrap();
        empty(&scratch.path().join("nowhere")).unwrap();
        assert_eq!(std::fs::read_dir(scratch.path().join("real")).unwrap().count(), 0);
    }
}
