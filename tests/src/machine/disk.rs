//! A disk of a machine's own, small enough to be filled: a file that is mounted where the machine's directory is, or
//! the runtime's in it.
//!
//! Whoever clears the ground unmounts it, and the loop device goes with the mount.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::Path,
};

use anyhow::{Context, Result};

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
}

impl Disk {
    /// Makes the disk in `image`, and mounts it for the machine in `dir`.
    pub(super) fn mount(self, image: &Path, dir: &Path) -> Result<()> {
        let (mebibytes, at) = match self {
            Self::OfAll(mebibytes) => (mebibytes, dir.to_owned()),
            Self::OfImages(mebibytes) => (mebibytes, dir.join(RUNTIME)),
        };
        fs::create_dir_all(&at)?;
        File::create(image)?.set_len(mebibytes << 20)?;
        // Without blocks that are kept for root, what is free is free for all.
        let words = ["-q", "-m", "0"].map(OsStr::new);
        run("mkfs.ext4", words.into_iter().chain([image.as_os_str()]))?;
        let words = ["-o", "loop"].map(OsStr::new);
        run(
            "mount",
            words.into_iter().chain([image.as_os_str(), at.as_os_str()]),
        )
        .map(drop)
        .with_context(|| format!("a disk of {mebibytes} MiB needs a loop device (modprobe loop)"))
    }
}
