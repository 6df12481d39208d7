//! A pod as the runtime shows it.
//!
//! [`observe`] asks the runtime for what carries the pod's UID, [`look_at_sandbox`] and [`look_at_container`]
//! for what was just made; everything else is a plain value that the pure parts (lifecycle, status) read. Nothing here decides.
//!
//! **Invariant:** sandboxes and containers are sorted newest first, by the counts that they were made with. Those
//! only grow; the time that the runtime notes goes back with a device's clock.

use std::collections::BTreeMap;

use k8s_cri::v1 as api;
use k8s_openapi::api::core::v1::{Container, Lifecycle};

use super::{container_config as made, sandbox_config, termination};
use crate::runtime::{Runtime, RuntimeError};

/// The exit code of a process that `SIGKILL` ended.
const KILLED: i32 = 137;

/// What runs, or ran, for one pod UID.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodObserved {
    /// Newest first.
    pub sandboxes: Vec<SandboxObserved>,
    /// Newest first among those of one name; those of all sandboxes.
    pub containers: Vec<ContainerObserved>,
}

/// One sandbox.
#[derive(Clone, Debug, PartialEq)]
pub struct SandboxObserved {
    /// The runtime's id.
    pub id: String,
    /// How many came before it.
    pub attempt: u32,
    /// Whether it is ready to hold containers.
    pub ready: bool,
    /// Whether it lives on the device's own network.
    pub host_network: bool,
    /// Nanoseconds since the epoch, by the runtime's clock.
    pub created_at: i64,
    /// Its addresses, first the primary one.
    pub ips: Vec<String>,
}

/// What a container does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Run {
    /// Made, not started.
    #[default]
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The runtime does not know; it may be running.
    Unknown,
}

/// One container instance. The default is one that was made and has done nothing yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerObserved {
    /// The runtime's id.
    pub id: String,
    /// The name in the pod's spec.
    pub name: String,
    /// The sandbox it lives in.
    pub sandbox: String,
    /// What it does.
    pub run: Run,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Nanoseconds since the epoch; 0 when it never started.
    pub started_at: i64,
    /// Nanoseconds since the epoch; 0 while it has not ended.
    pub finished_at: i64,
    /// Of an ended container.
    pub exit_code: i32,
    /// The runtime's word for the end: `Completed`, `Error`, `OOMKilled`.
    pub reason: String,
    /// The runtime's message.
    pub message: String,
    /// What an ended container left as its termination message.
    pub last_words: String,
    /// The image as asked for.
    pub image: String,
    /// The image by digest, as status shows it.
    pub image_ref: String,
    /// What it was made from; `None` when somebody else made it.
    pub hash: Option<String>,
    /// How often the container had been restarted before this instance.
    pub restart_count: u32,
    /// The grace period its pod asks for, from its annotations.
    pub grace: Option<i64>,
    /// The log file.
    pub log_path: String,
    /// What its annotations say of it, for one that is to end without a spec: its hook and ports.
    pub outline: Option<Box<Container>>,
    /// What it may use, where the runtime tells.
    pub resources: Option<Box<api::LinuxContainerResources>>,
    /// The user it runs as, where the runtime tells.
    pub user: Option<api::LinuxContainerUser>,
}

impl PodObserved {
    /// The newest instance of the container `name`.
    pub fn latest(&self, name: &str) -> Option<&ContainerObserved> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The newest sandbox.
    pub fn sandbox(&self) -> Option<&SandboxObserved> {
        self.sandboxes.first()
    }

    /// Adds what was just made, or puts its newer state in place of the old one.
    pub fn note_sandbox(&mut self, sandbox: SandboxObserved) {
        self.sandboxes.retain(|seen| seen.id != sandbox.id);
        self.sandboxes.push(sandbox);
        self.sort();
    }

    /// Adds what was just made, or puts its newer state in place of the old one.
    pub fn note_container(&mut self, container: ContainerObserved) {
        self.containers.retain(|seen| seen.id != container.id);
        self.containers.push(container);
        self.sort();
    }

    fn sort(&mut self) {
        self.sandboxes
            .sort_by_key(|sandbox| std::cmp::Reverse((sandbox.attempt, sandbox.created_at)));
        self.containers
            .sort_by_key(|c| std::cmp::Reverse((c.restart_count, c.created_at)));
    }

    /// Whether no process of the pod can be running.
    pub fn is_still(&self) -> bool {
        self.sandboxes.iter().all(|s| !s.ready) && self.containers.iter().all(|c| !c.run.may_run())
    }

    /// Whether the runtime knows nothing of the pod.
    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }

    /// The addresses of the newest sandbox that has any.
    pub fn ips(&self) -> &[String] {
        let with_ips = self.sandboxes.iter().find(|sandbox| !sandbox.ips.is_empty());
        with_ips.map(|sandbox| sandbox.ips.as_slice()).unwrap_or_default()
    }
}

impl ContainerObserved {
    /// Whether the runtime may still add that it ran out of memory: it was killed, and nobody says why.
    /// containerd hears of the end and of the lack of memory on two ways, and either may come first.
    pub fn may_lack_memory(&self) -> bool {
        self.run == Run::Exited && self.exit_code == KILLED && self.reason == "Error"
    }
}

impl Run {
    /// Whether a process may be alive.
    pub const fn may_run(self) -> bool {
        matches!(self, Self::Running | Self::Unknown)
    }

    fn from_cri(state: i32) -> Self {
        match api::ContainerState::try_from(state) {
            Ok(api::ContainerState::ContainerCreated) => Self::Created,
            Ok(api::ContainerState::ContainerRunning) => Self::Running,
            Ok(api::ContainerState::ContainerExited) => Self::Exited,
            Ok(api::ContainerState::ContainerUnknown) | Err(_) => Self::Unknown,
        }
    }
}

/// What was observed before of things that never change again: an ended container, a dead sandbox's address.
#[derive(Debug, Default)]
pub struct Memory {
    ended: BTreeMap<String, ContainerObserved>,
    addresses: BTreeMap<String, Vec<String>>,
}

impl Memory {
    /// The container is asked for again: of its end there may be more to know.
    pub fn doubt(&mut self, id: &str) {
        self.ended.remove(id);
    }
}

/// Asks the runtime for everything that carries the pod's UID.
pub async fn observe(
    runtime: &dyn Runtime,
    uid: &str,
    memory: &mut Memory,
) -> Result<PodObserved, RuntimeError> {
    let of_pod = || [(sandbox_config::POD_UID.to_owned(), uid.to_owned())].into();
    let (sandboxes, containers) = tokio::try_join!(
        runtime.list_sandboxes(of_pod()),
        runtime.list_containers(of_pod())
    )?;
    let mut seen = PodObserved::default();
    for listed in sandboxes {
        seen.sandboxes
            .extend(look_at_sandbox(runtime, &listed.id, memory).await?);
    }
    for listed in containers {
        let (id, sandbox) = (&listed.id, &listed.pod_sandbox_id);
        seen.containers
            .extend(look_at_container(runtime, (id, sandbox), memory).await?);
    }
    seen.sort();
    memory
        .ended
        .retain(|id, _| seen.containers.iter().any(|c| &c.id == id));
    memory
        .addresses
        .retain(|id, _| seen.sandboxes.iter().any(|s| &s.id == id));
    Ok(seen)
}

/// One sandbox. `None` when it vanished before the question.
pub async fn look_at_sandbox(
    runtime: &dyn Runtime,
    id: &str,
    memory: &mut Memory,
) -> Result<Option<SandboxObserved>, RuntimeError> {
    let status = match runtime.sandbox_status(id).await {
        Ok(status) => status,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut sandbox = sandbox_of(&status);
    if sandbox.ips.is_empty() {
        sandbox.ips = memory.addresses.get(&sandbox.id).cloned().unwrap_or_default();
    } else {
        memory.addresses.insert(sandbox.id.clone(), sandbox.ips.clone());
    }
    Ok(Some(sandbox))
}

fn sandbox_of(status: &api::PodSandboxStatus) -> SandboxObserved {
    let network = status.network.clone().unwrap_or_default();
    let additional = network.additional_ips.into_iter().map(|ip| ip.ip);
    let ips = std::iter::once(network.ip)
        .chain(additional)
        .filter(|ip| !ip.is_empty())
        .collect();
    let namespaces = status.linux.as_ref().and_then(|l| l.namespaces.as_ref());
    let options = namespaces.and_then(|n| n.options.as_ref());
    SandboxObserved {
        id: status.id.clone(),
        attempt: status.metadata.as_ref().map_or(0, |m| m.attempt),
        ready: status.state == api::PodSandboxState::SandboxReady as i32,
        host_network: options.is_some_and(|o| o.network == api::NamespaceMode::Node as i32),
        created_at: status.created_at,
        ips,
    }
}

/// One container, of the sandbox it was made in. `None` when it vanished before the question.
pub async fn look_at_container(
    runtime: &dyn Runtime,
    (id, sandbox): (&str, &str),
    memory: &mut Memory,
) -> Result<Option<ContainerObserved>, RuntimeError> {
    if let Some(known) = memory.ended.get(id) {
        return Ok(Some(known.clone()));
    }
    let status = match runtime.container_status(id).await {
        Ok(status) => status,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let container = container_of(sandbox, status);
    if container.run == Run::Exited {
        memory.ended.insert(container.id.clone(), container.clone());
    }
    Ok(Some(container))
}

fn outline(status: &api::ContainerStatus) -> Option<Container> {
    let said = |key: &str| status.annotations.get(key);
    let pre_stop = serde_json::from_str(said(made::PRE_STOP)?).ok()?;
    Some(Container {
        name: status.labels.get(made::CONTAINER_NAME).cloned()?,
        ports: said(made::PORTS).and_then(|ports| serde_json::from_str(ports).ok()),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(pre_stop),
            ..Lifecycle::default()
        }),
        ..Container::default()
    })
}

fn container_of(sandbox: &str, status: api::ContainerStatus) -> ContainerObserved {
    let run = Run::from_cri(status.state);
    let last_words = if run == Run::Exited {
        termination::message(&status)
    } else {
        String::new()
    };
    let annotation = |key: &str| status.annotations.get(key);
    let number = |key: &str| annotation(key).and_then(|value| value.parse::<i64>().ok());
    let attempt = status.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
    let restart_count = number(made::RESTART_COUNT).and_then(|count| u32::try_from(count).ok());
    ContainerObserved {
        name: status
            .labels
            .get(made::CONTAINER_NAME)
            .cloned()
            .unwrap_or_default(),
        sandbox: sandbox.to_owned(),
        run,
        last_words,
        created_at: status.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        exit_code: status.exit_code,
        image: status
            .image
            .as_ref()
            .map(|image| image.image.clone())
            .unwrap_or_default(),
        hash: annotation(made::HASH).cloned(),
        restart_count: restart_count.unwrap_or(attempt),
        grace: number(made::DELETION_GRACE).or_else(|| number(made::TERMINATION_GRACE)),
        outline: outline(&status).map(Box::new),
        resources: status
            .resources
            .and_then(|resources| resources.linux)
            .map(Box::new),
        user: status.user.and_then(|user| user.linux),
        id: status.id,
        reason: status.reason,
        message: status.message,
        image_ref: status.image_ref,
        log_path: status.log_path,
    }
}
