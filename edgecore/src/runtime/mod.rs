//! The container runtime, seen through CRI v1.
//!
//! [`Runtime`] is the seam: [`Cri`] speaks gRPC over the runtime's unix socket, the fake of the
//! unit tests keeps everything in memory. Nothing here decides what should run; the callers do.
//!
//! **Invariant:** every call but an image pull and a command without a limit ends within a deadline, and every answer is bounded
//! in size, so a stuck or broken runtime costs an error and never a task.

mod abilities;
mod cri;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod wait;

use std::collections::HashMap;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use k8s_cri::v1 as api;

pub use abilities::{Abilities, Known};
pub use cri::{BadEndpoint, Cri};
pub use error::{Remedy, RuntimeError};
pub use wait::answering;

/// What a runtime call returns: a future that can be held behind `dyn Runtime`.
pub type Call<'a, T> = BoxFuture<'a, Result<T, RuntimeError>>;

/// Container events in the order the runtime sends them; the end or an error means "relist".
pub type Events = BoxStream<'static, Result<api::ContainerEventResponse, RuntimeError>>;

/// Which sandboxes or containers a list names: those that carry all of these labels.
pub type Labels = HashMap<String, String>;

/// The part of CRI that a node needs. Object-safe; held as `Arc<dyn Runtime>`.
///
/// # Cancel safety
///
/// Dropping a future cancels the call; what the runtime had done by then stays done and is
/// found by its labels.
pub trait Runtime: Send + Sync + 'static {
    /// The runtime's name and versions.
    fn version(&self) -> Call<'_, api::VersionResponse>;
    /// `RuntimeReady` and `NetworkReady`; with `verbose` also the runtime's own configuration.
    fn status(&self, verbose: bool) -> Call<'_, api::StatusResponse>;
    /// The cgroup driver the runtime uses, where it tells.
    fn runtime_config(&self) -> Call<'_, api::RuntimeConfigResponse>;
    /// Tells the runtime the pod range (old network plugins).
    fn update_runtime_config(&self, pod_cidr: String) -> Call<'_, ()>;
    /// Container events. [`RuntimeError::Unimplemented`] means that only relisting helps.
    fn events(&self) -> Call<'_, Events>;

    /// Creates and starts a sandbox; returns its id.
    fn run_sandbox(&self, config: api::PodSandboxConfig, handler: String) -> Call<'_, String>;
    /// Kills what runs in the sandbox and frees its network. Idempotent.
    fn stop_sandbox(&self, id: &str) -> Call<'_, ()>;
    /// Removes the sandbox and its containers. Idempotent.
    fn remove_sandbox(&self, id: &str) -> Call<'_, ()>;
    /// State, addresses and labels of one sandbox.
    fn sandbox_status(&self, id: &str) -> Call<'_, api::PodSandboxStatus>;
    /// All sandboxes that carry `labels`.
    fn list_sandboxes(&self, labels: Labels) -> Call<'_, Vec<api::PodSandbox>>;

    /// Creates a container in a sandbox (whose configuration it needs again); returns its id.
    fn create_container(
        &self,
        sandbox: &str,
        config: api::ContainerConfig,
        sandbox_config: api::PodSandboxConfig,
    ) -> Call<'_, String>;
    /// Starts a created container.
    fn start_container(&self, id: &str) -> Call<'_, ()>;
    /// Stops a container: its stop signal, then SIGKILL after `grace_seconds`. Idempotent.
    fn stop_container(&self, id: &str, grace_seconds: i64) -> Call<'_, ()>;
    /// Removes a container. Idempotent.
    fn remove_container(&self, id: &str) -> Call<'_, ()>;
    /// State, exit code and annotations of one container.
    fn container_status(&self, id: &str) -> Call<'_, api::ContainerStatus>;
    /// All containers that carry `labels`.
    fn list_containers(&self, labels: Labels) -> Call<'_, Vec<api::Container>>;
    /// What the containers that carry `labels` use.
    fn container_stats(&self, labels: Labels) -> Call<'_, Vec<api::ContainerStats>>;
    /// Changes the limits of a running container.
    fn update_container(&self, id: &str, resources: api::LinuxContainerResources) -> Call<'_, ()>;
    /// Makes the runtime open a container's log file again after a rotation.
    fn reopen_log(&self, id: &str) -> Call<'_, ()>;
    /// Runs a command in a container and waits for it, at most `timeout_seconds`. 0 is no limit, and then
    /// this has no deadline of its own: drop it to give up.
    fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout_seconds: i64,
    ) -> Call<'_, api::ExecSyncResponse>;

    /// The image, when it is present.
    fn image_status(&self, image: &str) -> Call<'_, Option<api::Image>>;
    /// Pulls an image; returns its reference. Has no deadline of its own: drop it to give up.
    fn pull_image(&self, pull: api::PullImageRequest) -> Call<'_, String>;
    /// All images present.
    fn list_images(&self) -> Call<'_, Vec<api::Image>>;
    /// Removes an image. Idempotent.
    fn remove_image(&self, image: &str) -> Call<'_, ()>;
    /// Disk use of the image store.
    fn image_fs_info(&self) -> Call<'_, api::ImageFsInfoResponse>;
}
