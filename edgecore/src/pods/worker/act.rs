//! Carrying out the steps of a plan.
//!
//! Each step is one write to the runtime (a start is two) and may fail; what failed is held back for a while
//! and said in the pod's status. Image pulls and mounts give way when the pod is ordered to end.

use std::fs;
use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use k8s_cri::v1::{ContainerConfig, PodSandboxConfig};
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use super::{Order, Waiting, Worker, ordered_end};
use crate::pods::container_config::{self, ConfigError, ContainerInput};
use crate::pods::events::Tone;
use crate::pods::images::{ImageError, ImageEvent, ImageWish, PresentImage};
use crate::pods::lifecycle::{self, Kill, MIN_GRACE_SECONDS, Stage, Start, Step};
use crate::pods::sandbox_config;
use crate::pods::volumes::Mounted;
use crate::pods::{resources, spec};
use crate::runtime::RuntimeError;

/// How long what failed is left alone: the kubelet's back-off after a failed sync.
const AFTER_FAILURE: Duration = Duration::from_secs(10);
/// The first and the longest wait after a failed mount.
const MOUNT_RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(122));

/// Ends when the pod is ordered to end sooner than `than` (in seconds).
async fn ordered_to_end_sooner(mut orders: watch::Receiver<Order>, than: i64) {
    let sooner = |order: &Order| ordered_end(order).is_some_and(|grace| grace < than);
    if orders.wait_for(sooner).await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Worker {
    pub(super) async fn carry_out(&mut self, steps: Vec<Step>) {
        let kills = steps.iter().filter_map(|step| match step {
            Step::Kill(kill) => Some(kill.clone()),
            Step::StopSandbox { .. } | Step::CreateSandbox { .. } | Step::Start(_) => None,
        });
        if !self.kill_all(kills.collect()).await {
            return;
        }
        for step in steps {
            match step {
                Step::Kill(_) => {}
                Step::StopSandbox { id } => self.stop_sandbox(&id).await,
                Step::CreateSandbox { attempt } => self.create_sandbox(attempt).await,
                Step::Start(start) => self.start(&start).await,
            }
            if self.stage == Stage::Running && ordered_end(&self.orders.borrow()).is_some() {
                return;
            }
        }
    }

    /// Whether all are stopped; else the worker looks and plans again.
    async fn kill_all(&mut self, kills: Vec<Kill>) -> bool {
        let longest = kills.iter().map(|kill| kill.grace_seconds).max().unwrap_or(0);
        for kill in &kills {
            self.announce(kill);
        }
        let runtime = self.kit.runtime.as_ref();
        let stops = kills
            .iter()
            .map(|kill| runtime.stop_container(&kill.id, kill.grace_seconds));
        // A shorter grace cannot cut the shortest one, so it is no reason to start over.
        let sooner = longest.max(MIN_GRACE_SECONDS);
        let floor_reached = sooner <= MIN_GRACE_SECONDS;
        let results = tokio::select! {
            results = join_all(stops) => results,
            () = ordered_to_end_sooner(self.orders.clone(), sooner), if !floor_reached => return false,
        };
        let failed = results.into_iter().filter_map(Result::err).next_back();
        if let Some(error) = &failed {
            self.kill_failed(error).await;
        }
        failed.is_none()
    }

    async fn kill_failed(&self, error: &RuntimeError) {
        let message = format!("error killing pod: {error}");
        self.kit
            .events
            .pod(self.pod(), Tone::Warning, "FailedKillPod", &message);
        tokio::time::sleep(super::RETRY).await;
    }

    fn announce(&mut self, kill: &Kill) {
        if kill.restart {
            self.history.owed.insert(kill.id.clone());
        }
        if self.announced.insert(kill.id.clone()) {
            self.say(&kill.name, (Tone::Normal, "Killing", &kill.message));
        }
    }

    fn say(&self, container: &str, event: (Tone, &str, &str)) {
        self.kit
            .events
            .container(self.pod(), &field(self.pod(), container), event);
    }

    async fn stop_sandbox(&mut self, id: &str) {
        if let Err(error) = self.kit.runtime.stop_sandbox(id).await {
            self.kill_failed(&error).await;
        }
    }

    async fn create_sandbox(&mut self, attempt: u32) {
        if !self.prepare().await {
            return;
        }
        let built = sandbox_config::build(&self.kit.facts, self.pod(), attempt);
        for (reason, message) in &built.warnings {
            self.kit.events.pod(self.pod(), Tone::Warning, reason, message);
        }
        if attempt > 0 {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.kit
                .events
                .pod(self.pod(), Tone::Normal, "SandboxChanged", message);
        }
        let handler = String::new();
        let made = match self.kit.starts.acquire().await {
            Ok(_permit) => self.kit.runtime.run_sandbox(built.config, handler).await,
            Err(_closed) => return,
        };
        if let Err(error) = made {
            let message = format!("Failed to create pod sandbox: {error}");
            self.kit
                .events
                .pod(self.pod(), Tone::Warning, "FailedCreatePodSandBox", &message);
            self.holds.sandbox = Some(Instant::now() + AFTER_FAILURE);
        }
    }

    /// Brings the pod's directories, cgroup and volumes into being; false when something is missing.
    async fn prepare(&mut self) -> bool {
        let pod = self.pod();
        if let Some(cgroups) = &self.kit.cgroups {
            let (qos, limits) = (resources::qos(pod), resources::pod_limits(pod));
            if let Err(error) = cgroups.ensure_pod(qos, &self.uid, &limits) {
                let message = format!("unable to ensure pod container exists: {error}");
                self.kit
                    .events
                    .pod(pod, Tone::Warning, "FailedCreatePodContainer", &message);
                self.holds.sandbox = Some(Instant::now() + AFTER_FAILURE);
                return false;
            }
        }
        self.mount().await
    }

    /// Brings the volumes to disk or up to date.
    pub(super) async fn mount(&mut self) -> bool {
        if let Err(error) = fs::create_dir_all(self.kit.facts.pod_dir(&self.uid).join("containers")) {
            let message = format!("error making pod data directories: {error}");
            self.kit.events.pod(self.pod(), Tone::Warning, "Failed", &message);
            self.holds.sandbox = Some(Instant::now() + AFTER_FAILURE);
            return false;
        }
        let mounted = tokio::select! {
            mounted = self.kit.volumes.mount(&self.order.desired.pod) => mounted,
            () = ordered_to_end_sooner(self.orders.clone(), i64::MAX) => return false,
        };
        match mounted {
            Ok(mounted) => {
                self.holds.mount_failures = 0;
                self.refresh_at = mounted.refresh_after.map(|after| Instant::now() + after);
                self.mounted = Some(mounted);
                true
            }
            Err(error) => {
                self.kit
                    .events
                    .pod(self.pod(), Tone::Warning, "FailedMount", &error.to_string());
                let retry = MOUNT_RETRY.0 * 2_u32.saturating_pow(self.holds.mount_failures.min(8));
                self.holds.mount_failures += 1;
                self.holds.sandbox = Some(Instant::now() + retry.min(MOUNT_RETRY.1));
                self.refresh_at = self.holds.sandbox;
                false
            }
        }
    }

    async fn start(&mut self, start: &Start) {
        let Some(container) = start.place.of(self.pod()).cloned() else {
            return;
        };
        if self.mounted.is_none() && !self.mount().await {
            return;
        }
        let attempt = self.observed.sandbox().map_or(0, |sandbox| sandbox.attempt);
        let sandbox = sandbox_config::build(&self.kit.facts, self.pod(), attempt).config;
        let image = tokio::select! {
            image = self.image(&container, &sandbox) => image,
            () = ordered_to_end_sooner(self.orders.clone(), i64::MAX) => return,
        };
        let image = match image {
            Ok(image) => image,
            Err(error) => return self.image_missing(&container, &error),
        };
        match self.create_and_start(start, &container, (&image, sandbox)).await {
            Ok(id) => self.started(start, &container, &id),
            Err(failure) => self.failed(&container, failure),
        }
    }

    async fn image(
        &self,
        container: &Container,
        sandbox: &PodSandboxConfig,
    ) -> Result<PresentImage, ImageError> {
        let tell = |event: ImageEvent| {
            let tone = if event.warning {
                Tone::Warning
            } else {
                Tone::Normal
            };
            self.say(&container.name, (tone, event.reason, &event.message));
        };
        self.kit
            .images
            .ensure(
                ImageWish {
                    pod: self.pod(),
                    container,
                    sandbox,
                },
                &tell,
            )
            .await
    }

    fn image_missing(&mut self, container: &Container, error: &ImageError) {
        let waiting = Waiting {
            reason: error.reason().to_owned(),
            message: error.to_string(),
        };
        let wait = match error {
            ImageError::BackOff { retry_after, .. } => *retry_after,
            ImageError::InvalidName { .. }
            | ImageError::NeverPull(_)
            | ImageError::Inspect { .. }
            | ImageError::Pull { .. } => AFTER_FAILURE.min(Duration::from_secs(2)),
        };
        if !matches!(error, ImageError::BackOff { .. }) {
            let message = format!("Error: {}", error.reason());
            self.say(&container.name, (Tone::Warning, "Failed", &message));
        }
        self.waiting.insert(container.name.clone(), waiting);
        self.holds
            .containers
            .insert(container.name.clone(), Instant::now() + wait);
    }

    async fn create_and_start(
        &mut self,
        start: &Start,
        container: &Container,
        (image, sandbox): (&PresentImage, PodSandboxConfig),
    ) -> Result<String, Failure> {
        let config = self.config(start, container, image)?;
        let runtime = std::sync::Arc::clone(&self.kit.runtime);
        let kit = std::sync::Arc::clone(&self.kit);
        let Ok(_permit) = kit.starts.acquire().await else {
            return Err(Failure::closing());
        };
        let id = Box::pin(runtime.create_container(&start.sandbox, config, sandbox)).await;
        let id = id.map_err(|error| Failure::of("CreateContainerError", &error))?;
        self.say(&container.name, (Tone::Normal, "Created", "Container created"));
        let started = runtime.start_container(&id).await;
        started.map_err(|error| Failure::of("RunContainerError", &error))?;
        self.say(&container.name, (Tone::Normal, "Started", "Container started"));
        Ok(id)
    }

    fn config(
        &self,
        start: &Start,
        container: &Container,
        image: &PresentImage,
    ) -> Result<ContainerConfig, ConfigError> {
        let pod = self.pod();
        let host_ips = self.kit.host_ips();
        let pod_ips = if spec::host_network(pod) {
            &host_ips
        } else {
            self.observed.ips()
        };
        let none = Mounted::default();
        container_config::build(&ContainerInput {
            facts: &self.kit.facts,
            objects: self.kit.objects.as_ref(),
            pod,
            container,
            attempt: start.restart_count,
            pod_ips,
            image,
            volumes: self.mounted.as_ref().unwrap_or(&none),
        })
    }

    fn started(&mut self, start: &Start, container: &Container, id: &str) {
        self.waiting.remove(&container.name);
        self.holds.containers.remove(&container.name);
        if let Some(ended) = start.follows {
            let key = lifecycle::backoff_key(container);
            self.history.backoff.restarted(&key, ended, Instant::now());
        }
        let log_dir = self.kit.facts.pod_log_dir(self.pod());
        let log = log_dir
            .join(&container.name)
            .join(format!("{}.log", start.restart_count));
        link_log(&self.kit.link_dir, self.pod(), &container.name, id, &log);
    }

    fn failed(&mut self, container: &Container, Failure { reason, message }: Failure) {
        self.say(
            &container.name,
            (Tone::Warning, "Failed", &format!("Error: {message}")),
        );
        let waiting = Waiting {
            reason: reason.to_owned(),
            message,
        };
        self.waiting.insert(container.name.clone(), waiting);
        self.holds
            .containers
            .insert(container.name.clone(), Instant::now() + AFTER_FAILURE);
    }
}

/// Why a container could not be started, as its status says it.
struct Failure {
    reason: &'static str,
    message: String,
}

impl Failure {
    fn of(reason: &'static str, error: &RuntimeError) -> Self {
        Self {
            reason,
            message: error.words(),
        }
    }

    fn closing() -> Self {
        Self {
            reason: "RunContainerError",
            message: "the node agent is stopping".to_owned(),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self {
            reason: ConfigError::REASON,
            message: error.to_string(),
        }
    }
}

/// How events name a container of a pod: `spec.containers{name}`.
pub(super) fn field(pod: &Pod, container: &str) -> String {
    let init = lifecycle::init_containers(pod)
        .iter()
        .any(|init| init.name == container);
    let list = if init { "initContainers" } else { "containers" };
    format!("spec.{list}{{{container}}}")
}

/// `/var/log/containers/<pod>_<namespace>_<container>-<id>.log`: what log shippers read. A missing link
/// costs a log shipper one container, so it does not fail the start.
fn link_log(dir: &Path, pod: &Pod, container: &str, id: &str, log: &Path) {
    let name = format!(
        "{}_{}_{container}-{id}.log",
        spec::name(pod),
        spec::namespace(pod)
    );
    let linked = fs::create_dir_all(dir).and_then(|()| std::os::unix::fs::symlink(log, dir.join(name)));
    if let Err(error) = linked {
        warn!(%error, pod = spec::name(pod), container, "the log could not be linked");
    }
}
