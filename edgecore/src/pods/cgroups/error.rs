//! Why the cgroup tree is not as it should be.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::systemd::SystemdError;

/// Why the cgroup tree could not be brought into shape.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// No cgroup file system is mounted.
    #[error("no cgroup file system is mounted below {0}; mount one (cgroup2 or the v1 controllers)")]
    NotMounted(PathBuf),
    /// A directory or file of the tree refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// systemd did not make, limit or stop a slice.
    #[error("cannot {action} {slice}")]
    Systemd {
        /// What was tried.
        action: &'static str,
        /// The slice.
        slice: String,
        /// Why not.
        source: SystemdError,
    },
    /// A process is in it.
    #[error("{} is in use", .0.display())]
    InUse(PathBuf),
    /// The node agent stops.
    #[error("the work on cgroups was broken off")]
    BrokenOff,
}

impl CgroupError {
    /// The error with its causes, for logs and events.
    pub fn whole(&self) -> String {
        let mut told = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            told = format!("{told}: {error}");
            cause = error.source();
        }
        told
    }
}
