//! What a pod's containers need next, once it has a sandbox.
//!
//! Init containers first, one after the other; then the others, side by side, sidecars among them.

use super::init::{self, Init};
use super::kills::{What, kill_unknown, reason_to_kill};
use super::sandboxes::begins_anew;
use super::starts::start;
use super::{
    Kill, Outcome, Place, Plan, Step, View, earliest, kill, main_containers, should_run, spec_grace,
};
use crate::pods::observed::{ContainerObserved, Run, SandboxObserved};

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
            Some(latest) if latest.run == Run::Running => {
                match reason_to_kill(view, What::Main, container, latest) {
                    Some(kill) => plan.steps.push(Step::Kill(kill)),
                    None => kept = true,
                }
            }
            Some(latest) if latest.run == Run::Unknown => {
                plan.steps
                    .push(Step::Kill(kill_unknown(view.pod, What::Main, latest)));
            }
            _ if should_run(view.pod, view.observed, view.history, &container.name)
                || begins_anew(view, sandbox, container) =>
            {
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
