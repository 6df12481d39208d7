//! Mounts below a pod's directory: memory-backed volumes and sub paths, and their end.
//!
//! The table of mounts has names without links, so a path is resolved before it is looked for there.
//!
//! **Invariant:** only what stands in `/proc/self/mountinfo` below the given directory is unmounted.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tracing::warn;

use crate::node::observe;

/// Whether the kernel knows `noswap`, as far as is known. Linux does from 6.4.
static KNOWS_NOSWAP: AtomicBool = AtomicBool::new(true);

/// Mounts a tmpfs at `path`, unless one is there. `options` as for `mount -o`. What is in it stays out of swap, where
/// the kernel can see to that.
pub(super) fn ensure_tmpfs(path: &Path, flags: MsFlags, options: &str) -> io::Result<()> {
    if is_mount_point(path)? {
        return Ok(());
    }
    let at = |options: &str| mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options));
    if without_swap(options, &KNOWS_NOSWAP, at)? && observe::swap(Path::new("/")) {
        warn!(
            "swap is on, and this kernel cannot keep Secrets and tokens of pods out of it (Linux 6.4 can): swapoff -a, \
             and remove it from /etc/fstab"
        );
    }
    Ok(())
}

/// Mounts with `noswap`, or without where the kernel does not know it. Tells whether that was learnt now.
fn without_swap(
    options: &str,
    knows_noswap: &AtomicBool,
    mount: impl Fn(&str) -> nix::Result<()>,
) -> nix::Result<bool> {
    if knows_noswap.load(Ordering::Relaxed) {
        match mount(&format!("{options},noswap")) {
            Err(Errno::EINVAL) => {}
            other => return other.map(|()| false),
        }
    }
    // Where this fails too, it was not for that option.
    mount(options)?;
    Ok(knows_noswap.swap(false, Ordering::Relaxed))
}

/// Binds what `source` is open on to `target`, in place of what was bound there before.
pub(super) fn bind(source: impl AsFd, target: &Path) -> io::Result<()> {
    if is_mount_point(target)? {
        unmount(target)?;
    }
    let source = PathBuf::from(format!("/proc/self/fd/{}", source.as_fd().as_raw_fd()));
    Ok(mount(
        Some(&source),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )?)
}

/// Unmounts everything mounted at or below `dir`, the innermost first. A link at `dir` itself is not followed.
pub(in super::super) fn unmount_below(dir: &Path) -> io::Result<()> {
    let dir = match resolved(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        dir => dir?,
    };
    let mut points = mount_points()?;
    points.retain(|point| point.starts_with(&dir));
    for point in points.iter().rev() {
        unmount(point)?;
    }
    Ok(())
}

fn unmount(path: &Path) -> io::Result<()> {
    let told = |error| io::Error::other(format!("unmount {}: {error}", path.display()));
    umount2(path, MntFlags::UMOUNT_NOFOLLOW).map_err(told)
}

fn is_mount_point(path: &Path) -> io::Result<bool> {
    let Some(parent) = path.parent() else {
        return Ok(true);
    };
    let here = std::fs::symlink_metadata(path)?;
    if here.dev() != std::fs::symlink_metadata(parent)?.dev() {
        return Ok(true);
    }
    // A bind mount of the same file system shows only in the table.
    let path = resolved(path)?;
    Ok(mount_points()?.contains(&path))
}

/// The path without links in its directories.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return path.canonicalize();
    };
    Ok(parent.canonicalize()?.join(name))
}

/// Mount points in the order they were mounted.
fn mount_points() -> io::Result<Vec<PathBuf>> {
    Ok(points_of(&std::fs::read("/proc/self/mountinfo")?))
}

/// Any name in the table may be other than UTF-8: somebody's USB stick must not hide the rest.
fn points_of(table: &[u8]) -> Vec<PathBuf> {
    let point = |line: &[u8]| line.split(|byte| *byte == b' ').nth(4).map(unescape);
    table.split(|byte| *byte == b'\n').filter_map(point).collect()
}

/// `\040` and its like as the bytes they stand for.
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scratch, is_root};
    use super::*;

    /// How a kernel answers to an option, and what it was asked with.
    fn told(answers: &[nix::Result<()>], knows: &AtomicBool) -> (nix::Result<bool>, Vec<String>) {
        let asked = std::cell::RefCell::new(Vec::new());
        let done = without_swap("size=1", knows, |options| {
            asked.borrow_mut().push(options.to_owned());
            answers[asked.borrow().len() - 1]
        });
        (done, asked.into_inner())
    }

    #[test]
    fn memory_of_pods_stays_out_of_swap_where_the_kernel_can_see_to_that() {
        let knows = AtomicBool::new(true);
        let with = "size=1,noswap".to_owned();
        let without = "size=1".to_owned();
        assert_eq!(told(&[Ok(())], &knows), (Ok(false), vec![with.clone()]));
        let wrong = [Err(Errno::EINVAL), Err(Errno::EINVAL)];
        let both = vec![with, without.clone()];
        assert_eq!(told(&wrong, &knows), (Err(Errno::EINVAL), both.clone()));
        assert_eq!(told(&[Err(Errno::EPERM)], &knows).0, Err(Errno::EPERM));
        assert_eq!(told(&[Err(Errno::EINVAL), Ok(())], &knows), (Ok(true), both));
        assert_eq!(
            told(&[Ok(())], &knows),
            (Ok(false), vec![without]),
            "it is remembered"
        );
    }

    #[test]
    fn a_tmpfs_is_mounted_with_noswap_from_the_kernel_on_that_knows_it() {
        let version = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        if !is_root() || observe::kernel_numbers(version.trim()) < (6, 4) {
            return;
        }
        let scratch = Scratch::new("noswap");
        ensure_tmpfs(scratch.path(), MsFlags::empty(), "mode=0755").unwrap();
        let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let path = scratch.path().to_str().unwrap();
        let line = table.lines().find(|line| line.contains(path)).unwrap();
        assert!(line.contains(",noswap"), "{line}");
    }

    #[test]
    fn mount_points_are_read_with_their_spaces() {
        assert_eq!(unescape(br"/a\040b\134c"), PathBuf::from("/a b\\c"));
        assert_eq!(unescape(br"/a\04"), PathBuf::from("/a\\04"));
        assert!(mount_points().unwrap().contains(&PathBuf::from("/")));
    }

    #[test]
    fn a_name_that_is_not_utf8_hides_no_other_mount() {
        let table = b"40 22 0:1 / /media/M\xfcller rw - vfat /dev/sdb rw\n\
            41 22 0:2 / /var/lib/kubelet/pods/a/v rw - tmpfs tmpfs rw\n";
        let points = points_of(table);
        assert_eq!(points[1], PathBuf::from("/var/lib/kubelet/pods/a/v"));
    }

    #[test]
    fn a_tmpfs_is_mounted_once_and_taken_down() {
        if !is_root() {
            return;
        }
        let scratch = Scratch::new("tmpfs");
        let point = scratch.path().join("with space");
        std::fs::create_dir(&point).unwrap();
        for _ in 0..2 {
            ensure_tmpfs(&point, MsFlags::empty(), "size=1m,mode=0777").unwrap();
        }
        assert_eq!(
            mount_points()
                .unwrap()
                .iter()
                .filter(|mounted| **mounted == point)
                .count(),
            1
        );
        unmount_below(scratch.path()).unwrap();
        assert!(!is_mount_point(&point).unwrap());
    }
}
