//! What a pod's containers need next, once it has a sandbox.
//!
//! Init containers first, one after the other; then the others, side by side, sidecars among them.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::time::Instant;

use super::init::{self, Init};
use super::{
    Kill, Outcome, Place, Plan, RestartPolicy, Start, Step, View, backoff_key, earliest, kill,
    main_containers, should_run, spec_grace,
};
use crate::pods::container_config::container_hash;
use crate::pods::observed::{ContainerObserved, Run, SandboxObserved};
use crate::pods::probes::ProbeKind;

/// What the containers of a pod need in its sandbox.
pub(super) fn plan(view: &View<'_>, sandbox: &SandboxObserved) -> Plan {
    let replaced = kills_of_replaced(view);
    if !replaced.is_empty() {
        return Plan {
            steps: replaced,
            ..Plan::default()
        };
    }
    match init::plan(view, sandbox) {
        Init::Done(sidecars) => plan_main(view, sandbox, sidecars),
        Init::Busy(plan) => plan,
        Init::Failed => finished(),
    }
}

fn finished() -> Plan {
    Plan {
        outcome: Outcome::Finished,
        ..Plan::default()
    }
}

/// An instance that may run although a newer one was made: it ends before anything else happens.
fn kills_of_replaced(view: &View<'_>) -> Vec<Step> {
    let replaced = |seen: &&ContainerObserved| {
        let newest = view.observed.latest(&seen.name);
        seen.run.may_run() && newest.is_some_and(|newest| newest.id != seen.id)
    };
    let end = |seen: &ContainerObserved| {
        let message = format!("Stopping container {}", seen.name);
        Step::Kill(kill(seen, spec_grace(view.pod), message, true))
    };
    view.observed
        .containers
        .iter()
        .filter(replaced)
        .map(end)
        .collect()
}

/// The main containers, beside what the sidecars need.
fn plan_main(view: &View<'_>, sandbox: &SandboxObserved, sidecars: Plan) -> Plan {
    let mut plan = Plan::default();
    let mut kept = false;
    for (index, container) in main_containers(view.pod).iter().enumerate() {
        match view.observed.latest(&container.name) {
            Some(latest) if latest.run == Run::Running => match reason_to_kill(view, container, latest) {
                Some(kill) => plan.steps.push(Step::Kill(kill)),
                None => kept = true,
            },
            Some(latest) if latest.run == Run::Unknown => {
                plan.steps
                    .push(Step::Kill(kill_unknown(view.pod, latest, "Container")));
            }
            _ if should_run(view.pod, view.observed, view.history, &container.name) => {
                start(view, sandbox, Place::Main(index), &mut plan);
            }
            _ => {}
        }
    }
    let ends = |step: &Step| matches!(step, Step::Kill(Kill { restart: false, .. }));
    if !kept && plan.steps.iter().all(ends) && plan.backing_off.is_empty() {
        // The pod ends as a whole; its sidecars do not keep it.
        return finished();
    }
    beside(sidecars, plan)
}

fn beside(first: Plan, second: Plan) -> Plan {
    Plan {
        steps: first.steps.into_iter().chain(second.steps).collect(),
        backing_off: first.backing_off.into_iter().chain(second.backing_off).collect(),
        wake: earliest(first.wake, second.wake),
        outcome: second.outcome,
    }
}

pub(super) fn kill_unknown(pod: &Pod, container: &ContainerObserved, what: &str) -> Kill {
    let message = format!("{what} is in \"unknown\" state, try killing it before restart");
    kill(container, spec_grace(pod), message, true)
}

/// Whether it was made from another definition.
pub(super) fn changed(wanted: &Container, seen: &ContainerObserved) -> bool {
    let other = |hash: &String| *hash != container_hash(wanted);
    seen.hash.as_ref().is_some_and(other)
}

fn reason_to_kill(view: &View<'_>, wanted: &Container, seen: &ContainerObserved) -> Option<Kill> {
    let grace = spec_grace(view.pod);
    if changed(wanted, seen) {
        let message = format!("Container {} definition changed, will be restarted", wanted.name);
        return Some(kill(seen, grace, message, true));
    }
    if view.history.outgrown.contains(&seen.id) {
        let message = format!("Container {} resize requires restart", wanted.name);
        return Some(kill(seen, grace, message, true));
    }
    let failed = view.history.unhealthy.get(&seen.id)?;
    let probe = match failed.kind {
        ProbeKind::Startup => "startup",
        ProbeKind::Liveness => "liveness",
        ProbeKind::Readiness => return None,
    };
    let restart = RestartPolicy::of_container(view.pod, wanted) != RestartPolicy::Never;
    let then = if restart { ", will be restarted" } else { "" };
    let message = format!("Container {} failed {probe} probe{then}", wanted.name);
    Some(kill(
        seen,
        failed.grace_seconds.unwrap_or(grace),
        message,
        restart,
    ))
}

/// Plans the start of a container, now or when its back-off is over.
pub(super) fn start(view: &View<'_>, sandbox: &SandboxObserved, place: Place, plan: &mut Plan) {
    let Some(container) = place.of(view.pod) else {
        return;
    };
    let latest = view.observed.latest(&container.name);
    let Wait { follows, until } = wait(view, container);
    match until {
        Some((until, delay)) if view.now < until => {
            plan.backing_off.insert(container.name.clone(), delay.as_secs());
            plan.wake = earliest(plan.wake, Some(until));
        }
        _ => plan.steps.push(Step::Start(Start {
            place,
            sandbox: sandbox.id.clone(),
            restart_count: latest.map_or(0, |latest| latest.restart_count + 1),
            follows,
        })),
    }
}

/// How long a start waits.
#[derive(Default)]
struct Wait {
    /// The end of the instance that the start follows, for the next back-off.
    follows: Option<Instant>,
    /// When the back-off is over, and how long it is in all.
    until: Option<(Instant, Duration)>,
}

/// The back-off counts from the newest end. Of a container that was killed in order to be started anew, the
/// end before decides: only if that one's back-off was not over does the kill's own end count.
fn wait(view: &View<'_>, container: &Container) -> Wait {
    let key = backoff_key(container);
    let mut ended = view
        .observed
        .containers
        .iter()
        .filter(|c| c.name == container.name && c.run == Run::Exited);
    let end = |seen: &ContainerObserved| view.history.ended.get(&seen.id).copied().unwrap_or(view.now);
    let delay = |ended: Instant| view.history.backoff.delay(&key, ended);
    let from = |ended: Instant| Wait {
        follows: Some(ended),
        until: Some((ended + delay(ended), delay(ended))),
    };
    let Some(newest) = ended.next() else {
        return Wait::default();
    };
    let last = end(newest);
    if !view.history.owed.contains(&newest.id) {
        return from(last);
    }
    match ended.next().map(end) {
        Some(before) if last >= before + delay(before) => Wait {
            follows: Some(before),
            until: None,
        },
        None if delay(last).is_zero() => Wait::default(),
        Some(_) | None => from(last),
    }
}
