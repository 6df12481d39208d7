//! What a pod's containers need next, once it has a sandbox.
//!
//! Init containers first, one after the other; then the others, side by side.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::time::Instant;

use super::{
    Kill, Outcome, Place, Plan, RestartPolicy, Start, Step, View, backoff_key, earliest, init_containers,
    kill, main_containers, should_run, spec_grace,
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
    match next_init(view, sandbox) {
        Init::Done => plan_main(view, sandbox),
        Init::Busy(plan) => plan,
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

enum Init {
    Done,
    Busy(Plan),
}

/// Init containers run one after the other, in this sandbox; the last one that was made tells how far we are.
fn next_init(view: &View<'_>, sandbox: &SandboxObserved) -> Init {
    let here = |name: &str| {
        let of_sandbox = |c: &&ContainerObserved| c.sandbox == sandbox.id && c.name == name;
        view.observed.containers.iter().find(of_sandbox)
    };
    let inits = init_containers(view.pod);
    if inits.is_empty() || main_containers(view.pod).iter().any(|c| here(&c.name).is_some()) {
        return Init::Done;
    }
    let made = inits
        .iter()
        .enumerate()
        .rev()
        .find_map(|(at, c)| here(&c.name).map(|seen| (at, seen)));
    let mut plan = Plan::default();
    match made {
        None => start(view, sandbox, Place::Init(0), &mut plan),
        Some((at, seen)) => match seen.run {
            Run::Running => {}
            Run::Unknown => plan.steps.push(Step::Kill(kill_unknown(view.pod, seen))),
            Run::Exited if seen.exit_code == 0 && at + 1 == inits.len() => return Init::Done,
            Run::Exited if seen.exit_code == 0 => start(view, sandbox, Place::Init(at + 1), &mut plan),
            Run::Exited if RestartPolicy::of(view.pod) == RestartPolicy::Never => {
                plan.outcome = Outcome::Finished;
            }
            Run::Created | Run::Exited => start(view, sandbox, Place::Init(at), &mut plan),
        },
    }
    Init::Busy(plan)
}

fn plan_main(view: &View<'_>, sandbox: &SandboxObserved) -> Plan {
    let mut plan = Plan::default();
    let mut kept = false;
    for (index, container) in main_containers(view.pod).iter().enumerate() {
        match view.observed.latest(&container.name) {
            Some(latest) if latest.run == Run::Running => match reason_to_kill(view, container, latest) {
                Some(kill) => plan.steps.push(Step::Kill(kill)),
                None => kept = true,
            },
            Some(latest) if latest.run == Run::Unknown => {
                plan.steps.push(Step::Kill(kill_unknown(view.pod, latest)));
            }
            _ if should_run(view.pod, view.observed, view.history, &container.name) => {
                start(view, sandbox, Place::Main(index), &mut plan);
            }
            _ => {}
        }
    }
    if !kept && plan.steps.is_empty() && plan.backing_off.is_empty() {
        plan.outcome = Outcome::Finished;
    }
    plan
}

fn kill_unknown(pod: &Pod, container: &ContainerObserved) -> Kill {
    let message = "Container is in \"unknown\" state, try killing it before restart".to_owned();
    kill(container, spec_grace(pod), message, true)
}

fn reason_to_kill(view: &View<'_>, wanted: &Container, seen: &ContainerObserved) -> Option<Kill> {
    let grace = spec_grace(view.pod);
    let changed = seen
        .hash
        .as_ref()
        .is_some_and(|hash| *hash != container_hash(wanted));
    if changed {
        let message = format!("Container {} definition changed, will be restarted", wanted.name);
        return Some(kill(seen, grace, message, true));
    }
    let failed = view.history.unhealthy.get(&seen.id)?;
    let probe = match failed.kind {
        ProbeKind::Startup => "startup",
        ProbeKind::Liveness => "liveness",
        ProbeKind::Readiness => return None,
    };
    let restart = RestartPolicy::of(view.pod) != RestartPolicy::Never;
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
fn start(view: &View<'_>, sandbox: &SandboxObserved, place: Place, plan: &mut Plan) {
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
