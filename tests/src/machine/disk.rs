//! A disk of a machine's own, small enough to be filled, or to fail alone: a file that is mounted where the machine's
//! directory is, or a part of it.
//!
//! Whoever clears the ground unmounts it, and the loop device goes with the mount.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::boot::on_disk;
use crate::command::run;

/// Where a runtime has its root, in the directory of its machine.
pub const RUNTIME: &str = "containerd";

/// A disk of a machine's own, by its size in MiB; without one a machine shares the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// All that the machine has lies there.
    OfAll(u64),
    /// Images lie there, and what containers write beside their volumes.
    OfImages(u64),
    /// edgecore's store lies there, and nothing else.
    OfStore(u64),
}

/// The directory of edgecore's store.
const STORE: &str = "/var/lib/tombolo";

impl Disk {
    /// Makes the disk in `image`, and mounts it for the machine in `dir`.
    pub(super) fn mount(self, image: &Path, dir: &Path) -> Result<()> {
        let (mebibytes, at) = match self {
            Self::OfAll(mebibytes) => (mebibytes, dir.to_owned()),
            Self::OfImages(mebibytes) => (mebibytes, dir.join(RUNTIME)),
            Self::OfStore(mebibytes) => (mebibytes, of_store(dir)),
        };
        fs::create_dir_all(&at)?;
        File::create(image)?.set_len(mebibytes << 20)?;
        // Without blocks that are kept for root, what is free is free for all.
        let words = ["-q", "-m", "0"].map(OsStr::new);
        run("mkfs.ext4", words.into_iter().chain([image.as_os_str()]))?;
        mount(image, &at)
            .with_context(|| format!("a disk of {mebibytes} MiB needs a loop device (modprobe loop)"))
    }
}

fn mount(image: &Path, at: &Path) -> Result<()> {
    let words = ["-o", "loop,errors=remount-ro"].map(OsStr::new);
    run(
        "mount",
        words.into_iter().chain([image.as_os_str(), at.as_os_str()]),
    )
    .map(drop)
}

/// The kernel meets an error on the disk that is mounted `at`, and takes no more writes.
pub(super) fn fail(at: &Path) -> Result<()> {
    let words = ["-n", "-o", "SOURCE"].map(OsStr::new);
    let device = run("findmnt", words.into_iter().chain([at.as_os_str()]))?;
    let name = Path::new(device.trim())
        .file_name()
        .context("it has no disk of its own")?;
    let switch = Path::new("/sys/fs/ext4").join(name).join("trigger_fs_error");
    fs::write(&switch, "the testbed").with_context(|| format!("cannot write {}", switch.display()))
}

/// What a boot does to a disk that has failed: it is checked, and mounted again.
pub(super) fn mend(image: &Path, at: &Path) -> Result<()> {
    run("umount", [at.as_os_str()])?;
    // 1: there were errors, and they are mended.
    let script = "e2fsck -f -y \"$0\"; test $? -le 1";
    run("sh", ["-c".as_ref(), script.as_ref(), image.as_os_str()])?;
    mount(image, at)
}

/// Where the store's disk is, seen from the host.
pub(super) fn of_store(dir: &Path) -> PathBuf {
    on_disk(dir, STORE)
}
