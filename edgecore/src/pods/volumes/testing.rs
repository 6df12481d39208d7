//! A directory of its own for each test, removed when the test ends.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A scratch directory.
pub(in crate::pods) struct Scratch(PathBuf);

impl Scratch {
    pub(in crate::pods) fn new(what: &str) -> Self {
        let unique = format!(
            "tombolo-{what}-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(in crate::pods) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = super::mounts::unmount_below(&self.0);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether this process may mount; tests that need it are skipped elsewhere.
pub(in crate::pods) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
