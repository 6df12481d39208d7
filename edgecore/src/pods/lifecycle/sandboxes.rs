//! When a pod gets another sandbox, and who runs in it.
//!
//! As with the kubelet, all begins anew there but what runs until it succeeds and has. A container whose own policy is
//! `Never` begins anew too, also one that had ended before, unless its pod has init containers: those come first, and
//! after them each container is looked at as ever, by its exit code. So one that is to run until it succeeds has done so
//! if it ended well when it was stopped for its new sandbox.
//!
//! A pod whose own policy is `Never` gets no other sandbox once it has run, and ends. Other than with the kubelet it does
//! so too where a container's own policy lets it run again: there the pod would stay Running, with nothing that runs.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{
    Kill, Outcome, Plan, RestartPolicy, Step, View, init_containers, is_owed, main_containers, plan_ending,
    restarts, spec_grace,
};
use crate::pods::observed::{ContainerObserved, PodObserved, Run, SandboxObserved};
use crate::pods::spec;

/// What becomes of a pod's sandbox.
pub(super) enum Verdict<'a> {
    Keep(&'a SandboxObserved),
    Replace { attempt: u32 },
}

/// The newest one is kept if it alone is ready and has an address.
pub(super) fn judge<'a>(pod: &Pod, observed: &'a PodObserved) -> Verdict<'a> {
    let Some(newest) = observed.sandbox() else {
        return Verdict::Replace { attempt: 0 };
    };
    let only_one = observed.sandboxes.iter().filter(|sandbox| sandbox.ready).count() == 1;
    let addressed = spec::host_network(pod) || !newest.ips.is_empty();
    if newest.ready && only_one && addressed {
        Verdict::Keep(newest)
    } else {
        Verdict::Replace {
            attempt: newest.attempt + 1,
        }
    }
}

pub(super) fn replace(view: &View<'_>, attempt: u32) -> Plan {
    let old = plan_ending(view, spec_grace(view.pod));
    if !old.steps.is_empty() {
        // First everything of the old sandbox ends; the new one comes after the next look.
        return Plan {
            steps: for_the_next(view.pod, old.steps),
            outcome: Outcome::Going,
            ..old
        };
    }
    if wants_new_sandbox(view, attempt) {
        Plan {
            steps: vec![Step::CreateSandbox { attempt }],
            ..Plan::default()
        }
    } else {
        Plan {
            outcome: Outcome::Finished,
            ..Plan::default()
        }
    }
}

/// Not when the pod had run and its policy lets nothing run again.
fn wants_new_sandbox(view: &View<'_>, attempt: u32) -> bool {
    let never = RestartPolicy::of(view.pod) == RestartPolicy::Never;
    if never && attempt != 0 && !view.observed.containers.is_empty() {
        return false;
    }
    let done = |container: &Container| {
        let runs_once = RestartPolicy::of_container(view.pod, container) == RestartPolicy::OnFailure;
        runs_once && has_succeeded(view, &container.name)
    };
    let made = |container: &Container| view.observed.latest(&container.name).is_some();
    let mains = main_containers(view.pod);
    !mains.iter().any(made) || !(mains.iter().all(done) || all_over(view))
}

/// Whether every main container has ended, and none by its policy runs again: then the pod has ended too.
fn all_over(view: &View<'_>) -> bool {
    let over = |container: &Container| {
        let over = |seen: &ContainerObserved| {
            seen.run == Run::Exited && !owed(view, seen) && !restarts(view.pod, container, seen.exit_code)
        };
        view.observed.latest(&container.name).is_some_and(over)
    };
    main_containers(view.pod).iter().all(over)
}

fn has_succeeded(view: &View<'_>, name: &str) -> bool {
    let succeeded =
        |seen: &ContainerObserved| seen.run == Run::Exited && seen.exit_code == 0 && !owed(view, seen);
    view.observed.latest(name).is_some_and(succeeded)
}

fn owed(view: &View<'_>, seen: &ContainerObserved) -> bool {
    is_owed(view.pod, view.observed, view.history, seen)
}

/// Whether a container is started because its sandbox is another one than it ended in. One that waits for its image
/// does so also when the others have ended meanwhile.
pub(super) fn begins_anew(view: &View<'_>, sandbox: &SandboxObserved, container: &Container) -> bool {
    let elsewhere = |seen: &ContainerObserved| seen.run == Run::Exited && seen.sandbox != sandbox.id;
    let here = |container: &Container| {
        let latest = view.observed.latest(&container.name);
        latest.is_some_and(|seen| seen.sandbox == sandbox.id)
    };
    never(view.pod, container)
        && even_never(view.pod)
        && view.observed.latest(&container.name).is_some_and(elsewhere)
        && (main_containers(view.pod).iter().any(here) || !all_over(view))
}

fn never(pod: &Pod, container: &Container) -> bool {
    RestartPolicy::of_container(pod, container) == RestartPolicy::Never
}

/// Whether in another sandbox also those containers begin anew whose policy is `Never`.
fn even_never(pod: &Pod) -> bool {
    RestartPolicy::of(pod) != RestartPolicy::Never && init_containers(pod).is_empty()
}

/// The end of a pod's sandbox after which it goes on in another one: what is stopped for that runs there again, whatever
/// it exits with on the stop signal, for its work may not be done; unless init containers come first.
fn for_the_next(pod: &Pod, steps: Vec<Step>) -> Vec<Step> {
    let lasts = |name: &str| {
        let container = spec::all_containers(pod).find(|container| container.name == name);
        container.is_some_and(|it| !never(pod, it) || even_never(pod))
    };
    let again = |step| match step {
        Step::Kill(kill) => Step::Kill(Kill {
            restart: lasts(&kill.name),
            ..kill
        }),
        Step::StopSandbox { .. } | Step::CreateSandbox { .. } | Step::Start(_) => step,
    };
    steps.into_iter().map(again).collect()
}
