//! emptyDir: a directory of the pod's own, on disk or in memory.
//!
//! **Invariant:** on disk it appears under its name only when its owner and mode are set, so what a pod has
//! written is never touched again by a restart of edgecore.

use std::io;
use std::path::Path;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};
use nix::mount::MsFlags;

use super::super::resources;
use super::file::{self, Access};
use super::mounts;

/// How an emptyDir is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EmptyDir {
    /// On disk.
    Disk,
    /// A tmpfs of at most this many bytes.
    Memory { size: u64 },
}

impl EmptyDir {
    /// As the pod wants it. A tmpfs is as large as the device's memory, the pod's memory limit or
    /// `sizeLimit`, whichever is least.
    pub(super) fn of(source: &EmptyDirVolumeSource, pod: &Pod, memory_capacity: u64) -> Self {
        if source.medium.as_deref() != Some("Memory") {
            return Self::Disk;
        }
        let limit = source.size_limit.as_ref().and_then(resources::whole);
        let bounds = [limit, resources::pod_limits(pod).memory];
        let bounds = bounds
            .into_iter()
            .flatten()
            .filter_map(|bound| u64::try_from(bound).ok());
        Self::Memory {
            size: bounds.filter(|bound| *bound > 0).fold(memory_capacity, u64::min),
        }
    }

    /// Makes it at `path`. Idempotent.
    pub(super) fn make(self, path: &Path, fs_group: Option<u32>) -> io::Result<()> {
        let access = Access::of_volume(fs_group);
        make_dir(path, access)?;
        let Self::Memory { size } = self else {
            return Ok(());
        };
        let Access { uid, gid, mode } = access.on_tmpfs();
        let options = format!("size={size},mode={mode:o},uid={uid},gid={gid}");
        mounts::ensure_tmpfs(path, MsFlags::empty(), &options)
    }
}

/// Makes the directory under another name first.
fn make_dir(path: &Path, access: Access) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return Err(io::Error::other(format!("{} is not a directory", path.display()))),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) => {}
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    std::fs::create_dir_all(parent)?;
    let unfinished = parent.join(format!(".{}.unfinished", name.display()));
    match std::fs::create_dir(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => file::set_access(file::open_dir(&unfinished)?, access)?,
    }
    std::fs::rename(&unfinished, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::super::super::spec::testing::pod;
    use super::super::testing::{Scratch, is_root};
    use super::*;

    fn source(json: &str) -> EmptyDirVolumeSource {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn memory_is_bounded_by_the_least_of_device_pod_and_volume() {
        let limited = pod(r#"{"containers":[{"name":"a","resources":{"limits":{"memory":"64Mi"}}}]}"#);
        let size = |json: &str, pod: &Pod| EmptyDir::of(&source(json), pod, 1 << 30);
        assert_eq!(size("{}", &limited), EmptyDir::Disk);
        assert_eq!(
            size(r#"{"medium":"Memory"}"#, &pod("{}")),
            EmptyDir::Memory { size: 1 << 30 }
        );
        assert_eq!(
            size(r#"{"medium":"Memory"}"#, &limited),
            EmptyDir::Memory { size: 64 << 20 }
        );
        let both = size(r#"{"medium":"Memory","sizeLimit":"1Mi"}"#, &limited);
        assert_eq!(both, EmptyDir::Memory { size: 1 << 20 });
    }

    #[test]
    fn what_a_pod_wrote_and_did_to_its_directory_stays() {
        if !is_root() {
            return;
        }
        let scratch = Scratch::new("empty-dir");
        let path = scratch.path().join("volumes/cache");
        EmptyDir::Disk.make(&path, Some(2000)).unwrap();
        let made = std::fs::metadata(&path).unwrap();
        assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (0, 2000, 0o2777));
        std::fs::write(path.join("kept"), "x").unwrap();
        std::os::unix::fs::chown(&path, Some(7), Some(7)).unwrap();
        EmptyDir::Disk.make(&path, Some(2000)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().gid(), 7);
        assert!(path.join("kept").exists());
    }

    #[test]
    fn a_memory_directory_is_a_tmpfs_of_its_size_and_group() {
        if !is_root() {
            return;
        }
        let scratch = Scratch::new("empty-dir-memory");
        let path = scratch.path().join("shm");
        let dir = EmptyDir::Memory { size: 1 << 20 };
        dir.make(&path, Some(2000)).unwrap();
        std::fs::write(path.join("kept"), "x").unwrap();
        dir.make(&path, Some(2000)).unwrap();
        let stat = nix::sys::statfs::statfs(&path).unwrap();
        assert_eq!(stat.filesystem_type(), nix::sys::statfs::TMPFS_MAGIC);
        assert_eq!(stat.blocks() * u64::try_from(stat.block_size()).unwrap(), 1 << 20);
        let made = std::fs::metadata(&path).unwrap();
        assert_eq!((made.gid(), made.mode() & 0o7777), (2000, 0o3777));
        assert!(path.join("kept").exists());
    }

    #[test]
    fn a_half_made_directory_is_finished() {
        let scratch = Scratch::new("empty-dir-half");
        std::fs::create_dir(scratch.path().join(".cache.unfinished")).unwrap();
        if is_root() {
            EmptyDir::Disk.make(&scratch.path().join("cache"), None).unwrap();
            assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
        }
    }
}
