//! A container runtime in memory, for unit tests.
//!
//! It keeps sandboxes, containers and images, honours label filters, and can be told to fail a
//! call or to make a container exit. It is shared: clone it and look inside while the code under
//! test runs.
//!
//! **Invariant:** [`FakeRuntime::violations`] is empty unless two instances of one container ran
//! at the same time, or a container was started in a sandbox that was not ready.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_cri::v1 as api;
use parking_lot::Mutex;
use tonic::Code;

use super::{Call, Events, Labels, Runtime, RuntimeError};

const UID: &str = "io.kubernetes.pod.uid";
const NAME: &str = "io.kubernetes.container.name";

/// The fake; clones share one world.
#[derive(Clone, Default)]
pub(crate) struct FakeRuntime {
    world: Arc<Mutex<World>>,
}

#[derive(Default)]
struct World {
    next: u64,
    clock: i64,
    down: bool,
    driver: Option<api::CgroupDriver>,
    sandboxes: BTreeMap<String, api::PodSandboxStatus>,
    containers: BTreeMap<String, (String, api::ContainerStatus)>,
    images: BTreeSet<String>,
    registry: BTreeSet<String>,
    private: BTreeMap<String, String>,
    exits: HashMap<String, i32>,
    unstartable: BTreeSet<String>,
    exec: HashMap<String, (i32, Duration)>,
    failures: HashMap<&'static str, VecDeque<RuntimeError>>,
    calls: Vec<String>,
    violations: Vec<String>,
}

impl World {
    fn tick(&mut self) -> i64 {
        self.clock += 1_000_000;
        1_700_000_000_000_000_000 + self.clock
    }

    fn id(&mut self, what: &str) -> String {
        self.next += 1;
        format!("{what}{:060}", self.next)
    }

    fn enter(&mut self, call: &'static str, what: &str) -> Result<(), RuntimeError> {
        self.calls.push(format!("{call} {what}").trim_end().to_owned());
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

    fn exit(&mut self, id: &str, code: i32) {
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

    fn refused(call: &'static str, message: &str) -> RuntimeError {
        RuntimeError::Refused {
            call,
            code: Code::Unknown,
            message: message.to_owned(),
        }
    }

    fn missing(call: &'static str, id: &str) -> RuntimeError {
        RuntimeError::NotFound {
            call,
            message: format!("{id} does not exist"),
        }
    }
}

fn matches(labels: &HashMap<String, String>, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl FakeRuntime {
    /// A runtime that holds these images.
    pub(crate) fn with_images(images: &[&str]) -> Self {
        let fake = Self::default();
        fake.world.lock().images = images.iter().map(ToString::to_string).collect();
        fake
    }

    /// The runtime tells its cgroup driver from now on.
    pub(crate) fn uses(&self, driver: api::CgroupDriver) {
        self.world.lock().driver = Some(driver);
    }

    /// Makes an image pullable.
    pub(crate) fn publish(&self, image: &str) {
        self.world.lock().registry.insert(image.to_owned());
    }

    /// The image can be pulled, by this user alone.
    pub(crate) fn publish_for(&self, image: &str, user: &str) {
        self.publish(image);
        let private = &mut self.world.lock().private;
        private.insert(image.to_owned(), user.to_owned());
    }

    /// Makes the container `name` exit with `code` as soon as it is started.
    pub(crate) fn exits_at_once(&self, name: &str, code: i32) {
        self.world.lock().exits.insert(name.to_owned(), code);
    }

    /// Containers of that name end as they are started, and the runtime says why.
    pub(crate) fn cannot_start(&self, name: &str) {
        self.world.lock().unstartable.insert(name.to_owned());
    }

    /// Lets the container `name` run when it is started next.
    pub(crate) fn keeps_running(&self, name: &str) {
        self.world.lock().exits.remove(name);
    }

    /// Adds to the end of what ran under this name that it had no memory left, as the runtime does late.
    pub(crate) fn lacked_memory(&self, name: &str) {
        let mut world = self.world.lock();
        let named = |s: &api::ContainerStatus| s.labels.get(NAME).is_some_and(|own| own == name);
        for (_, status) in world.containers.values_mut().filter(|(_, s)| named(s)) {
            "OOMKilled".clone_into(&mut status.reason);
        }
    }

    /// Makes whatever runs under this name end now.
    pub(crate) fn end(&self, name: &str, code: i32) {
        let mut world = self.world.lock();
        let named = |s: &api::ContainerStatus| s.labels.get(NAME).is_some_and(|own| own == name);
        let running = world.containers.iter().filter(|(_, (_, s))| named(s));
        for id in running.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            world.exit(&id, code);
        }
    }

    /// Makes the command `first` of an exec end with `code` after `takes`.
    pub(crate) fn commands(&self, first: &str, code: i32, takes: Duration) {
        self.world.lock().exec.insert(first.to_owned(), (code, takes));
    }

    /// Makes the next call of this CRI method fail.
    pub(crate) fn fail_next(&self, call: &'static str, message: &str) {
        let error = World::refused(call, message);
        self.world
            .lock()
            .failures
            .entry(call)
            .or_default()
            .push_back(error);
    }

    /// Makes every call unavailable, or available again.
    pub(crate) fn set_down(&self, down: bool) {
        self.world.lock().down = down;
    }

    /// What a reboot does: every sandbox is not ready, every container has exited.
    pub(crate) fn reboot(&self) {
        let mut world = self.world.lock();
        let ids: Vec<_> = world.containers.keys().cloned().collect();
        for id in ids {
            world.exit(&id, 255);
        }
        for sandbox in world.sandboxes.values_mut() {
            sandbox.state = api::PodSandboxState::SandboxNotready as i32;
        }
    }

    /// The handlers of all sandboxes.
    pub(crate) fn handlers(&self) -> Vec<String> {
        let world = self.world.lock();
        world
            .sandboxes
            .values()
            .map(|s| s.runtime_handler.clone())
            .collect()
    }

    /// Names of the containers that run, sorted.
    pub(crate) fn running(&self) -> Vec<String> {
        let world = self.world.lock();
        let mut names: Vec<_> = world
            .containers
            .values()
            .filter(|(_, s)| s.state == api::ContainerState::ContainerRunning as i32)
            .filter_map(|(_, s)| s.labels.get(NAME).cloned())
            .collect();
        names.sort();
        names
    }

    /// How many sandboxes exist, ready or not.
    pub(crate) fn sandboxes(&self) -> usize {
        self.world.lock().sandboxes.len()
    }

    /// How many containers exist, in any state.
    pub(crate) fn containers(&self) -> usize {
        self.world.lock().containers.len()
    }

    /// Every call so far, `Method subject`.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.world.lock().calls.clone()
    }

    /// How many calls of this method were made.
    pub(crate) fn count(&self, call: &str) -> usize {
        self.world
            .lock()
            .calls
            .iter()
            .filter(|c| c.split(' ').next() == Some(call))
            .count()
    }

    /// What a correct client never does.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.world.lock().violations.clone()
    }

    fn with<T>(
        &self,
        call: &'static str,
        what: &str,
        act: impl FnOnce(&mut World) -> Result<T, RuntimeError>,
    ) -> Call<'static, T>
    where
        T: Send + 'static,
    {
        let mut world = self.world.lock();
        let result = world.enter(call, what).and_then(|()| act(&mut world));
        async move {
            // A real runtime takes a moment; let others run.
            tokio::task::yield_now().await;
            result
        }
        .boxed()
    }
}

fn condition(name: &str) -> api::RuntimeCondition {
    api::RuntimeCondition {
        r#type: name.to_owned(),
        status: true,
        ..Default::default()
    }
}

fn image(name: &str) -> api::Image {
    api::Image {
        id: format!("sha256:{name}"),
        repo_tags: vec![name.to_owned()],
        size: 1,
        ..Default::default()
    }
}

impl Runtime for FakeRuntime {
    fn version(&self) -> Call<'_, api::VersionResponse> {
        self.with("Version", "", |_| {
            Ok(api::VersionResponse {
                version: "0.1.0".to_owned(),
                runtime_name: "fake".to_owned(),
                runtime_version: "1".to_owned(),
                runtime_api_version: "v1".to_owned(),
            })
        })
    }

    fn status(&self, _verbose: bool) -> Call<'_, api::StatusResponse> {
        self.with("Status", "", |_| {
            let conditions = vec![condition("RuntimeReady"), condition("NetworkReady")];
            let status = Some(api::RuntimeStatus { conditions });
            Ok(api::StatusResponse {
                status,
                ..Default::default()
            })
        })
    }

    fn runtime_config(&self) -> Call<'_, api::RuntimeConfigResponse> {
        let call = "RuntimeConfig";
        self.with(call, "", |world| {
            let driver = world.driver.ok_or(RuntimeError::Unimplemented { call })?;
            let cgroup_driver = driver as i32;
            let linux = Some(api::LinuxRuntimeConfiguration { cgroup_driver });
            Ok(api::RuntimeConfigResponse { linux })
        })
    }

    fn update_runtime_config(&self, _pod_cidr: String) -> Call<'_, ()> {
        self.with("UpdateRuntimeConfig", "", |_| Ok(()))
    }

    fn events(&self) -> Call<'_, Events> {
        let call = "GetContainerEvents";
        self.with(call, "", |_| {
            Err::<Events, _>(RuntimeError::Unimplemented { call })
        })
    }

    fn run_sandbox(&self, config: api::PodSandboxConfig, handler: String) -> Call<'_, String> {
        let metadata = config.metadata.clone().unwrap_or_default();
        self.with("RunPodSandbox", &metadata.name.clone(), |world| {
            let id = world.id("sandbox");
            let ip = format!("10.86.0.{}", world.next % 250 + 2);
            let status = api::PodSandboxStatus {
                id: id.clone(),
                metadata: Some(metadata),
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
            Ok(id)
        })
    }

    fn stop_sandbox(&self, id: &str) -> Call<'_, ()> {
        self.with("StopPodSandbox", id, |world| {
            let inside: Vec<_> = world
                .containers
                .iter()
                .filter(|(_, (s, _))| s == id)
                .map(|(c, _)| c.clone())
                .collect();
            for container in inside {
                world.exit(&container, 137);
            }
            if let Some(sandbox) = world.sandboxes.get_mut(id) {
                sandbox.state = api::PodSandboxState::SandboxNotready as i32;
            }
            Ok(())
        })
    }

    fn remove_sandbox(&self, id: &str) -> Call<'_, ()> {
        self.with("RemovePodSandbox", id, |world| {
            world.sandboxes.remove(id);
            world.containers.retain(|_, (sandbox, _)| sandbox != id);
            Ok(())
        })
    }

    fn sandbox_status(&self, id: &str) -> Call<'_, api::PodSandboxStatus> {
        let call = "PodSandboxStatus";
        self.with(call, id, |world| {
            world
                .sandboxes
                .get(id)
                .cloned()
                .ok_or_else(|| World::missing(call, id))
        })
    }

    fn list_sandboxes(&self, labels: Labels) -> Call<'_, Vec<api::PodSandbox>> {
        self.with("ListPodSandbox", "", |world| {
            let all = world.sandboxes.values().filter(|s| matches(&s.labels, &labels));
            Ok(all.map(listed_sandbox).collect())
        })
    }

    fn create_container(
        &self,
        sandbox: &str,
        config: api::ContainerConfig,
        _sandbox_config: api::PodSandboxConfig,
    ) -> Call<'_, String> {
        let call = "CreateContainer";
        let name = config.metadata.clone().unwrap_or_default().name;
        self.with(call, &name, |world| {
            let ready = world
                .sandboxes
                .get(sandbox)
                .is_some_and(|s| s.state == api::PodSandboxState::SandboxReady as i32);
            if !ready {
                world
                    .violations
                    .push(format!("{name} created in a sandbox that is not ready"));
                return Err(World::missing(call, sandbox));
            }
            let id = world.id("container");
            let status = created(world, &id, config);
            world.containers.insert(id.clone(), (sandbox.to_owned(), status));
            Ok(id)
        })
    }

    fn start_container(&self, id: &str) -> Call<'_, ()> {
        let call = "StartContainer";
        let name = self
            .world
            .lock()
            .containers
            .get(id)
            .map(|(_, s)| s.labels[NAME].clone());
        self.with(call, &name.clone().unwrap_or_default(), |world| {
            let now = world.tick();
            let running = api::ContainerState::ContainerRunning as i32;
            let labels = match world.containers.get(id) {
                Some((_, status)) => status.labels.clone(),
                None => return Err(World::missing(call, id)),
            };
            if world.unstartable.contains(&labels[NAME]) {
                world.exit(id, 128);
                return Err(World::refused(call, "no such program"));
            }
            let same = |s: &api::ContainerStatus| {
                s.state == running
                    && s.labels.get(UID) == labels.get(UID)
                    && s.labels.get(NAME) == labels.get(NAME)
            };
            if world.containers.values().any(|(_, s)| same(s)) {
                world
                    .violations
                    .push(format!("two instances of {}", labels[NAME]));
            }
            if let Some((_, status)) = world.containers.get_mut(id) {
                status.state = running;
                status.started_at = now;
            }
            if let Some(code) = name.and_then(|n| world.exits.get(&n).copied()) {
                world.exit(id, code);
            }
            Ok(())
        })
    }

    fn stop_container(&self, id: &str, grace_seconds: i64) -> Call<'_, ()> {
        self.with("StopContainer", &format!("{id} {grace_seconds}"), |world| {
            world.exit(id, if grace_seconds == 0 { 137 } else { 143 });
            Ok(())
        })
    }

    fn remove_container(&self, id: &str) -> Call<'_, ()> {
        self.with("RemoveContainer", id, |world| {
            world.containers.remove(id);
            Ok(())
        })
    }

    fn container_status(&self, id: &str) -> Call<'_, api::ContainerStatus> {
        let call = "ContainerStatus";
        self.with(call, id, |world| {
            let found = world.containers.get(id).map(|(_, status)| status.clone());
            found.ok_or_else(|| World::missing(call, id))
        })
    }

    fn list_containers(&self, labels: Labels) -> Call<'_, Vec<api::Container>> {
        self.with("ListContainers", "", |world| {
            let all = world
                .containers
                .values()
                .filter(|(_, s)| matches(&s.labels, &labels));
            Ok(all
                .map(|(sandbox, status)| listed_container(sandbox, status))
                .collect())
        })
    }

    fn update_container(&self, id: &str, _: api::LinuxContainerResources) -> Call<'_, ()> {
        self.with("UpdateContainerResources", id, |_| Ok(()))
    }

    fn reopen_log(&self, id: &str) -> Call<'_, ()> {
        self.with("ReopenContainerLog", id, |_| Ok(()))
    }

    fn exec_sync(&self, _: &str, command: Vec<String>, _: i64) -> Call<'_, api::ExecSyncResponse> {
        let first = command.into_iter().next().unwrap_or_default();
        let known = self.world.lock().exec.get(&first).copied();
        let (exit_code, takes) = known.unwrap_or_default();
        let answer = self.with("ExecSync", &first, |_| {
            Ok(api::ExecSyncResponse {
                exit_code,
                ..Default::default()
            })
        });
        async move {
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            answer.await
        }
        .boxed()
    }

    fn image_status(&self, name: &str) -> Call<'_, Option<api::Image>> {
        self.with("ImageStatus", name, |world| {
            Ok(world
                .images
                .contains(name.trim_start_matches("sha256:"))
                .then(|| image(name)))
        })
    }

    fn pull_image(&self, pull: api::PullImageRequest) -> Call<'_, String> {
        let call = "PullImage";
        let name = pull.image.unwrap_or_default().image;
        self.with(call, &name.clone(), |world| {
            if !world.registry.contains(&name) {
                let message = format!("failed to resolve reference {name:?}: not found");
                return Err(RuntimeError::NotFound { call, message });
            }
            let user = pull.auth.map(|auth| auth.username);
            if world
                .private
                .get(&name)
                .is_some_and(|owner| Some(owner) != user.as_ref())
            {
                let (code, message) = (Code::Unknown, "pull access denied".to_owned());
                return Err(RuntimeError::Refused { call, code, message });
            }
            world.images.insert(name.clone());
            Ok(format!("sha256:{name}"))
        })
    }

    fn list_images(&self) -> Call<'_, Vec<api::Image>> {
        self.with("ListImages", "", |world| {
            Ok(world.images.iter().map(|i| image(i)).collect())
        })
    }

    fn remove_image(&self, name: &str) -> Call<'_, ()> {
        self.with("RemoveImage", name, |world| {
            world
                .images
                .retain(|known| known != name && image(known).id != name);
            Ok(())
        })
    }

    fn image_fs_info(&self) -> Call<'_, api::ImageFsInfoResponse> {
        let place = api::FilesystemUsage {
            fs_id: Some(api::FilesystemIdentifier {
                mountpoint: "/images".to_owned(),
            }),
            ..Default::default()
        };
        self.with("ImageFsInfo", "", |_| {
            Ok(api::ImageFsInfoResponse {
                image_filesystems: vec![place],
                ..Default::default()
            })
        })
    }
}

fn created(world: &mut World, id: &str, config: api::ContainerConfig) -> api::ContainerStatus {
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
        ..Default::default()
    }
}

fn listed_sandbox(status: &api::PodSandboxStatus) -> api::PodSandbox {
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

fn listed_container(sandbox: &str, status: &api::ContainerStatus) -> api::Container {
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
