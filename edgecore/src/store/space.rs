//! Room on the disk: what is kept free for the store, and what is given up for it.
//!
//! The engine cannot open a database on a full disk, for it writes while it opens. So the store refuses to
//! commit a little before the disk is full, and keeps a *ballast*: a file of 8 MiB that is removed when the
//! store must be opened and others have filled the disk. It is made again once there is plenty of room.

use super::{
    QUARANTINED, StoreError,
    place::remove_all,
    recovery::{SAYS, tail_of},
    tail,
};
use nix::{fcntl::posix_fallocate, sys::statvfs::statvfs};
use parking_lot::Mutex;
use std::{
    fs::{self, File},
    path::PathBuf,
};

/// The ballast's size.
const BALLAST_BYTES: u64 = 8 * 1024 * 1024;
/// A commit must leave this much: enough to open the databases again.
const RESERVE_BYTES: u64 = 4 * 1024 * 1024;
/// The ballast is made when more than this share of the disk is free, in percent.
const PLENTY_PERCENT: u64 = 15;

/// The room of the file system below a store's directory.
#[derive(Debug)]
pub(super) struct Space {
    root: PathBuf,
    /// Whether the ballast is there.
    ballast: Mutex<bool>,
}

impl Space {
    pub(super) fn of(root: PathBuf) -> Self {
        let there = fs::metadata(root.join("ballast")).is_ok_and(|meta| meta.len() == BALLAST_BYTES);
        Self {
            root,
            ballast: Mutex::new(there),
        }
    }

    /// Whether `bytes` more may be written; else the error that says so. Makes the ballast when it is time.
    pub(super) fn check(&self, bytes: u64) -> Result<(), StoreError> {
        let Some((free, total)) = self.measure() else {
            return Ok(());
        };
        if free < RESERVE_BYTES + bytes {
            return Err(self.full());
        }
        if free > BALLAST_BYTES + RESERVE_BYTES && free * 100 > total * PLENTY_PERCENT {
            self.keep_ballast();
        }
        Ok(())
    }

    /// Whether opening a database may fail for want of room.
    pub(super) fn is_tight(&self) -> bool {
        self.measure().is_some_and(|(free, _)| free < RESERVE_BYTES)
    }

    /// Gives up what the store can do without: databases put aside, and the ballast.
    pub(super) fn make_room(&self) {
        let mut there = self.ballast.lock();
        let aside = ["meta", "outbox", "objects/meta", "objects/outbox"];
        for path in aside.map(|name| self.root.join(name).with_extension(QUARANTINED)) {
            drop(remove_all(&path));
        }
        drop(fs::remove_file(tail::aside(&tail_of(&self.root, SAYS))));
        if fs::remove_file(self.root.join("ballast")).is_ok() {
            tracing::warn!("the disk is full; the store's ballast is given up");
        }
        *there = false;
    }

    /// The error of a full disk, with its remedy.
    pub(super) fn full(&self) -> StoreError {
        StoreError::Full {
            path: self.root.clone(),
            free: self.measure().unwrap_or_default().0,
        }
    }

    /// The error of a commit during which the disk was filled.
    pub(super) fn filled(&self) -> StoreError {
        StoreError::Filled {
            path: self.root.clone(),
            free: self.measure().unwrap_or_default().0,
        }
    }

    fn keep_ballast(&self) {
        let mut there = self.ballast.lock();
        if *there {
            return;
        }
        let path = self.root.join("ballast");
        let len = i64::try_from(BALLAST_BYTES).unwrap_or(i64::MAX);
        let made = File::create(&path).and_then(|file| Ok(posix_fallocate(file, 0, len)?));
        if let Err(error) = made {
            tracing::debug!(%error, "no ballast was made");
            drop(fs::remove_file(path));
        }
        // Tried once is enough until it is used: a file system that cannot will not learn it.
        *there = true;
    }

    /// Free and total bytes. What is reserved for root is free for edgecore, which is root.
    fn measure(&self) -> Option<(u64, u64)> {
        let stat = statvfs(&self.root).ok()?;
        let free = if nix::unistd::geteuid().is_root() {
            stat.blocks_free()
        } else {
            stat.blocks_available()
        };
        let unit = stat.fragment_size();
        Some((free * unit, stat.blocks() * unit))
    }
}
