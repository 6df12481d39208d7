//! A pod's status as the kubelet writes it.
//!
//! Pure: [`build`] gets the pod, what was reported last and what is observed. Times are cut to seconds, the
//! API server's precision, so that two statuses can be compared with `==`.
//!
//! **Invariants:** a pod that was reported `Succeeded` or `Failed` is never reported in another phase, and none is
//! reported so before all of it has stopped: who counts on the phase starts another one in its place.

mod conditions;
mod containers;
mod ended;
pub(super) mod ephemeral;
mod phase;

use std::collections::BTreeMap;
use std::time::SystemTime;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, Pod, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};

use super::lifecycle::{self, History};
use super::observed::{ContainerObserved, PodObserved, Run};
use super::resize::Resize;
use super::resources;
use super::spec;
use super::termination;

pub use containers::UNKNOWN_REASON;
use phase::Progress;

/// Everything that a status is made from.
#[derive(Clone, Copy)]
pub struct StatusInput<'a> {
    /// The pod; its own `status` is what the API server showed last.
    pub pod: &'a Pod,
    /// What was reported last, if anything.
    pub last: Option<&'a PodStatus>,
    /// What the runtime shows.
    pub observed: &'a PodObserved,
    /// What this process remembers of the pod.
    pub history: &'a History,
    /// Why containers wait, by container name.
    pub waiting: &'a BTreeMap<String, Waiting>,
    /// What probes say, by container id.
    pub health: &'a BTreeMap<String, Health>,
    /// The device's addresses, first the primary one.
    pub host_ips: &'a [String],
    /// The runtime's name, for container ids.
    pub runtime: &'a str,
    /// Whether the pod's handler can make mounts read-only all the way down.
    pub recursive_read_only: bool,
    /// How far its resize is.
    pub resize: &'a Resize,
    /// How far the pod's end has come.
    pub end: &'a End,
    /// When the pod was first seen here.
    pub since: SystemTime,
    /// The wall clock.
    pub now: SystemTime,
}

/// Why a container waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// `CrashLoopBackOff`, `ErrImagePull`, …
    pub reason: String,
    /// For people.
    pub message: String,
}

/// What probes say of a running container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Its startup probe has succeeded.
    pub started: bool,
    /// Its readiness probe succeeds.
    pub ready: bool,
}

/// How far the pod's end has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Nothing of it runs any more, and nothing will.
    pub stopped: bool,
    /// Its init containers were not through when it began to end: its main containers have not run.
    pub uninitialized: bool,
    /// The pod fails, whatever its containers say.
    pub failed: Option<Failure>,
    /// The pod was not admitted, for this reason and with this message: nothing of it was made, at least not since
    /// edgecore was started.
    pub rejected: Option<(String, String)>,
}

/// Why a pod fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// `Evicted`, `DeadlineExceeded`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The node needs what it uses: it gets the condition `DisruptionTarget`.
    pub for_the_node: bool,
}

/// Whether a pod of which `told` was told, and now `status`, has come past its init containers. Of one that has ended
/// it was decided then: its main containers still wait, or none does.
pub fn is_initialized(pod: &Pod, told: Option<&PodStatus>, status: &PodStatus) -> bool {
    let told = told.or(pod.status.as_ref()).cloned().unwrap_or_default();
    if is_terminal(&told) {
        return !told
            .container_statuses
            .iter()
            .flatten()
            .any(containers::is_waiting);
    }
    ended::was_initialized(pod, &told, status)
}

/// `Succeeded` and `Failed` are for ever.
pub fn is_terminal(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// The status to report.
pub fn build(input: &StatusInput<'_>) -> PodStatus {
    let old = input
        .last
        .or(input.pod.status.as_ref())
        .cloned()
        .unwrap_or_default();
    if let (Some((reason, message)), None, true) = (&input.end.rejected, &input.end.failed, input.end.stopped)
    {
        return rejected(input, &old, (reason, message));
    }
    let mut status = from_runtime(input, &old);
    containers::apply_health(input.pod, input.health, &mut status);
    settle_phase(input, &old, &mut status);
    conditions::apply(input, &old, &mut status);
    // Last: the conditions of a pod that never ran say what it lacked, not that it has failed; and those of one that
    // is about to end say so already.
    if input.end.stopped {
        ended::settle(input, &old, &mut status);
        containers::apply_health(input.pod, input.health, &mut status);
        status.phase = Some(final_phase(&status).to_owned());
    } else {
        hold_phase(input, &old, &mut status);
    }
    fit_messages(input.pod, &mut status);
    status
}

/// The status that was told with what the probes say now. All else in it is as it was.
pub fn with_health(
    pod: &Pod,
    told: &PodStatus,
    health: &BTreeMap<String, Health>,
    now: SystemTime,
) -> PodStatus {
    let mut status = told.clone();
    containers::apply_health(pod, health, &mut status);
    conditions::follow_health(pod, (told, now), &mut status);
    status
}

/// Until all of a pod has been stopped it keeps the phase that it had, as with the kubelet. That nothing of it runs is
/// not enough: between two sandboxes nothing does, and what ended well because it was stopped has not succeeded.
fn hold_phase(input: &StatusInput<'_>, old: &PodStatus, status: &mut PodStatus) {
    let known = [Some(old), input.pod.status.as_ref()];
    if !is_terminal(status) || known.into_iter().flatten().any(is_terminal) {
        return;
    }
    let pending = || Some("Pending".to_owned());
    status.phase = old.phase.clone().or_else(pending);
    status.reason.clone_from(&old.reason);
    status.message.clone_from(&old.message);
}

/// The last words of all containers keep the pod's limit, each its share of it.
fn fit_messages(pod: &Pod, status: &mut PodStatus) {
    let count = spec::all_containers(pod).count() + ephemeral::containers(pod).len();
    let cut = |container: &mut ContainerStatus| {
        let both = [&mut container.state, &mut container.last_state];
        let ends = both
            .into_iter()
            .flatten()
            .filter_map(|state| state.terminated.as_mut());
        for message in ends.filter_map(|end| end.message.as_mut()) {
            termination::fit(message, count);
        }
    };
    let lists = [
        &mut status.init_container_statuses,
        &mut status.container_statuses,
    ];
    lists.into_iter().flatten().flatten().for_each(cut);
}

/// The kubelet says no more than this of a pod that it did not admit.
fn rejected(input: &StatusInput<'_>, old: &PodStatus, (reason, message): (&str, &str)) -> PodStatus {
    PodStatus {
        phase: Some("Failed".to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        qos_class: Some(resources::qos(input.pod).as_str().to_owned()),
        start_time: old.start_time.clone().or_else(|| Some(start_time(input))),
        observed_generation: input.pod.metadata.generation,
        ..PodStatus::default()
    }
}

fn from_runtime(input: &StatusInput<'_>, old: &PodStatus) -> PodStatus {
    let inits = lifecycle::init_containers(input.pod);
    let init_statuses = containers::statuses(input, inits, old.init_container_statuses.as_deref(), true);
    let mains = lifecycle::main_containers(input.pod);
    let mut statuses = containers::statuses(input, mains, old.container_statuses.as_deref(), false);
    statuses.sort_by(|a, b| a.name.cmp(&b.name));
    let ips = pod_ips(input, old);
    PodStatus {
        host_ip: input.host_ips.first().cloned(),
        host_ips: non_empty(
            input
                .host_ips
                .iter()
                .map(|ip| HostIP { ip: ip.clone() })
                .collect(),
        ),
        pod_ip: ips.first().cloned(),
        pod_ips: non_empty(ips.into_iter().map(|ip| PodIP { ip }).collect()),
        qos_class: Some(resources::qos(input.pod).as_str().to_owned()),
        start_time: old.start_time.clone().or_else(|| Some(start_time(input))),
        observed_generation: input.pod.metadata.generation,
        init_container_statuses: non_empty(init_statuses),
        container_statuses: non_empty(statuses),
        ephemeral_container_statuses: non_empty(ephemeral::statuses(input.pod)),
        ..PodStatus::default()
    }
}

/// When the pod was taken on, which is before anything of it ran: an agent that was restarted before it told so sees
/// the pod later than that, and clocks are set back.
fn start_time(input: &StatusInput<'_>) -> Time {
    let containers = input.observed.containers.iter();
    let began = containers.filter_map(|seen| runtime_time(seen.started_at));
    began.fold(time(input.since), std::cmp::min)
}

/// The addresses of an ended pod stay in its status.
fn pod_ips(input: &StatusInput<'_>, old: &PodStatus) -> Vec<String> {
    let seen = input.observed.ips();
    if spec::host_network(input.pod) {
        return input.host_ips.to_vec();
    }
    if seen.is_empty() && (input.end.stopped || is_terminal(old)) {
        return old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    }
    seen.to_vec()
}

fn settle_phase(input: &StatusInput<'_>, old: &PodStatus, status: &mut PodStatus) {
    let progress = Progress {
        begun: has_begun(input),
        stopped: input.end.stopped,
        deleted: input.pod.metadata.deletion_timestamp.is_some(),
    };
    let seen = phase::of(input.pod, &spec::container_statuses(status), progress);
    let api = input.pod.status.as_ref();
    let terminal = [Some(old), api]
        .into_iter()
        .flatten()
        .find(|status| is_terminal(status));
    let phase = terminal
        .and_then(|status| status.phase.clone())
        .unwrap_or_else(|| seen.to_owned());
    if old.phase.as_deref() == Some(phase.as_str()) {
        status.reason.clone_from(&old.reason);
        status.message.clone_from(&old.message);
    }
    status.phase = Some(phase);
    if let (Some(failure), None) = (&input.end.failed, terminal) {
        status.phase = Some("Failed".to_owned());
        status.reason = Some(failure.reason.clone());
        status.message = Some(failure.message.clone());
    }
}

/// Whether a main container has run in the pod's sandbox.
fn has_begun(input: &StatusInput<'_>) -> bool {
    let sandbox = input.observed.sandbox().map(|sandbox| sandbox.id.as_str());
    let ran = |seen: &&ContainerObserved| {
        Some(seen.sandbox.as_str()) == sandbox && matches!(seen.run, Run::Running | Run::Exited)
    };
    let mains = lifecycle::main_containers(input.pod);
    let main = |seen: &ContainerObserved| mains.iter().any(|main| main.name == seen.name);
    input.observed.containers.iter().filter(ran).any(main)
}

/// A pod that has ended and is neither `Succeeded` nor `Failed` by its containers has failed.
fn final_phase(status: &PodStatus) -> &'static str {
    match status.phase.as_deref() {
        Some("Succeeded") => "Succeeded",
        _ => "Failed",
    }
}

fn non_empty<T>(items: Vec<T>) -> Option<Vec<T>> {
    (!items.is_empty()).then_some(items)
}

/// A point in time as the API writes it: whole seconds.
pub(crate) fn time(at: SystemTime) -> Time {
    let seconds = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    Time(Timestamp::from_second(i64::try_from(seconds).unwrap_or(0)).unwrap_or_default())
}

/// The runtime's nanoseconds as the API writes them; 0 is no time.
fn runtime_time(nanoseconds: i64) -> Option<Time> {
    let seconds = nanoseconds.div_euclid(1_000_000_000);
    (nanoseconds > 0).then(|| Time(Timestamp::from_second(seconds).unwrap_or_default()))
}

/// The same of something that is over. What never began is said to have begun in 1970, as by the kubelet:
/// readers count on the field.
fn past_time(nanoseconds: i64) -> Time {
    runtime_time(nanoseconds).unwrap_or(Time(Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests;
