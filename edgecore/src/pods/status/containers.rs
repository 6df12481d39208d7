//! The statuses of a pod's containers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, LinuxContainerUser, Pod, PodStatus, ResourceRequirements, VolumeMount,
    VolumeMountStatus,
};

use super::{Health, StatusInput, past_time, runtime_time};
use crate::pods::container_config::recursive_read_only;
use crate::pods::lifecycle;
use crate::pods::observed::{ContainerObserved, Run};
use crate::pods::spec::{self, is_sidecar};

/// The reason of a container that nobody saw end.
pub const UNKNOWN_REASON: &str = "ContainerStatusUnknown";
/// What it is then said to have exited with.
pub(super) const UNKNOWN_EXIT_CODE: i32 = 137;
const LOST: &str =
    "The container could not be located when the pod was deleted.  The container used to be Running";
const INIT_FORGOTTEN: &str = "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally";

/// One status a container of the spec, in its order.
pub(super) fn statuses(
    input: &StatusInput<'_>,
    containers: &[Container],
    old: Option<&[ContainerStatus]>,
    init: bool,
) -> Vec<ContainerStatus> {
    let old_of = |name: &str| old.unwrap_or_default().iter().find(|status| status.name == name);
    containers
        .iter()
        .map(|container| one(input, container, old_of(&container.name), init))
        .collect()
}

fn one(
    input: &StatusInput<'_>,
    container: &Container,
    old: Option<&ContainerStatus>,
    init: bool,
) -> ContainerStatus {
    let mut instances = input
        .observed
        .containers
        .iter()
        .filter(|seen| seen.name == container.name);
    let newest = instances.next();
    let mut status = match newest {
        Some(newest) => seen(input, container, newest, old),
        None => unseen(input, container, old),
    };
    if let Some(previous) = instances.find(|seen| seen.run == Run::Exited) {
        status.last_state = Some(state(input, previous));
    }
    let once = init && !is_sidecar(container);
    if once && newest.is_none() && is_initialized(input) && is_waiting(&status) {
        status.state = Some(terminated("Completed", INIT_FORGOTTEN, 0));
        return status;
    }
    if init && newest.is_some_and(|seen| seen.run == Run::Exited && seen.exit_code == 0) {
        return status;
    }
    keep_known_end(old, &mut status);
    say_why_it_waits(input, &mut status);
    status
}

/// An end that was reported stays as it was reported: its termination message may be gone from the disk.
fn keep_known_end(old: Option<&ContainerStatus>, status: &mut ContainerStatus) {
    let ended = |state: Option<&ContainerState>| state.and_then(|state| state.terminated.clone());
    let known: Vec<_> = [
        old.and_then(|old| old.state.as_ref()),
        old.and_then(|old| old.last_state.as_ref()),
    ]
    .into_iter()
    .filter_map(ended)
    .filter(|end| end.container_id.is_some())
    .collect();
    for state in [&mut status.state, &mut status.last_state].into_iter().flatten() {
        let id = state.terminated.as_ref().map(|end| end.container_id.clone());
        if let Some(end) = id.and_then(|id| known.iter().find(|end| end.container_id == id)) {
            state.terminated = Some(end.clone());
        }
    }
}

/// A container that is to be started and cannot be waits, and says why.
fn say_why_it_waits(input: &StatusInput<'_>, status: &mut ContainerStatus) {
    let Some(waiting) = input.waiting.get(&status.name) else {
        return;
    };
    let ending = input.end.stopped || input.pod.metadata.deletion_timestamp.is_some();
    if ending || !lifecycle::should_run(input.pod, input.observed, input.history, &status.name) {
        return;
    }
    if status
        .state
        .as_ref()
        .is_some_and(|state| state.terminated.is_some())
    {
        status.last_state = status.state.take();
    }
    let (reason, message) = (Some(waiting.reason.clone()), Some(waiting.message.clone()));
    let waiting = Some(ContainerStateWaiting { reason, message });
    status.state = Some(ContainerState {
        waiting,
        ..ContainerState::default()
    });
}

fn unseen(input: &StatusInput<'_>, container: &Container, old: Option<&ContainerStatus>) -> ContainerStatus {
    if let Some(old) = old.filter(|old| old.state.as_ref().is_some_and(|s| s.terminated.is_some())) {
        return old.clone();
    }
    let reason = match lifecycle::init_containers(input.pod) {
        [] => "ContainerCreating",
        _ => "PodInitializing",
    };
    let mut status = ContainerStatus {
        image: container.image.clone().unwrap_or_default(),
        name: container.name.clone(),
        restart_count: old.map_or(0, |old| old.restart_count),
        last_state: old
            .and_then(|old| old.last_state.clone())
            .or_else(|| Some(ContainerState::default())),
        state: Some(waiting(reason)),
        volume_mounts: volume_mounts(input, container),
        ..ContainerStatus::default()
    };
    let was_running = old
        .and_then(|old| old.state.as_ref())
        .is_some_and(|state| state.running.is_some());
    // Each loss counts, and once: what is told of it waits. The kubelet counts none after an end that it knows of, and
    // leaves the others to the logs, which a reboot may take too.
    if was_running {
        status.last_state = Some(terminated(UNKNOWN_REASON, LOST, UNKNOWN_EXIT_CODE));
        status.restart_count += i32::from(input.pod.metadata.deletion_timestamp.is_none());
    }
    status
}

fn seen(
    input: &StatusInput<'_>,
    container: &Container,
    newest: &ContainerObserved,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let requests = container
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.clone());
    ContainerStatus {
        name: container.name.clone(),
        container_id: Some(container_id(input, newest)),
        image: newest.image.clone(),
        image_id: newest.image_ref.clone(),
        restart_count: i32::try_from(newest.restart_count).unwrap_or(i32::MAX),
        state: Some(state(input, newest)),
        last_state: last_told(old, &container_id(input, newest)).or_else(|| Some(ContainerState::default())),
        volume_mounts: volume_mounts(input, container),
        resources: Some(resources(input, container, newest)),
        allocated_resources: requests,
        user: user(newest),
        ..ContainerStatus::default()
    }
}

/// The end that was told before: of the instance before this one, which the runtime may have forgotten.
fn last_told(old: Option<&ContainerStatus>, id: &str) -> Option<ContainerState> {
    let old = old?;
    let another = old.container_id.as_deref() != Some(id);
    let ended = |state: &&ContainerState| state.terminated.is_some();
    let before = old.state.as_ref().filter(|state| another && ended(state));
    before.or(old.last_state.as_ref()).cloned()
}

/// What was set of a container that runs; of another one, what it starts with.
fn resources(
    input: &StatusInput<'_>,
    container: &Container,
    seen: &ContainerObserved,
) -> ResourceRequirements {
    let allocated = container.resources.as_ref();
    let set = input
        .resize
        .set
        .get(&seen.id)
        .filter(|_| seen.run == Run::Running);
    let told = match set {
        Some(set) => set.within(allocated),
        None => allocated.cloned(),
    };
    told.unwrap_or_default()
}

fn container_id(input: &StatusInput<'_>, seen: &ContainerObserved) -> String {
    format!("{}://{}", input.runtime, seen.id)
}

fn user(seen: &ContainerObserved) -> Option<ContainerUser> {
    let user = seen.user.as_ref()?;
    let groups = user.supplemental_groups.clone();
    Some(ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: user.uid,
            gid: user.gid,
            supplemental_groups: (!groups.is_empty()).then_some(groups),
        }),
    })
}

fn volume_mounts(input: &StatusInput<'_>, container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref()?;
    let recursive = |mount: &VolumeMount| match recursive_read_only(mount, input.recursive_read_only) {
        Ok(true) => "Enabled",
        Ok(false) | Err(_) => "Disabled",
    };
    let status = |mount: &VolumeMount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only,
        recursive_read_only: mount
            .read_only
            .unwrap_or(false)
            .then(|| recursive(mount).to_owned()),
        ..VolumeMountStatus::default()
    };
    Some(mounts.iter().map(status).collect())
}

fn state(input: &StatusInput<'_>, seen: &ContainerObserved) -> ContainerState {
    match seen.run {
        Run::Running => ContainerState {
            running: Some(ContainerStateRunning {
                started_at: runtime_time(seen.started_at),
            }),
            ..ContainerState::default()
        },
        Run::Exited => ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: Some(container_id(input, seen)),
                exit_code: seen.exit_code,
                reason: Some(seen.reason.clone()).filter(|reason| !reason.is_empty()),
                message: end_message(seen),
                started_at: Some(past_time(seen.started_at)),
                finished_at: Some(past_time(seen.finished_at)),
                signal: None,
            }),
            ..ContainerState::default()
        },
        Run::Created | Run::Unknown => ContainerState {
            waiting: Some(ContainerStateWaiting::default()),
            ..ContainerState::default()
        },
    }
}

/// The runtime's words, then the container's own.
fn end_message(seen: &ContainerObserved) -> Option<String> {
    match (seen.message.as_str(), seen.last_words.as_str()) {
        ("", "") => None,
        (one, "") | ("", one) => Some(one.to_owned()),
        (runtime, own) => Some(format!("{runtime}: {own}")),
    }
}

fn waiting(reason: &str) -> ContainerState {
    let waiting = ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message: None,
    };
    ContainerState {
        waiting: Some(waiting),
        ..ContainerState::default()
    }
}

pub(super) fn terminated(reason: &str, message: &str, exit_code: i32) -> ContainerState {
    let terminated = ContainerStateTerminated {
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        exit_code,
        ..ContainerStateTerminated::default()
    };
    ContainerState {
        terminated: Some(terminated),
        ..ContainerState::default()
    }
}

pub(super) fn is_waiting(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.waiting.is_some())
}

fn is_initialized(input: &StatusInput<'_>) -> bool {
    let mains = lifecycle::main_containers(input.pod);
    mains
        .iter()
        .any(|container| input.observed.latest(&container.name).is_some())
}

/// Sets `started` and `ready`.
pub(super) fn apply_health(pod: &Pod, health: &BTreeMap<String, Health>, status: &mut PodStatus) {
    for container in status.container_statuses.iter_mut().flatten() {
        let health = health_of(pod, health, container);
        container.started = Some(health.started);
        container.ready = health.started && health.ready;
    }
    for container in status.init_container_statuses.iter_mut().flatten() {
        let health = health_of(pod, health, container);
        let state = container.state.as_ref();
        let ended = state.and_then(|state| state.terminated.as_ref());
        let done = ended.is_some_and(|ended| ended.exit_code == 0);
        container.started = Some(health.started);
        container.ready = if lasts(pod, &container.name) {
            health.started && health.ready
        } else {
            done
        };
    }
}

/// Whether it is to run for as long as the pod does.
fn lasts(pod: &Pod, name: &str) -> bool {
    lifecycle::lasting(pod).any(|container| container.name == name)
}

fn health_of(pod: &Pod, health: &BTreeMap<String, Health>, status: &ContainerStatus) -> Health {
    let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
    if !running {
        return Health {
            started: false,
            ready: false,
        };
    }
    let id = status
        .container_id
        .as_deref()
        .and_then(|id| id.split_once("://"))
        .map_or("", |(_, id)| id);
    if let Some(health) = health.get(id) {
        return *health;
    }
    // No probe has been started for it yet: only a container without probes is as good as its process.
    let spec = spec::all_containers(pod).find(|container| container.name == status.name);
    let started = spec.is_none_or(|container| container.startup_probe.is_none());
    Health {
        started,
        ready: started && spec.is_none_or(|container| container.readiness_probe.is_none()),
    }
}
