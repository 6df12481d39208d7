//! Volumes: brought to disk before a pod's containers start, kept fresh while they run, taken down after.
//!
//! One file a volume type, one atomic writer. [`Volumes::mount`] is idempotent: it is also the refresh.
//! Layout as the kubelet's: `<root>/pods/<uid>/volumes/kubernetes.io~<plugin>/<name>`. Volumes that hold a
//! Secret or a token live on tmpfs.
//!
//! **Invariant:** nothing is written or removed through a path that a pod could have swapped: every step
//! below the volume's directory goes by descriptor and follows no link.

mod atomic;
mod empty_dir;
pub(super) mod file;
mod host_path;
pub(super) mod measure;
mod mounts;
mod plan;
pub(crate) mod removal;
mod sources;
pub(super) mod subpath;
#[cfg(test)]
pub(super) mod testing;
pub mod tokens;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Volume};
use thiserror::Error;

use super::spec::{self, NodeFacts, Objects};
use plan::Planned;
use sources::Sources;
use tokens::{TokenCache, TokenRequest};

/// The mode of a directory that only root and its group may enter, as the kubelet makes those above volumes.
pub(super) const PRIVATE: u32 = 0o750;

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

/// Why a volume is not there yet. The pod waits in `ContainerCreating`, with an event `FailedMount`; a pod
/// that runs goes on with what it has.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {cause}")]
pub struct MountError {
    /// The volume's name.
    pub volume: String,
    /// In the kubelet's words.
    pub cause: String,
}

/// Why a pod's directory could not be taken down; try again later.
#[derive(Debug, Error)]
#[error("cannot take down {path}")]
pub struct UnmountError {
    /// What resisted.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
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

    /// Makes the directory of all pods, and shuts it for other users of the device: volumes below are open to
    /// everybody, for containers run as anybody, and hold Secrets and tokens. Containers need no way through it, for
    /// what they get is bound. One from before stood open.
    pub async fn shut(&self) -> io::Result<()> {
        let pods = self.facts.root_dir.join("pods");
        let shut = move || {
            DirBuilder::new().recursive(true).mode(PRIVATE).create(&pods)?;
            let mode = std::fs::metadata(&pods)?.permissions().mode();
            std::fs::set_permissions(&pods, Permissions::from_mode(mode & PRIVATE))
        };
        blocking(shut).await?
    }

    /// Brings every volume of `pod` to disk, or up to date. Idempotent.
    ///
    /// # Synchronization
    ///
    /// One call a pod at a time.
    pub async fn mount(&self, pod: &Pod) -> Result<Mounted, MountError> {
        let mut planned = Vec::new();
        let mut refresh_after = None;
        for volume in volumes_of(pod) {
            let (plan, due) = self.plan(pod, volume).await?;
            refresh_after = refresh_after.into_iter().chain(due).min();
            planned.push(plan);
        }
        let pod_dir = self.facts.pod_dir(spec::uid(pod));
        let carried_out = blocking(move || carry_out(&pod_dir, planned).collect()).await;
        let volumes = carried_out.unwrap_or_else(|error| Err(failed("", error.to_string())))?;
        Ok(Mounted {
            volumes,
            refresh_after,
        })
    }

    /// As [`mount`](Self::mount), but one volume's trouble is not the others': what can be had is brought up
    /// to date, the rest stays as `before` has it, and the first trouble is told.
    ///
    /// # Synchronization
    ///
    /// One call a pod at a time.
    pub async fn refresh(&self, pod: &Pod, before: Option<&Mounted>) -> (Mounted, Option<MountError>) {
        let (mut planned, mut trouble) = (Vec::new(), None);
        let mut refresh_after = None;
        for volume in volumes_of(pod) {
            match self.plan(pod, volume).await {
                Ok((plan, due)) => {
                    refresh_after = refresh_after.into_iter().chain(due).min();
                    planned.push(plan);
                }
                Err(error) => trouble = trouble.or(Some(error)),
            }
        }
        let mut volumes = before.map(|before| before.volumes.clone()).unwrap_or_default();
        let pod_dir = self.facts.pod_dir(spec::uid(pod));
        let each = blocking(move || carry_out(&pod_dir, planned).collect::<Vec<_>>()).await;
        for one in each.unwrap_or_else(|error| vec![Err(failed("", error.to_string()))]) {
            match one {
                Ok(done) => volumes.extend([done]),
                Err(resisted) => trouble = trouble.or(Some(resisted)),
            }
        }
        let mounted = Mounted {
            volumes,
            refresh_after,
        };
        (mounted, trouble)
    }

    /// Whether a token in one of the pod's volumes is to be renewed now, by the clock as it is now.
    pub fn has_due_token(&self, pod: &Pod) -> bool {
        let mut requests = volumes_of(pod)
            .iter()
            .flat_map(|volume| sources::token_requests(pod, volume));
        requests.any(|request| self.tokens.is_due(&request))
    }

    /// Takes a pod's directory down, once none of its containers is left, and forgets its tokens.
    pub async fn unmount(&self, uid: &str) -> Result<(), UnmountError> {
        let path = self.facts.pod_dir(uid);
        if !spec::is_plain_name(uid) {
            return Err(UnmountError {
                path,
                source: io::Error::from(io::ErrorKind::InvalidInput),
            });
        }
        self.tokens.forget(uid).await;
        let (parent, name) = (self.facts.root_dir.join("pods"), uid.to_owned());
        let taken = blocking(move || removal::take_down(&parent, OsStr::new(&name))).await;
        taken
            .and_then(|result| result)
            .map_err(|source| UnmountError { path, source })
    }

    /// The UIDs of pods that have a directory on disk, so that those of no pod can be taken down.
    pub async fn on_disk(&self) -> Vec<String> {
        let pods = self.facts.root_dir.join("pods");
        let listed = blocking(move || {
            std::fs::read_dir(pods).map(|dir| dir.flatten().map(|e| e.file_name()).collect())
        });
        let names: Vec<_> = listed.await.and_then(|result| result).unwrap_or_default();
        names
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .collect()
    }

    /// What is known to be missing of the pod's volumes before anything is prepared and without asking anybody:
    /// what a volume with a token lacks shows when it is mounted.
    pub fn lacks(&self, pod: &Pod) -> Option<MountError> {
        let none = BTreeMap::new();
        let mut plain = volumes_of(pod)
            .iter()
            .filter(|volume| sources::token_requests(pod, volume).is_empty());
        plain.find_map(|volume| self.decide(pod, volume, &none).err())
    }

    async fn plan(&self, pod: &Pod, volume: &Volume) -> Result<(Planned, Option<Duration>), MountError> {
        let requests = sources::token_requests(pod, volume);
        let tokens = self.tokens(&requests).await;
        let tokens = tokens.map_err(|cause| failed(&volume.name, cause))?;
        let due = requests.iter().map(|request| self.tokens.due_in(request)).min();
        Ok((self.decide(pod, volume, &tokens)?, due))
    }

    /// What is to be done for a volume, with these tokens.
    fn decide(
        &self,
        pod: &Pod,
        volume: &Volume,
        tokens: &BTreeMap<TokenRequest, String>,
    ) -> Result<Planned, MountError> {
        let told = |cause: String| failed(&volume.name, cause);
        if !spec::is_plain_name(&volume.name) || !spec::is_plain_name(spec::uid(pod)) {
            return Err(told("the name cannot be a directory".to_owned()));
        }
        let sources = Sources {
            objects: self.objects.as_ref(),
            pod,
            allocatable: &self.facts.allocatable,
            tokens,
        };
        let payload = sources::payload(&sources, volume).map_err(told)?;
        Planned::new(pod, volume, payload, self.facts.memory_capacity).map_err(told)
    }

    async fn tokens(&self, requests: &[TokenRequest]) -> Result<BTreeMap<TokenRequest, String>, String> {
        let mut tokens = BTreeMap::new();
        for request in requests {
            let token = self
                .tokens
                .token(request)
                .await
                .map_err(|error| error.to_string())?;
            tokens.insert(request.clone(), token);
        }
        Ok(tokens)
    }
}

/// Carries out one after the other, as far as it is asked to.
fn carry_out(
    pod_dir: &Path,
    planned: Vec<Planned>,
) -> impl Iterator<Item = Result<(String, MountedVolume), MountError>> {
    planned.into_iter().map(|plan| match plan.carry_out(pod_dir) {
        Ok(mounted) => Ok((plan.name, mounted)),
        Err(cause) => Err(failed(&plan.name, cause)),
    })
}

fn volumes_of(pod: &Pod) -> &[Volume] {
    spec::spec(pod)
        .and_then(|spec| spec.volumes.as_deref())
        .unwrap_or_default()
}

fn failed(volume: &str, cause: String) -> MountError {
    MountError {
        volume: volume.to_owned(),
        cause,
    }
}

/// Disk work, off the threads that carry the link.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

#[cfg(test)]
mod tests;
