//! subPath: a part of a volume, bound to a place of ours that the pod cannot swap.
//!
//! The path is resolved by the kernel with `RESOLVE_BENEATH`: links inside the volume are followed (a
//! ConfigMap's keys are links), none leads out of it. What was opened is what is bound; no name is looked
//! up twice.
//!
//! **Invariant:** a container gets a file or directory of the volume it names, whatever the pod does
//! meanwhile.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, fstat, mkdirat};

use super::{atomic, file, mounts};

/// Binds `sub_path` of `volume` to `target` and returns the place to mount. A missing path becomes a
/// directory with the volume's own mode.
pub(in super::super) fn bind(volume: &Path, sub_path: &str, target: &Path) -> Result<PathBuf, String> {
    if sub_path.starts_with('/') {
        return Err(format!("error SubPath `{sub_path}` must not be an absolute path"));
    }
    if sub_path.split('/').any(|part| part == "..") {
        return Err(format!(
            "unable to provision SubPath `{sub_path}`: must not contain '..'"
        ));
    }
    bind_validated(volume, sub_path, target).map_err(|error| error.to_string())
}

fn bind_validated(volume: &Path, sub_path: &str, target: &Path) -> io::Result<PathBuf> {
    let root = file::open_dir(&std::fs::canonicalize(volume)?)?;
    let source = match open_beneath(&root, sub_path) {
        Err(Errno::ENOENT) => make_beneath(&root, sub_path)?,
        other => other?,
    };
    make_target(target, file::is_dir(&fstat(&source)?))?;
    mounts::bind(&source, target)?;
    Ok(target.to_owned())
}

fn open_beneath(root: impl AsFd, path: &str) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

fn make_beneath(root: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    let elements = atomic::validate(path).map_err(io::Error::other)?;
    let mode = Mode::from_bits_truncate(fstat(root)?.st_mode & 0o7777);
    let mut at = root.try_clone()?;
    for (depth, element) in elements.iter().enumerate() {
        let so_far = elements[..=depth].join("/");
        at = match open_beneath(root, &so_far) {
            Err(Errno::ENOENT) => {
                mkdirat(&at, *element, mode)?;
                let new = file::open_dir_at(&at, *element)?;
                nix::sys::stat::fchmod(&new, mode)?;
                new
            }
            other => other?,
        };
    }
    Ok(at)
}

fn make_target(target: &Path, dir: bool) -> io::Result<()> {
    let Some(parent) = target.parent() else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    std::fs::create_dir_all(parent)?;
    if std::fs::symlink_metadata(target).is_ok_and(|found| found.is_dir() != dir) {
        mounts::unmount_below(target)?;
        file::remove_tree_at(file::open_dir(parent)?, target.file_name().unwrap_or_default())?;
    }
    if dir {
        std::fs::create_dir_all(target)
    } else {
        touch(target)
    }
}

fn touch(target: &Path) -> io::Result<()> {
    match std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(target)
    {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::atomic::{PayloadFile, write};
    use super::super::testing::{Scratch, is_root};
    use super::*;

    fn volume(scratch: &Scratch) -> PathBuf {
        let volume = scratch.path().join("volume");
        std::fs::create_dir_all(&volume).unwrap();
        volume
    }

    #[test]
    fn paths_that_climb_are_refused_before_the_disk_is_touched() {
        let missing = Path::new("/nonexistent/volume");
        for bad in ["../../x", "a/../../x", "..", "/etc"] {
            let told = bind(missing, bad, Path::new("/nonexistent/target")).unwrap_err();
            assert!(told.contains("SubPath"), "{told}");
        }
    }

    #[test]
    fn a_missing_sub_path_becomes_a_directory_like_its_volume() {
        if !is_root() {
            return;
        }
        let scratch = Scratch::new("subpath-make");
        let volume = volume(&scratch);
        let target = scratch.path().join("bound/0");
        for _ in 0..2 {
            bind(&volume, "a/b", &target).unwrap();
        }
        std::fs::write(target.join("x"), "1").unwrap();
        assert_eq!(std::fs::read_to_string(volume.join("a/b/x")).unwrap(), "1");
    }

    #[test]
    fn a_key_of_a_config_map_can_be_bound_through_its_links() {
        if !is_root() {
            return;
        }
        let scratch = Scratch::new("subpath-key");
        let volume = volume(&scratch);
        let file = |text: &str| PayloadFile {
            bytes: text.as_bytes().to_vec(),
            mode: 0o644,
            uid: None,
        };
        let target = scratch.path().join("bound/0");
        for text in ["one", "two"] {
            write(&volume, &[("key".to_owned(), file(text))].into(), None).unwrap();
            bind(&volume, "key", &target).unwrap();
            assert_eq!(std::fs::read_to_string(&target).unwrap(), text);
        }
    }

    #[test]
    fn a_link_out_of_the_volume_is_never_bound() {
        if !is_root() {
            return;
        }
        let scratch = Scratch::new("subpath-escape");
        let volume = volume(&scratch);
        let outside = scratch.path().join("outside");
        std::fs::create_dir_all(&outside).unwrap();
        symlink(&outside, volume.join("absolute")).unwrap();
        symlink("../outside", volume.join("relative")).unwrap();
        for path in ["absolute", "relative", "absolute/new", "relative/new"] {
            bind(&volume, path, &scratch.path().join("bound/0")).unwrap_err();
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }
}
