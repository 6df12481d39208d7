//! What a pod needs next, decided from what is wanted and what is seen.
//!
//! Pure: [`plan`] gets the pod, the observation, what this process remembers and an instant; the worker
//! carries the steps out and looks again. The rules and numbers are the kubelet's.
//!
//! ```text
//! Running --deleted / finished / overdue--> Ending --nothing runs--> (Stopped)
//! ```
//!
//! **Invariants:** a converged pod has an empty plan; no step starts a container while another instance of
//! it may run; an ending pod is never started again; a sandbox is stopped before its successor is made, even a
//! dead one: until then it keeps its address and its host ports.

mod containers;
mod init;
mod kills;
mod restart;
mod sandboxes;
mod starts;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::time::Instant;

use super::backoff::BackOff;
use super::container_config::container_hash;
use super::observed::{ContainerObserved, PodObserved, Run, SandboxObserved};
use super::probes::ProbeKill;
use super::spec::{self, is_sidecar};

pub use restart::{RestartPolicy, restarts};
use sandboxes::Verdict;

/// A container gets at least this long between its stop signal and SIGKILL.
pub const MIN_GRACE_SECONDS: i64 = 2;
/// A pod that says nothing gets this long to end.
pub const DEFAULT_GRACE_SECONDS: i64 = 30;

/// Everything that the decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The pod as the cluster wants it.
    pub pod: &'a Pod,
    /// What the runtime shows.
    pub observed: &'a PodObserved,
    /// Whether the pod is to run or to end.
    pub stage: Stage,
    /// What this process remembers of the pod.
    pub history: &'a History,
    /// The instant of the decision.
    pub now: Instant,
}

/// Whether the pod is to run or to end. Once it ends it never runs again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is to run.
    Running,
    /// It is to end; its containers get this many seconds.
    Ending {
        /// From the stop signal to SIGKILL.
        grace_seconds: i64,
    },
}

/// What a process remembers of a pod. It may be lost at any time: then containers are started sooner and
/// nothing else changes.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// How long each container is left alone.
    pub backoff: BackOff,
    /// When each ended container was first seen ended.
    pub ended: BTreeMap<String, Instant>,
    /// Containers, by id, that their startup probes let pass.
    pub started: BTreeSet<String>,
    /// Containers that their probes gave up, by id.
    pub unhealthy: BTreeMap<String, ProbeKill>,
    /// Containers, by id, that were killed in order to be started anew, whatever the restart policy says.
    pub owed: BTreeSet<String>,
    /// Containers, by id, that get their new size only when they start anew.
    pub outgrown: BTreeSet<String>,
    /// Sandboxes, by id, that were stopped: their network is taken down.
    pub stopped: BTreeSet<String>,
    /// When `activeDeadlineSeconds` is over.
    pub deadline: Option<Instant>,
}

/// One write to the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Stop a container.
    Kill(Kill),
    /// Stop a sandbox and everything in it.
    StopSandbox {
        /// The runtime's id.
        id: String,
    },
    /// Make a sandbox.
    CreateSandbox {
        /// How many came before it.
        attempt: u32,
    },
    /// Make and start a container.
    Start(Start),
}

/// Stop one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// The runtime's id.
    pub id: String,
    /// The container's name.
    pub name: String,
    /// For its hook and from the stop signal to SIGKILL, together.
    pub grace_seconds: i64,
    /// For the event.
    pub message: String,
    /// Whether it is to be started anew.
    pub restart: bool,
    /// Who ends first, by name: it gets its stop signal after them, if its grace lasts.
    pub after: Vec<String>,
}

impl Kill {
    /// The grace that is left when its hook (or whatever came before the stop signal) took `spent`. Whole
    /// seconds count, as with the kubelet.
    pub fn left_after(&self, spent: Duration) -> i64 {
        let spent = i64::try_from(spent.as_secs()).unwrap_or(i64::MAX);
        self.grace_seconds.saturating_sub(spent).max(MIN_GRACE_SECONDS)
    }
}

/// Make and start one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Where it stands in the spec.
    pub place: Place,
    /// The sandbox it goes to.
    pub sandbox: String,
    /// How often it has been restarted, this start included.
    pub restart_count: u32,
    /// The end of the instance that it follows, for the back-off.
    pub follows: Option<Instant>,
}

/// Where a container stands in the pod's spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `initContainers[n]`.
    Init(usize),
    /// `containers[n]`.
    Main(usize),
}

impl Place {
    /// The container's spec.
    pub fn of(self, pod: &Pod) -> Option<&Container> {
        match self {
            Self::Init(index) => init_containers(pod).get(index),
            Self::Main(index) => main_containers(pod).get(index),
        }
    }
}

/// What comes next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order; kills that follow one another may go side by side.
    pub steps: Vec<Step>,
    /// Containers that are left alone for now, with how long in all, in seconds.
    pub backing_off: BTreeMap<String, u64>,
    /// When to decide again if nothing happens before.
    pub wake: Option<Instant>,
    /// Where the pod stands if there is nothing to do.
    pub outcome: Outcome,
}

/// Where a pod stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// On its way, or running.
    #[default]
    Going,
    /// Every container ended for good: end the pod.
    Finished,
    /// `activeDeadlineSeconds` is over: fail and end the pod.
    Overdue,
    /// It was to end, and nothing of it runs.
    Stopped,
}

/// Decides what comes next.
pub fn plan(view: &View<'_>) -> Plan {
    match view.stage {
        Stage::Ending { grace_seconds } => plan_ending(view, grace_seconds),
        Stage::Running if view.history.deadline.is_some_and(|deadline| view.now >= deadline) => Plan {
            outcome: Outcome::Overdue,
            ..Plan::default()
        },
        Stage::Running => {
            let mut plan = plan_running(view);
            plan.wake = earliest(plan.wake, view.history.deadline);
            plan
        }
    }
}

/// The grace period the pod's own spec asks for.
pub fn spec_grace(pod: &Pod) -> i64 {
    let asked = spec::spec(pod).and_then(|spec| spec.termination_grace_period_seconds);
    asked.unwrap_or(DEFAULT_GRACE_SECONDS).max(0)
}

/// Whether the next plan would start this container again (were there no back-off).
pub fn should_run(pod: &Pod, observed: &PodObserved, history: &History, name: &str) -> bool {
    let Some(latest) = observed.latest(name) else {
        return true;
    };
    match latest.run {
        Run::Running => false,
        Run::Created | Run::Unknown => true,
        Run::Exited => {
            let container = spec::all_containers(pod).find(|container| container.name == name);
            is_owed(pod, observed, history, latest)
                || container.is_some_and(|container| restarts(pod, container, latest.exit_code))
        }
    }
}

/// Whether it was killed in order to be started anew. As with the kubelet, that counts no longer once init containers
/// come first, in another sandbox: after them its exit code alone decides.
fn is_owed(pod: &Pod, observed: &PodObserved, history: &History, seen: &ContainerObserved) -> bool {
    let elsewhere = observed.sandbox().is_some_and(|newest| newest.id != seen.sandbox);
    let main = main_containers(pod).iter().any(|main| main.name == seen.name);
    let after_others = main && elsewhere && !init_containers(pod).is_empty();
    history.owed.contains(&seen.id) && !after_others
}

pub(crate) fn init_containers(pod: &Pod) -> &[Container] {
    spec::spec(pod)
        .and_then(|spec| spec.init_containers.as_deref())
        .unwrap_or_default()
}

pub(crate) fn main_containers(pod: &Pod) -> &[Container] {
    spec::spec(pod)
        .map(|spec| spec.containers.as_slice())
        .unwrap_or_default()
}

/// Those that run for as long as the pod does: sidecars and main containers.
pub(crate) fn lasting(pod: &Pod) -> impl Iterator<Item = &Container> {
    let sidecars = init_containers(pod).iter().filter(|init| is_sidecar(init));
    sidecars.chain(main_containers(pod))
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

fn plan_ending(view: &View<'_>, grace_seconds: i64) -> Plan {
    let (pod, observed) = (view.pod, view.observed);
    let mut plan = Plan::default();
    let alive = observed
        .containers
        .iter()
        .filter(|container| container.run.may_run());
    plan.steps.extend(alive.map(|container| {
        let message = format!("Stopping container {}", container.name);
        // Of an orphan nothing is known but what its containers say.
        let orphans = container.grace.filter(|_| pod.spec.is_none());
        let kill = kill(container, orphans.unwrap_or(grace_seconds), message, false);
        let after = who_ends_first(pod, observed, &container.name);
        Step::Kill(Kill { after, ..kill })
    }));
    let stands = |s: &&SandboxObserved| s.ready || !view.history.stopped.contains(&s.id);
    let standing = observed.sandboxes.iter().filter(stands);
    plan.steps.extend(standing.map(|sandbox| Step::StopSandbox {
        id: sandbox.id.clone(),
    }));
    if plan.steps.is_empty() {
        plan.outcome = Outcome::Stopped;
    }
    plan
}

/// A sidecar ends after every main container and after the sidecar that comes next to it in the spec.
fn who_ends_first(pod: &Pod, observed: &PodObserved, name: &str) -> Vec<String> {
    let sidecars = || init_containers(pod).iter().filter(|init| is_sidecar(init));
    let Some(at) = sidecars().position(|sidecar| sidecar.name == name) else {
        return Vec::new();
    };
    let next = sidecars().nth(at + 1);
    let alive = |c: &&Container| {
        observed
            .containers
            .iter()
            .any(|seen| seen.name == c.name && seen.run.may_run())
    };
    let first = main_containers(pod).iter().chain(next).filter(alive);
    first.map(|container| container.name.clone()).collect()
}

fn kill(container: &ContainerObserved, grace_seconds: i64, message: String, restart: bool) -> Kill {
    Kill {
        id: container.id.clone(),
        name: container.name.clone(),
        grace_seconds,
        message,
        restart,
        after: Vec::new(),
    }
}

fn plan_running(view: &View<'_>) -> Plan {
    match sandboxes::judge(view.pod, view.observed) {
        Verdict::Keep(sandbox) => containers::plan(view, sandbox),
        Verdict::Replace { attempt } => sandboxes::replace(view, attempt),
    }
}

/// The container that a kill is about: as the spec says it or, of an orphan, as its annotations do.
pub fn killed<'a>(pod: &'a Pod, observed: &'a PodObserved, kill: &Kill) -> Option<&'a Container> {
    let outline = || {
        let seen = observed.containers.iter().find(|seen| seen.id == kill.id);
        seen.and_then(|seen| seen.outline.as_deref())
    };
    match pod.spec {
        Some(_) => spec::all_containers(pod).find(|container| container.name == kill.name),
        None => outline(),
    }
}

/// What a container's back-off is kept by: a new definition starts afresh.
pub fn backoff_key(container: &Container) -> String {
    format!("{}/{}", container.name, container_hash(container))
}

#[cfg(test)]
mod tests;
