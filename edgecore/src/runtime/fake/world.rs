//! What the fake holds, and the shapes in which it is asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use k8s_cri::v1 as api;
use tokio::task::JoinSet;
use tonic::Code;

use crate::runtime::{Labels, RuntimeError};

#[derive(Default)]
pub(super) struct World {
    pub(super) next: u64,
    pub(super) clock: i64,
    pub(super) down: bool,
    pub(super) removals_hang: bool,
    pub(super) shown_memory: Option<i64>,
    pub(super) stops_hang: bool,
    /// What containers exit with when they are stopped, unless it is by their signal.
    pub(super) stopped_with: Option<i32>,
    pub(super) ignored_stops: u32,
    pub(super) panics: Option<&'static str>,
    pub(super) driver: Option<api::CgroupDriver>,
    pub(super) sandboxes: BTreeMap<String, api::PodSandboxStatus>,
    pub(super) containers: BTreeMap<String, (String, api::ContainerStatus)>,
    pub(super) images: BTreeSet<String>,
    pub(super) images_at: Option<String>,
    pub(super) registry: BTreeSet<String>,
    pub(super) pull_takes: Duration,
    pub(super) takes: HashMap<&'static str, Duration>,
    /// Where calls go on though who asked has given up.
    pub(super) regardless: Option<JoinSet<()>>,
    pub(super) begun: HashMap<&'static str, usize>,
    /// Containers whose start is under way.
    pub(super) starting: BTreeSet<String>,
    pub(super) private: BTreeMap<String, String>,
    pub(super) exits: HashMap<String, i32>,
    pub(super) unstartable: BTreeSet<String>,
    /// What containers use, by name: bytes of memory and of disk.
    pub(super) usage: HashMap<String, (u64, u64)>,
    pub(super) exec: HashMap<String, (i32, Duration)>,
    pub(super) failures: HashMap<&'static str, VecDeque<RuntimeError>>,
    pub(super) calls: Vec<String>,
    pub(super) violations: Vec<String>,
}

impl World {
    pub(super) fn tick(&mut self) -> i64 {
        self.clock += 1_000_000;
        1_700_000_000_000_000_000 + self.clock
    }

    pub(super) fn ignores_stop(&mut self) -> bool {
        let ignores = self.ignored_stops > 0;
        self.ignored_stops = self.ignored_stops.saturating_sub(1);
        ignores
    }

    /// Whether its start is under way, whoever still waits for it.
    pub(super) fn is_starting(&self, id: &str) -> bool {
        self.regardless.is_some() && self.starting.contains(id)
    }

    pub(super) fn id(&mut self, what: &str) -> String {
        self.next += 1;
        format!("{what}{:060}", self.next)
    }

    pub(super) fn enter(&mut self, call: &'static str, what: &str) -> Result<(), RuntimeError> {
        self.calls.push(format!("{call} {what}").trim_end().to_owned());
        assert_ne!(self.panics, Some(call), "a test wants this");
        if self.down {
            return Err(RuntimeError::Unavailable {
                call,
                message: "down".to_owned(),
            });
        }
        match self.failures.get_mut(call).and_then(VecDeque::pop_front) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    pub(super) fn exit(&mut self, id: &str, code: i32) {
        let now = self.tick();
        if let Some((_, status)) = self.containers.get_mut(id) {
            if status.state == api::ContainerState::ContainerExited as i32 {
                return;
            }
            status.state = api::ContainerState::ContainerExited as i32;
            status.finished_at = now;
            status.exit_code = code;
            status.reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
        }
    }

    pub(super) fn refused(call: &'static str, message: &str) -> RuntimeError {
        RuntimeError::Refused {
            call,
            code: Code::Unknown,
            message: message.to_owned(),
        }
    }

    pub(super) fn missing(call: &'static str, id: &str) -> RuntimeError {
        RuntimeError::NotFound {
            call,
            message: format!("{id} does not exist"),
        }
    }
}

pub(super) fn matches(labels: &HashMap<String, String>, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

pub(super) fn condition(name: &str) -> api::RuntimeCondition {
    api::RuntimeCondition {
        r#type: name.to_owned(),
        status: true,
        ..Default::default()
    }
}

pub(super) fn image(name: &str) -> api::Image {
    api::Image {
        id: format!("sha256:{name}"),
        repo_tags: vec![name.to_owned()],
        size: 1,
        ..Default::default()
    }
}

/// Makes a sandbox; says its id.
pub(super) fn sandbox(world: &mut World, config: api::PodSandboxConfig, handler: String) -> String {
    let id = world.id("sandbox");
    let ip = format!("10.86.0.{}", world.next % 250 + 2);
    let status = api::PodSandboxStatus {
        id: id.clone(),
        metadata: Some(config.metadata.unwrap_or_default()),
        state: api::PodSandboxState::SandboxReady as i32,
        created_at: world.tick(),
        network: Some(api::PodSandboxNetworkStatus {
            ip,
            additional_ips: Vec::new(),
        }),
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: handler,
        linux: None,
    };
    world.sandboxes.insert(id.clone(), status);
    id
}

pub(super) fn created(world: &mut World, id: &str, config: api::ContainerConfig) -> api::ContainerStatus {
    let image = config.image.unwrap_or_default();
    api::ContainerStatus {
        id: id.to_owned(),
        metadata: config.metadata,
        state: api::ContainerState::ContainerCreated as i32,
        created_at: world.tick(),
        image_ref: image.image.clone(),
        image: Some(image),
        labels: config.labels,
        annotations: config.annotations,
        log_path: config.log_path,
        resources: Some(api::ContainerResources {
            linux: config.linux.and_then(|linux| linux.resources),
            windows: None,
        }),
        ..Default::default()
    }
}

pub(super) fn listed_sandbox(status: &api::PodSandboxStatus) -> api::PodSandbox {
    api::PodSandbox {
        id: status.id.clone(),
        metadata: status.metadata.clone(),
        state: status.state,
        created_at: status.created_at,
        labels: status.labels.clone(),
        annotations: status.annotations.clone(),
        runtime_handler: status.runtime_handler.clone(),
    }
}

pub(super) fn listed_container(sandbox: &str, status: &api::ContainerStatus) -> api::Container {
    api::Container {
        id: status.id.clone(),
        pod_sandbox_id: sandbox.to_owned(),
        metadata: status.metadata.clone(),
        image: status.image.clone(),
        image_ref: status.image_ref.clone(),
        state: status.state,
        created_at: status.created_at,
        labels: status.labels.clone(),
        annotations: status.annotations.clone(),
        image_id: status.image_id.clone(),
    }
}

pub(super) fn stats(world: &World, status: &api::ContainerStatus) -> api::ContainerStats {
    let name = status.labels.get(super::NAME).cloned().unwrap_or_default();
    let (memory, disk) = world.usage.get(&name).copied().unwrap_or_default();
    let number = |value| Some(api::UInt64Value { value });
    api::ContainerStats {
        attributes: Some(api::ContainerAttributes {
            id: status.id.clone(),
            metadata: status.metadata.clone(),
            labels: status.labels.clone(),
            annotations: HashMap::new(),
        }),
        memory: Some(api::MemoryUsage {
            working_set_bytes: number(memory),
            ..Default::default()
        }),
        writable_layer: Some(api::FilesystemUsage {
            used_bytes: number(disk),
            inodes_used: number(1),
            ..Default::default()
        }),
        ..Default::default()
    }
}
