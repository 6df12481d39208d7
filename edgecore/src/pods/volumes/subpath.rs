//! subPath: a part of a volume, bound to a place of ours that the pod cannot swap.
//!
//! The path is opened [beneath](beneath) the volume: links inside the volume are followed (a ConfigMap's keys are
//! links), none leads out of it. What was opened is what is bound; no name is looked up twice. A directory of the
//! device may have links that name its own place in full, `/data/current -> /data/releases/7`: such a path is
//! resolved first, and what comes out is opened without following any link.
//!
//! **Invariant:** a container gets a file or directory of the volume it names, whatever the pod does
//! meanwhile.

mod beneath;

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{Mode, fstat, mkdirat};

use super::{atomic, file, mounts, removal};
use beneath::{Links, Root};

/// What the links of a volume may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Naming {
    /// Where they lead to from where they stand.
    Relative,
    /// Also a place of the device in full, if it lies in the volume.
    Full,
}

/// Binds `sub_path` of `volume` to `target` and returns the place to mount. A missing path becomes a
/// directory with the volume's own mode.
pub(in super::super) fn bind(
    volume: (&Path, Naming),
    sub_path: &str,
    target: &Path,
) -> Result<PathBuf, String> {
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

fn bind_validated((volume, naming): (&Path, Naming), sub_path: &str, target: &Path) -> io::Result<PathBuf> {
    let volume = std::fs::canonicalize(volume)?;
    let root = Root::new(file::open_dir(&volume)?);
    let source = open((&root, &volume), naming, Path::new(sub_path))?;
    make_target(target, file::is_dir(&fstat(&source)?))?;
    mounts::bind(&source, target)?;
    Ok(target.to_owned())
}

fn open((root, volume): (&Root, &Path), naming: Naming, path: &Path) -> io::Result<OwnedFd> {
    match open_or_make(root, path, Links::Inside) {
        Err(error) if naming == Naming::Full && error.raw_os_error() == Some(Errno::EXDEV as i32) => {
            let resolved = resolve(volume, path).ok_or(error)?;
            open_or_make(root, &resolved, Links::None)
        }
        opened => opened,
    }
}

/// Where `path` leads to from the volume, without a link on the way; what is missing of it stays as it is.
/// Nothing when it is not below the volume.
fn resolve(volume: &Path, path: &Path) -> Option<PathBuf> {
    let mut existing = volume.join(path);
    let mut missing: Vec<OsString> = Vec::new();
    let real = loop {
        match std::fs::canonicalize(&existing) {
            Ok(real) => break real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing.push(existing.file_name()?.to_owned());
                existing.pop();
            }
            Err(_) => return None,
        }
    };
    let mut below = Path::new(".").join(real.strip_prefix(volume).ok()?);
    below.extend(missing.into_iter().rev());
    Some(below)
}

fn open_or_make(root: &Root, path: &Path, links: Links) -> io::Result<OwnedFd> {
    match root.open(path, links) {
        Err(Errno::ENOENT) => make(root, path, links),
        opened => Ok(opened?),
    }
}

fn make(root: &Root, path: &Path, links: Links) -> io::Result<OwnedFd> {
    let path = path
        .to_str()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let elements = atomic::validate(path).map_err(io::Error::other)?;
    let mode = Mode::from_bits_truncate(fstat(root.dir())?.st_mode & 0o7777);
    let mut at = root.dir().try_clone()?;
    for (depth, element) in elements.iter().enumerate() {
        let so_far = elements[..=depth].join("/");
        at = match root.open(Path::new(&so_far), links) {
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
        removal::remove_tree_at(file::open_dir(parent)?, target.file_name().unwrap_or_default())?;
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
            let told = bind((missing, Naming::Full), bad, Path::new("/nonexistent/target")).unwrap_err();
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
            bind((&volume, Naming::Relative), "a/b", &target).unwrap();
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
            bind((&volume, Naming::Relative), "key", &target).unwrap();
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
        for naming in [Naming::Relative, Naming::Full] {
            for path in ["absolute", "relative", "absolute/new", "relative/new"] {
                bind((&volume, naming), path, &scratch.path().join("bound/0")).unwrap_err();
            }
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn an_old_kernel_makes_and_opens_the_same_paths() {
        let scratch = Scratch::new("subpath-old");
        let volume = volume(&scratch);
        let root = Root::of_old_kernel(file::open_dir(&volume).unwrap());
        std::fs::create_dir(volume.join("releases")).unwrap();
        symlink("releases", volume.join("current")).unwrap();
        symlink("../..", volume.join("out")).unwrap();
        let open = |path: &str| open((&root, &volume), Naming::Relative, Path::new(path));
        open("current/7/data").unwrap();
        assert!(volume.join("releases/7/data").is_dir());
        for hostile in ["out", "out/x"] {
            assert_eq!(
                open(hostile).unwrap_err().raw_os_error(),
                Some(Errno::EXDEV as i32)
            );
        }
    }

    #[test]
    fn a_directory_of_the_device_may_have_links_that_name_its_own_place_in_full() {
        let scratch = Scratch::new("subpath-full");
        let volume = std::fs::canonicalize(volume(&scratch)).unwrap();
        std::fs::create_dir_all(volume.join("releases/7")).unwrap();
        std::fs::write(volume.join("releases/7/app"), "7").unwrap();
        symlink(volume.join("releases/7"), volume.join("current")).unwrap();
        symlink(volume.join("current"), volume.join("again")).unwrap();
        symlink(&volume, volume.join("itself")).unwrap();
        let dir = || file::open_dir(&volume).unwrap();
        for root in [Root::new(dir()), Root::of_old_kernel(dir())] {
            let open = |naming, path: &str| open((&root, &volume), naming, Path::new(path));
            for path in [
                "itself",
                "current",
                "current/app",
                "again/app",
                "current/made/anew",
            ] {
                open(Naming::Full, path).unwrap();
                assert!(open(Naming::Relative, path).is_err(), "{path}");
            }
            assert!(volume.join("releases/7/made/anew").is_dir());
            std::fs::remove_dir_all(volume.join("releases/7/made")).unwrap();
        }
    }

    #[test]
    fn links_in_full_that_lead_out_are_refused_on_both_ways() {
        let scratch = Scratch::new("subpath-full-hostile");
        let volume = std::fs::canonicalize(volume(&scratch)).unwrap();
        let beside = scratch.path().join("volume-2");
        std::fs::create_dir_all(&beside).unwrap();
        std::fs::create_dir(volume.join("in")).unwrap();
        let outside = [
            ("name-begins-alike", beside.clone()),
            ("climbs", volume.join("in/../../volume-2")),
            ("above", scratch.path().to_owned()),
            ("device", PathBuf::from("/etc")),
            ("nowhere", volume.join("in/missing")),
        ];
        for (name, target) in &outside {
            symlink(target, volume.join(name)).unwrap();
        }
        let dir = || file::open_dir(&volume).unwrap();
        for root in [Root::new(dir()), Root::of_old_kernel(dir())] {
            for (name, _) in &outside {
                open((&root, &volume), Naming::Full, Path::new(name)).unwrap_err();
            }
            for made in ["name-begins-alike/x", "climbs/x", "nowhere/x"] {
                open((&root, &volume), Naming::Full, Path::new(made)).unwrap_err();
            }
        }
        assert_eq!(std::fs::read_dir(&beside).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(volume.join("in")).unwrap().count(), 0);
    }
}
