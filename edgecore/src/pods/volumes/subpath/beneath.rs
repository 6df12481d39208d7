//! Opening a path below a directory, whatever links stand on the way.
//!
//! The kernel does it (`openat2`, since 5.6). An older one is asked for one element after another, without
//! following a link: a link is read, and its text walked in its place.
//!
//! **Invariant:** what is opened was below the root while it was opened: nothing is looked up by a name that
//! begins anywhere else, and `..` goes back to a directory that is held open.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat};

const HANDLE: OFlag = OFlag::O_PATH.union(OFlag::O_CLOEXEC);
/// As many links as the kernel follows on one way.
const MOST_LINKS: u32 = 40;

/// Which links on the way are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Links {
    /// Those that stay below the root, step by step.
    Inside,
    /// None.
    None,
}

type Ask = fn(BorrowedFd<'_>, &Path, ResolveFlag) -> nix::Result<OwnedFd>;

/// The directory below which everything is opened.
#[derive(Debug)]
pub(super) struct Root {
    dir: OwnedFd,
    ask: Ask,
}

impl Root {
    /// Below this directory, which no pod can swap any more.
    pub(super) fn new(dir: OwnedFd) -> Self {
        Self { dir, ask: ask_kernel }
    }

    /// Of a kernel without `openat2`.
    #[cfg(test)]
    pub(super) fn of_old_kernel(dir: OwnedFd) -> Self {
        let ask: Ask = |_, _, _| Err(Errno::ENOSYS);
        Self { dir, ask }
    }

    /// The directory itself.
    pub(super) fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// Opens `path`, which is relative, as a handle. `EXDEV` when it leads out of the root.
    pub(super) fn open(&self, path: &Path, links: Links) -> nix::Result<OwnedFd> {
        let resolve = match links {
            Links::Inside => ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS,
            Links::None => ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS,
        };
        match (self.ask)(self.dir.as_fd(), path, resolve) {
            // Linux before 5.6, or forbidden where we run.
            Err(Errno::ENOSYS | Errno::EPERM) => self.walk(path, links),
            opened => opened,
        }
    }

    fn walk(&self, path: &Path, links: Links) -> nix::Result<OwnedFd> {
        let mut way = VecDeque::new();
        put_first(&mut way, path)?;
        // The directories below the root that were come through, the innermost last.
        let mut through: Vec<OwnedFd> = Vec::new();
        let mut followed = 0;
        while let Some(element) = way.pop_front() {
            if element == ".." {
                through.pop().ok_or(Errno::EXDEV)?;
                continue;
            }
            let at = through.last().unwrap_or(&self.dir);
            let found = openat(at, element.as_os_str(), HANDLE | OFlag::O_NOFOLLOW, Mode::empty())?;
            if !is_link(&found)? {
                through.push(found);
                continue;
            }
            followed += 1;
            if links == Links::None || followed > MOST_LINKS {
                return Err(Errno::ELOOP);
            }
            let target = readlinkat(&found, "")?;
            put_first(&mut way, Path::new(&target))?;
        }
        match through.pop() {
            Some(found) => Ok(found),
            None => self.dir.try_clone().map_err(|error| errno(&error)),
        }
    }
}

fn ask_kernel(root: BorrowedFd<'_>, path: &Path, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    openat2(root, path, OpenHow::new().flags(HANDLE).resolve(resolve))
}

/// Puts the elements of `path` before those that are still to come.
fn put_first(way: &mut VecDeque<OsString>, path: &Path) -> nix::Result<()> {
    if path.as_os_str().is_empty() {
        return Err(Errno::ENOENT);
    }
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => way.push_front(name.to_owned()),
            Component::ParentDir => way.push_front(OsString::from("..")),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return Err(Errno::EXDEV),
        }
    }
    Ok(())
}

fn is_link(found: &OwnedFd) -> nix::Result<bool> {
    let kind = SFlag::from_bits_truncate(fstat(found)?.st_mode) & SFlag::S_IFMT;
    Ok(kind == SFlag::S_IFLNK)
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::super::file;
    use super::super::super::testing::Scratch;
    use super::*;

    /// Both ways below one volume, which has a neighbour to break out to.
    fn roots(scratch: &Scratch) -> [Root; 2] {
        let volume = scratch.path().join("volume");
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::create_dir_all(scratch.path().join("outside")).unwrap();
        fs::write(volume.join("a/b/file"), "inside").unwrap();
        fs::write(scratch.path().join("outside/file"), "outside").unwrap();
        let open = || file::open_dir(&volume).unwrap();
        [Root::new(open()), Root::of_old_kernel(open())]
    }

    fn read(root: &Root, path: &str, links: Links) -> Result<String, Errno> {
        use std::os::fd::AsRawFd as _;
        let handle = root.open(Path::new(path), links)?;
        let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
        fs::read_to_string(path).map_err(|error| errno(&error))
    }

    #[test]
    fn a_kernel_without_the_call_and_one_with_it_open_the_same() {
        let scratch = Scratch::new("beneath-same");
        let roots = roots(&scratch);
        let volume = scratch.path().join("volume");
        symlink("a", volume.join("dir")).unwrap();
        symlink("../b/./file", volume.join("a/b/up")).unwrap();
        symlink("b/up", volume.join("a/twice")).unwrap();
        symlink("a/b/../b/file", volume.join("there-and-back")).unwrap();
        for root in &roots {
            for path in [
                "a/b/file",
                "dir/b/file",
                "a/b/up",
                "dir/twice",
                "there-and-back",
                "./a//b/file",
            ] {
                assert_eq!(read(root, path, Links::Inside).as_deref(), Ok("inside"), "{path}");
            }
            assert_eq!(read(root, "a/b/file", Links::None).as_deref(), Ok("inside"));
            for link in ["dir/b/file", "a/b/up", "there-and-back"] {
                assert_eq!(read(root, link, Links::None), Err(Errno::ELOOP), "{link}");
            }
            assert_eq!(read(root, "a/missing", Links::Inside), Err(Errno::ENOENT));
            assert_eq!(read(root, "a/b/file/x", Links::Inside), Err(Errno::ENOTDIR));
            assert!(
                root.open(Path::new("."), Links::Inside).is_ok(),
                "the root itself"
            );
        }
    }

    #[test]
    fn no_hostile_link_leads_out_on_either_way() {
        let scratch = Scratch::new("beneath-hostile");
        let roots = roots(&scratch);
        let volume = scratch.path().join("volume");
        symlink(scratch.path().join("outside"), volume.join("absolute")).unwrap();
        symlink("../outside", volume.join("relative")).unwrap();
        symlink("../../outside", volume.join("a/deep")).unwrap();
        symlink("a/../../outside", volume.join("around")).unwrap();
        symlink("relative", volume.join("chained")).unwrap();
        symlink("/proc/self/root", volume.join("magic")).unwrap();
        symlink("..", volume.join("above")).unwrap();
        symlink("round", volume.join("round")).unwrap();
        for root in &roots {
            for path in [
                "absolute/file",
                "relative/file",
                "a/deep/file",
                "around/file",
                "chained/file",
                "magic/etc/hostname",
                "above/outside/file",
                "../outside/file",
                "/etc/hostname",
            ] {
                assert_eq!(read(root, path, Links::Inside), Err(Errno::EXDEV), "{path}");
            }
            assert_eq!(read(root, "round", Links::Inside), Err(Errno::ELOOP));
        }
    }

    #[test]
    fn a_directory_that_is_swapped_for_a_link_on_the_way_is_not_left() {
        let scratch = Scratch::new("beneath-swap");
        let [_, old] = roots(&scratch);
        let volume = scratch.path().join("volume");
        // What was opened before the swap stays what it was: `..` leads back through it, not through the link.
        symlink("a/b/../../a/b/file", volume.join("way")).unwrap();
        assert_eq!(read(&old, "way", Links::Inside).as_deref(), Ok("inside"));
        fs::rename(volume.join("a"), volume.join("c")).unwrap();
        symlink("../outside", volume.join("a")).unwrap();
        assert_eq!(read(&old, "way", Links::Inside), Err(Errno::EXDEV));
    }
}
