//! Carrying out the steps of a plan.
//!
//! Each step is one write to the runtime (a start is two) and may fail; what failed is held back for a while
//! and said in the pod's status. Mounts, sub paths and turns to start give way when the pod is ordered to end, and so does
//! what the runtime does not answer for long; what waits for an image holds up nothing.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_cri::v1::{ContainerConfig, PodSandboxConfig};
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::time::Instant;
use tracing::warn;

use super::orders::{ordered_end, ordered_to_end_sooner};
use super::permit::{PATIENCE, made};
use super::{Waiting, Worker};
use crate::pods::container_config::{self, ConfigError, ContainerInput};
use crate::pods::events::Tone;
use crate::pods::images::{ImageError, PresentImage};
use crate::pods::lifecycle::{self, Stage, Start, Step};
use crate::pods::logs;
use crate::pods::observed;
use crate::pods::sandbox_config;
use crate::pods::spec;
use crate::pods::turns::keeping;
use crate::pods::volumes;
use crate::runtime::RuntimeError;

/// How long what failed is left alone: the kubelet's back-off after a failed sync.
pub(super) const AFTER_FAILURE: Duration = Duration::from_secs(10);

/// How often the stop of a dead sandbox is tried.
const STOP_TRIES: u32 = 3;

impl Worker {
    /// Whether all of it is done and noted, so that the next plan needs no look at the whole pod.
    pub(super) async fn carry_out(&mut self, steps: Vec<Step>) -> bool {
        let kills = steps.iter().filter_map(|step| match step {
            Step::Kill(kill) => Some(kill.clone()),
            Step::StopSandbox { .. } | Step::CreateSandbox { .. } | Step::Start(_) => None,
        });
        if !self.kill_all(kills.collect()).await {
            return false;
        }
        let mut noted = true;
        for step in steps {
            let starts = matches!(step, Step::Start(_));
            noted &= match step {
                Step::Kill(_) => false,
                Step::StopSandbox { id } => self.stop_sandbox(&id).await,
                Step::CreateSandbox { attempt } => self.create_sandbox(attempt).await,
                Step::Start(start) => self.start(&start).await,
            };
            let to_end = self.stage == Stage::Running && ordered_end(&self.orders.borrow()).is_some();
            if to_end || starts && self.ahead.pulling.is_awaited() {
                return false;
            }
        }
        noted
    }

    pub(super) fn say(&self, container: &str, event: (Tone, &str, &str)) {
        self.kit
            .events
            .container(self.pod(), &field(self.pod(), container), event);
    }

    /// Never noted: much changes with a sandbox. In a dead one nothing runs, only its network may still stand:
    /// where that cannot be taken down, the pod is not kept from going on for long.
    async fn stop_sandbox(&mut self, id: &str) -> bool {
        let Err(error) = self.kit.runtime.stop_sandbox(id).await else {
            self.history.stopped.insert(id.to_owned());
            return false;
        };
        let tries = self.holds.stops.entry(id.to_owned()).or_default();
        *tries += 1;
        if *tries >= STOP_TRIES {
            // The plan still does not let go of one that is ready.
            self.history.stopped.insert(id.to_owned());
        }
        self.kill_failed(&error).await;
        false
    }

    /// How often the container has been restarted, of which the runtime knows nothing: it is new, or the runtime has
    /// forgotten its instances, over a reboot perhaps. Then the count goes on from what was told and what is logged, of
    /// which only the newest is kept, as of dead containers.
    fn follow_forgotten(&self, container: &str) -> u32 {
        let statuses = spec::container_statuses(&self.status());
        let named = statuses.iter().filter(|status| status.name == container);
        let told = named.filter_map(|status| u32::try_from(status.restart_count).ok());
        let logs = self.kit.facts.pod_log_dir(self.pod()).join(container);
        logs::remove_older(&logs);
        told.max().unwrap_or(0).max(logs::next_attempt(&logs))
    }

    /// Whether it started and its first state is noted.
    async fn start(&mut self, start: &Start) -> bool {
        let Some(container) = start.place.of(self.pod()).cloned() else {
            return false;
        };
        let mut start = start.clone();
        if self.observed.latest(&container.name).is_none() {
            start.restart_count = self.follow_forgotten(&container.name);
        }
        let start = &start;
        if self.mounted.is_none() && !self.mount().await {
            return false;
        }
        let attempt = self.observed.sandbox().map_or(0, |sandbox| sandbox.attempt);
        let sandbox = sandbox_config::build(&self.kit.facts, self.pod(), attempt).config;
        let image = match self.image(&container, &sandbox).await {
            Some(Ok(image)) => image,
            Some(Err(error)) => {
                self.image_missing(&container, &error);
                return false;
            }
            None => return false,
        };
        let ordered_to_end = ordered_to_end_sooner(self.orders.clone(), i64::MAX);
        let config = tokio::select! {
            config = self.config(start, &container, image) => config,
            () = ordered_to_end => return false,
        };
        let made = match config {
            Ok(_) if !self.take_permit().await => return false,
            Ok(config) => self.create_and_start(start, &container, (config, sandbox)).await,
            Err(error) => Err(error.into()),
        };
        match made {
            Ok(None) => false,
            Ok(Some(id)) => {
                self.started(start, &container, &id);
                if !self.post_start(&container, &id).await {
                    return false;
                }
                self.note_container(&id, &start.sandbox).await
            }
            Err(failure) => {
                self.failed(&container, failure);
                false
            }
        }
    }

    /// Sees what was just started, and nothing else of the pod.
    async fn note_container(&mut self, id: &str, sandbox: &str) -> bool {
        let runtime = self.kit.runtime.as_ref();
        let Ok(Some(seen)) = observed::look_at_container(runtime, (id, sandbox), &mut self.memory).await
        else {
            return false;
        };
        self.observed.note_container(seen);
        true
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
        let message = format!("Error: {}", error.reason());
        self.say(&container.name, (Tone::Warning, "Failed", &message));
        self.waiting.insert(container.name.clone(), waiting);
        self.holds
            .containers
            .insert(container.name.clone(), Instant::now() + wait);
    }

    /// Nothing when the pod is to end and the runtime does not answer.
    async fn create_and_start(
        &mut self,
        start: &Start,
        container: &Container,
        (config, sandbox): (ContainerConfig, PodSandboxConfig),
    ) -> Result<Option<String>, Failure> {
        let runtime = Arc::clone(&self.kit.runtime);
        self.count_restart(start, container);
        let create = runtime.create_container(&start.sandbox, config, sandbox);
        let created = made(&mut self.permit, self.orders.clone(), ("container", create)).await;
        let Some(created) = created else { return Ok(None) };
        let id = created.map_err(|error| Failure::of("CreateContainerError", &error))?;
        self.note_made(container, &id);
        self.say(&container.name, (Tone::Normal, "Created", "Container created"));
        let begin = runtime.start_container(&id);
        let started = made(
            &mut self.permit,
            self.orders.clone(),
            ("container's start", begin),
        )
        .await;
        let Some(started) = started else { return Ok(None) };
        started.map_err(|error| Failure::of("RunContainerError", &error))?;
        self.say(&container.name, (Tone::Normal, "Started", "Container started"));
        Ok(Some(id))
    }

    /// Builds off the threads that carry the link: a subPath looks into the file system of its volume, a network
    /// share perhaps that does not answer. Then the permit is given back, for others could start meanwhile.
    async fn config(
        &mut self,
        start: &Start,
        container: &Container,
        image: PresentImage,
    ) -> Result<ContainerConfig, ConfigError> {
        let (kit, desired) = (Arc::clone(&self.kit), Arc::clone(&self.order.desired));
        let pod_ips = if spec::host_network(&desired.pod) {
            kit.host_ips()
        } else {
            self.observed.ips().to_vec()
        };
        let (attempt, container) = (start.restart_count, container.clone());
        let mounted = self.mounted.clone().unwrap_or_default();
        let built = volumes::blocking(move || {
            container_config::build(&ContainerInput {
                facts: &kit.facts,
                objects: kit.objects.as_ref(),
                pod: &desired.pod,
                container: &container,
                attempt,
                pod_ips: &pod_ips,
                image: &image,
                volumes: &mounted,
                recursive_read_only: kit.recursive_read_only(&desired.pod),
            })
        });
        let built = keeping(&mut self.permit, PATIENCE, built).await;
        built.unwrap_or_else(|error| Err(ConfigError::io("build the container's config", &error)))
    }

    /// Counts before it is known whether the container starts: one that cannot waits just as long.
    fn count_restart(&mut self, start: &Start, container: &Container) {
        if let Some(ended) = start.follows {
            let key = lifecycle::backoff_key(container);
            self.history.backoff.restarted(&key, ended, Instant::now());
        }
    }

    fn started(&mut self, start: &Start, container: &Container, id: &str) {
        self.waiting.remove(&container.name);
        self.holds.containers.remove(&container.name);
        let log_dir = self.kit.facts.pod_log_dir(self.pod());
        let log = log_dir
            .join(&container.name)
            .join(format!("{}.log", start.restart_count));
        link_log(&self.kit.link_dir, self.pod(), &container.name, id, &log);
    }

    fn failed(&mut self, container: &Container, Failure { reason, message }: Failure) {
        let (pod, name) = (spec::name(self.pod()), container.name.as_str());
        warn!(
            pod,
            container = name,
            reason,
            message,
            "the container could not be started"
        );
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
