//! How much of the disk a directory of a pod takes.
//!
//! As `du` counts: blocks rather than lengths, a file with several names once, and nothing of another file
//! system. The walk is slow on purpose, writes nothing (not even the time of the access), and may be called off.
//!
//! **Invariant:** no symbolic link is followed, and neither memory nor open files grow with what a pod has made.
//! What is nested deeper than [`DEEPEST`] or comes after so many entries is not counted, and the result says that
//! there is more: a pod must not hide what it has.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat};

use super::file::{is_dir, lstat_at, open_dir};

/// Far more than anybody nests who hides nothing.
const DEEPEST: usize = 256;
/// Of one directory of one pod; far more than a device keeps.
const MOST_ENTRIES: u64 = 10_000_000;
/// How many files with several names are remembered.
const MOST_NAMES: usize = 100_000;
/// After so many entries it makes a pause.
const PACE: (u64, Duration) = (256, Duration::from_millis(1));
/// What a block of `stat` is.
const BLOCK: u64 = 512;
const DIR: OFlag = OFlag::O_DIRECTORY
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// What is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Taken {
    pub(in super::super) bytes: u64,
    pub(in super::super) inodes: u64,
    /// There is more, which is not counted.
    pub(in super::super) cut: bool,
}

/// Measures the directory at `path`, but for what is called one of `skip` in it. What is not there takes nothing;
/// what cannot be read is not counted.
pub(in super::super) fn tree(path: &Path, skip: &[&str], stop: &AtomicBool) -> Taken {
    let mut walk = Walk {
        taken: Taken::default(),
        visited: 0,
        device: 0,
        named: BTreeSet::new(),
        stop,
    };
    if let Ok(top) = open_dir(path)
        && let Ok(stat) = fstat(&top)
    {
        walk.device = stat.st_dev;
        walk.count(&stat);
        // A directory that goes away meanwhile was counted as far as it was seen.
        let _ = walk.enter(&top, skip, 0);
    }
    walk.taken
}

struct Walk<'a> {
    taken: Taken,
    /// Entries, under whatever names: what the walk costs.
    visited: u64,
    device: nix::libc::dev_t,
    named: BTreeSet<nix::libc::ino_t>,
    stop: &'a AtomicBool,
}

impl Walk<'_> {
    fn enter(&mut self, dir: &OwnedFd, skip: &[&str], depth: usize) -> io::Result<()> {
        for entry in Dir::from_fd(open_quietly(dir, c".")?)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..")
                || skip.iter().any(|skip| name.to_bytes() == skip.as_bytes())
            {
                continue;
            }
            if depth > DEEPEST {
                self.taken.cut = true;
                return Ok(());
            }
            if self.is_over() {
                return Ok(());
            }
            // It may be gone by now.
            let Ok(stat) = lstat_at(dir, name) else { continue };
            if stat.st_dev != self.device {
                continue;
            }
            self.count(&stat);
            if is_dir(&stat)
                && let Ok(below) = open_quietly(dir, name)
            {
                let _ = self.enter(&below, &[], depth + 1);
            }
        }
        Ok(())
    }

    fn count(&mut self, stat: &FileStat) {
        if stat.st_nlink > 1 && !is_dir(stat) {
            if self.named.contains(&stat.st_ino) {
                return;
            }
            if self.named.len() >= MOST_NAMES {
                // Each of its names has its part: all of them together are the file.
                self.taken.bytes += bytes(stat) / stat.st_nlink;
                return;
            }
            self.named.insert(stat.st_ino);
        }
        self.taken.bytes += bytes(stat);
        self.taken.inodes += 1;
    }

    /// Whether the walk ends before one more entry.
    fn is_over(&mut self) -> bool {
        if self.visited.is_multiple_of(PACE.0) {
            std::thread::sleep(PACE.1);
        }
        if self.visited >= MOST_ENTRIES {
            self.taken.cut = true;
            return true;
        }
        self.visited += 1;
        self.stop.load(Ordering::Relaxed)
    }
}

/// What a file takes on the disk.
fn bytes(stat: &FileStat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK
}

/// Opens a directory to list it, without a note of it on the disk where that is allowed.
fn open_quietly(dir: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = DIR | OFlag::O_RDONLY;
    match openat(&dir, name, flags | OFlag::O_NOATIME, Mode::empty()) {
        Err(Errno::EPERM) => Ok(openat(&dir, name, flags, Mode::empty())?),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::make_dir_at;
    use super::super::removal::remove_tree_at;
    use super::super::testing::Scratch;
    use super::*;
    use std::os::unix::fs::symlink;

    fn taken(path: &Path) -> Taken {
        tree(path, &[], &AtomicBool::new(false))
    }

    #[test]
    fn what_a_pod_wrote_is_counted_and_what_it_only_points_at_is_not() {
        let scratch = Scratch::new("measure");
        let (volume, outside) = (scratch.path().join("volume"), scratch.path().join("outside"));
        std::fs::create_dir_all(volume.join("sub")).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        let empty = taken(&volume);
        std::fs::write(outside.join("big"), vec![1; 1 << 20]).unwrap();
        symlink(&outside, volume.join("link")).unwrap();
        symlink(outside.join("big"), volume.join("sub/link")).unwrap();
        let with_links = taken(&volume);
        assert_eq!(with_links.inodes, empty.inodes + 2);
        assert!(with_links.bytes < empty.bytes + (64 << 10), "{with_links:?}");
        std::fs::write(volume.join("sub/file"), vec![1; 256 << 10]).unwrap();
        std::fs::hard_link(volume.join("sub/file"), volume.join("again")).unwrap();
        let with_file = taken(&volume);
        let more = with_file.bytes - with_links.bytes;
        assert!((256 << 10..400 << 10).contains(&more), "once, not twice: {more}");
        assert_eq!(with_file.inodes, with_links.inodes + 1);
    }

    #[test]
    fn what_is_skipped_stands_at_the_top() {
        let scratch = Scratch::new("measure-skip");
        std::fs::create_dir_all(scratch.path().join("volumes/a")).unwrap();
        std::fs::create_dir_all(scratch.path().join("containers/volumes")).unwrap();
        std::fs::create_dir_all(scratch.path().join("subpaths/v/c")).unwrap();
        let skip = ["volumes", "subpaths"];
        let seen = tree(scratch.path(), &skip, &AtomicBool::new(false));
        assert_eq!(seen.inodes, 3);
    }

    #[test]
    fn a_tree_that_is_too_deep_is_left_at_some_depth_and_one_that_is_not_there_takes_nothing() {
        let scratch = Scratch::new("measure-deep");
        let mut at = open_dir(scratch.path()).unwrap();
        for _ in 0..1500 {
            at = make_dir_at(&at, "d", 0o755).unwrap();
        }
        drop(at);
        let seen = taken(scratch.path());
        assert_eq!((seen.inodes, seen.cut), (DEEPEST as u64 + 2, true));
        assert_eq!(taken(&scratch.path().join("nowhere")), Taken::default());
        let top = open_dir(scratch.path()).unwrap();
        remove_tree_at(top, std::ffi::OsStr::new("d")).unwrap();
    }

    #[test]
    fn as_deep_as_is_looked_nothing_is_hidden() {
        let scratch = Scratch::new("measure-edge");
        let deepest = scratch.path().join("d/".repeat(DEEPEST + 1));
        std::fs::create_dir_all(&deepest).unwrap();
        assert!(!taken(scratch.path()).cut);
        std::fs::write(deepest.join("hidden"), "x").unwrap();
        assert!(taken(scratch.path()).cut);
    }

    #[test]
    fn every_name_is_looked_at_once_more_and_counts_towards_the_bound() {
        let scratch = Scratch::new("measure-names");
        let stop = AtomicBool::new(false);
        let walk = |visited| {
            let top = open_dir(scratch.path()).unwrap();
            let mut walk = Walk {
                taken: Taken::default(),
                visited,
                device: fstat(&top).unwrap().st_dev,
                named: BTreeSet::new(),
                stop: &stop,
            };
            walk.enter(&top, &[], 0).unwrap();
            (walk.visited, walk.taken.inodes, walk.taken.cut)
        };
        std::fs::write(scratch.path().join("file"), "x").unwrap();
        for n in 0..9 {
            std::fs::hard_link(scratch.path().join("file"), scratch.path().join(n.to_string())).unwrap();
        }
        assert_eq!(walk(0), (10, 1, false));
        assert_eq!(walk(MOST_ENTRIES - 10), (MOST_ENTRIES, 1, false));
        assert_eq!(walk(MOST_ENTRIES - 4), (MOST_ENTRIES, 1, true));
    }

    #[test]
    fn a_file_with_several_names_that_cannot_be_remembered_counts_in_parts() {
        let scratch = Scratch::new("measure-many");
        let before = taken(scratch.path()).bytes;
        std::fs::write(scratch.path().join("file"), vec![1; 256 << 10]).unwrap();
        let once = taken(scratch.path()).bytes;
        std::fs::hard_link(scratch.path().join("file"), scratch.path().join("again")).unwrap();
        let top = open_dir(scratch.path()).unwrap();
        let mut walk = Walk {
            taken: Taken::default(),
            visited: 0,
            device: fstat(&top).unwrap().st_dev,
            named: (1..=MOST_NAMES as u64).map(|n| u64::MAX - n).collect(),
            stop: &AtomicBool::new(false),
        };
        walk.enter(&top, &[], 0).unwrap();
        assert_eq!(walk.taken.bytes, once - before);
    }

    #[test]
    fn a_walk_that_is_called_off_ends() {
        let scratch = Scratch::new("measure-off");
        std::fs::create_dir(scratch.path().join("a")).unwrap();
        assert_eq!(tree(scratch.path(), &[], &AtomicBool::new(true)).inodes, 1);
    }
}
