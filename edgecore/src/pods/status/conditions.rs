//! The conditions of a pod.

use std::time::SystemTime;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodCondition, PodStatus};

use super::{Failure, StatusInput, time};
use crate::pods::lifecycle;
use crate::pods::spec::{self, is_sidecar};

/// The conditions that the node owns. Those of others are read for the pod's gates and never told: cloudcore
/// leaves them as the API server has them, which may be newer than what the node knows.
const OWNED: [&str; 5] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
];

/// Those of them that follow from the statuses of containers.
const OF_CONTAINERS: [&str; 3] = ["Initialized", "Ready", "ContainersReady"];

/// The reasons of what is not ready because its pod ends.
const ENDED: [&str; 2] = ["PodCompleted", "PodFailed"];
/// The condition of a pod that somebody has to end.
const DISRUPTION: &str = "DisruptionTarget";
/// Its reason where that is the node.
const BY_THE_NODE: &str = "TerminationByKubelet";

struct Verdict {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    const YES: Self = Self {
        holds: true,
        reason: None,
        message: None,
    };

    const fn because(holds: bool, reason: &'static str) -> Self {
        Self {
            holds,
            reason: Some(reason),
            message: None,
        }
    }
}

/// Sets the node's own conditions. A transition time changes only with its status.
pub(super) fn apply(input: &StatusInput<'_>, old: &PodStatus, status: &mut PodStatus) {
    let sandbox = Verdict {
        holds: has_sandbox(input),
        reason: None,
        message: None,
    };
    let [initialized, ready, containers_ready] = of_containers(input.pod, old, status);
    let verdicts = [sandbox, initialized, ready, containers_ready, Verdict::YES];
    let told = (old, input.now);
    let conditions = OWNED
        .iter()
        .zip(verdicts)
        .map(|(name, verdict)| condition(input.pod, told, name, verdict));
    let now = || time(input.now);
    let resize = input.resize.conditions();
    let resize = resize.map(|told| told.since(old.conditions.as_deref(), now()));
    let all = conditions.chain(resize).chain(disruption(input, old));
    status.conditions = Some(all.collect());
}

/// Sets anew what the health of containers decides. Of a pod that was said to end, nothing.
pub(super) fn follow_health(pod: &Pod, told: (&PodStatus, SystemTime), status: &mut PodStatus) {
    let verdicts = of_containers(pod, told.0, status);
    let ends = |c: &PodCondition| c.reason.as_deref().is_some_and(|reason| ENDED.contains(&reason));
    for (name, verdict) in OF_CONTAINERS.iter().zip(verdicts) {
        let mut own = status.conditions.iter_mut().flatten();
        if let Some(own) = own.find(|c| c.type_ == *name && !ends(c)) {
            *own = condition(pod, told, name, verdict);
        }
    }
}

/// What the statuses of containers say of [`OF_CONTAINERS`].
fn of_containers(pod: &Pod, old: &PodStatus, status: &PodStatus) -> [Verdict; 3] {
    let containers_ready = containers_ready(pod, status);
    let ready = match &containers_ready {
        Verdict { holds: true, .. } => gates(pod),
        Verdict { reason, message, .. } => Verdict {
            holds: false,
            reason: *reason,
            message: message.clone(),
        },
    };
    [initialized(pod, old, status), ready, containers_ready]
}

/// Said once and for ever of a pod that goes so that the node lives. Others have this condition too, and theirs is
/// left to them.
fn disruption(input: &StatusInput<'_>, old: &PodStatus) -> Option<PodCondition> {
    let own = |c: &&PodCondition| c.type_ == DISRUPTION && c.reason.as_deref() == Some(BY_THE_NODE);
    let said = old.conditions.iter().flatten().find(own);
    // Not before the phase says so too.
    let failure = input.end.failed.as_ref().filter(|_| input.end.stopped);
    let failure = failure.filter(|failure| failure.for_the_node);
    let new = |failure: &Failure| {
        let verdict = Verdict {
            message: Some(failure.message.clone()),
            ..Verdict::because(true, BY_THE_NODE)
        };
        condition(input.pod, (old, input.now), DISRUPTION, verdict)
    };
    said.cloned().or_else(|| failure.map(new))
}

fn condition(pod: &Pod, (old, now): (&PodStatus, SystemTime), name: &str, verdict: Verdict) -> PodCondition {
    let status = if verdict.holds { "True" } else { "False" };
    let before = old
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == name && c.status == status);
    PodCondition {
        type_: name.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.map(ToOwned::to_owned),
        message: verdict.message,
        last_transition_time: before
            .and_then(|condition| condition.last_transition_time.clone())
            .or_else(|| Some(time(now))),
        observed_generation: pod.metadata.generation,
        last_probe_time: None,
    }
}

fn has_sandbox(input: &StatusInput<'_>) -> bool {
    let newest = input.observed.sandbox();
    newest.is_some_and(|s| s.ready && (spec::host_network(input.pod) || !s.ips.is_empty()))
}

fn find<'a>(statuses: Option<&'a Vec<ContainerStatus>>, name: &str) -> Option<&'a ContainerStatus> {
    statuses.into_iter().flatten().find(|status| status.name == name)
}

fn is_phase(status: &PodStatus, phase: &str) -> bool {
    status.phase.as_deref() == Some(phase)
}

/// `[a b]`, as Go prints a list.
fn listed(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

/// Once a pod is initialized it stays so, even while its sidecars restart.
fn initialized(pod: &Pod, old: &PodStatus, status: &PodStatus) -> Verdict {
    if is_phase(status, "Succeeded") {
        return Verdict::because(true, "PodCompleted");
    }
    let inits = lifecycle::init_containers(pod);
    let incomplete = |container: &&Container| {
        let status = find(status.init_container_statuses.as_ref(), &container.name);
        let started = |status: &ContainerStatus| status.started == Some(true);
        let through = |status: &ContainerStatus| {
            if is_sidecar(container) {
                started(status)
            } else {
                status.ready
            }
        };
        !status.is_some_and(through)
    };
    let missing: Vec<&str> = inits.iter().filter(incomplete).map(|c| c.name.as_str()).collect();
    let mut before = old.conditions.iter().flatten();
    let was = before.any(|c| c.type_ == "Initialized" && c.status == "True");
    if missing.is_empty() || was || any_main_started(status) {
        return Verdict::YES;
    }
    let message = Some(format!("containers with incomplete status: {}", listed(&missing)));
    Verdict {
        message,
        ..Verdict::because(false, "ContainersNotInitialized")
    }
}

fn any_main_started(status: &PodStatus) -> bool {
    let started = |status: &ContainerStatus| {
        let state = status.state.as_ref();
        let last = status.last_state.as_ref();
        state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
            || last.is_some_and(|last| last.terminated.is_some())
    };
    status.container_statuses.iter().flatten().any(started)
}

fn containers_ready(pod: &Pod, status: &PodStatus) -> Verdict {
    if is_phase(status, "Succeeded") {
        return Verdict::because(false, "PodCompleted");
    }
    if is_phase(status, "Failed") {
        return Verdict::because(false, "PodFailed");
    }
    let unready = |name: &&str| {
        let all = [&status.init_container_statuses, &status.container_statuses];
        let status = all.into_iter().find_map(|statuses| find(statuses.as_ref(), name));
        !status.is_some_and(|status| status.ready)
    };
    let unready: Vec<&str> = lifecycle::lasting(pod)
        .map(|c| c.name.as_str())
        .filter(unready)
        .collect();
    if unready.is_empty() {
        return Verdict::YES;
    }
    let message = Some(format!("containers with unready status: {}", listed(&unready)));
    Verdict {
        message,
        ..Verdict::because(false, "ContainersNotReady")
    }
}

/// Readiness gates are conditions that somebody else sets.
/// By the conditions of others, as the API server showed them last.
fn gates(pod: &Pod) -> Verdict {
    let shown = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref());
    let shown = shown.unwrap_or_default();
    let of_others = |gate: &str| shown.iter().find(|c| c.type_ == gate && !OWNED.contains(&gate));
    let gates = spec::spec(pod)
        .and_then(|spec| spec.readiness_gates.as_deref())
        .unwrap_or_default();
    let complaint = |gate: &str| match of_others(gate) {
        None => Some(format!(
            "corresponding condition of pod readiness gate {gate:?} does not exist."
        )),
        Some(c) if c.status == "True" => None,
        Some(c) => Some(format!(
            "the status of pod readiness gate {gate:?} is not \"True\", but {}",
            c.status
        )),
    };
    let complaints: Vec<_> = gates
        .iter()
        .filter_map(|gate| complaint(&gate.condition_type))
        .collect();
    if complaints.is_empty() {
        return Verdict::YES;
    }
    Verdict {
        message: Some(complaints.join(", ")),
        ..Verdict::because(false, "ReadinessGatesNotReady")
    }
}
