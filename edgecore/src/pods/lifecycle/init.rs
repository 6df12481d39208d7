//! What a pod's init containers need next.
//!
//! One after the other; those that restart always (sidecars) stay and run beside all that comes later. The
//! last one that was made in this sandbox tells how far the pod has come.

use k8s_openapi::api::core::v1::Container;

use super::kills::{What, kill_unknown, reason_to_kill};
use super::starts::start;
use super::{
    Kill, Place, Plan, RestartPolicy, Step, View, init_containers, main_containers, restarts, should_run,
};
use crate::pods::observed::{ContainerObserved, Run, SandboxObserved};
use crate::pods::spec::is_sidecar;

/// How far initialisation has come.
pub(super) enum Init {
    /// The other containers may run; the sidecars' own needs are in the plan.
    Done(Plan),
    /// Not yet.
    Busy(Plan),
    /// It failed, and nothing may be started again.
    Failed,
}

/// What is gathered while the init containers are looked through, the last one first.
#[derive(Default)]
struct Found {
    kills: Vec<Kill>,
    /// By place, the last one first.
    starts: Vec<usize>,
    initialised: bool,
    /// Somebody later has been made: whoever comes before is through.
    later: bool,
    failed: bool,
}

/// What the init containers need in the pod's sandbox.
pub(super) fn plan(view: &View<'_>, sandbox: &SandboxObserved) -> Init {
    let here = |name: &str| {
        let of_sandbox = |c: &&ContainerObserved| c.sandbox == sandbox.id && c.name == name;
        view.observed.containers.iter().find(of_sandbox)
    };
    let inits = init_containers(view.pod);
    let mains = || main_containers(view.pod).iter().filter_map(|c| here(&c.name));
    let begun = inits.is_empty() || mains().next().is_some();
    // Where all have ended and one runs again, a sidecar that comes last is waited for as at the first time.
    let runs_again = |c: &Container| should_run(view.pod, view.observed, view.history, &c.name);
    let anew = mains().all(|main| main.run == Run::Exited)
        && main_containers(view.pod).iter().any(runs_again)
        && inits.last().is_some_and(is_sidecar);
    let mut found = Found {
        initialised: begun && !anew,
        later: begun,
        ..Found::default()
    };
    for (at, container) in inits.iter().enumerate().rev() {
        found.look_at(view, (at, container), here(&container.name));
    }
    if found.failed {
        return Init::Failed;
    }
    if !found.later {
        found.starts.push(0);
    }
    let mut plan = Plan::default();
    plan.steps.extend(found.kills.into_iter().map(Step::Kill));
    for at in found.starts.into_iter().rev() {
        start(view, sandbox, Place::Init(at), &mut plan);
    }
    if found.initialised {
        Init::Done(plan)
    } else {
        Init::Busy(plan)
    }
}

impl Found {
    fn look_at(
        &mut self,
        view: &View<'_>,
        (at, container): (usize, &Container),
        seen: Option<&ContainerObserved>,
    ) {
        let sidecar = is_sidecar(container);
        match seen {
            None if self.later && sidecar => self.starts.push(at),
            None => return,
            Some(_) if self.later && !sidecar => return,
            Some(seen) if sidecar => self.sidecar(view, (at, container), seen),
            Some(seen) => self.ordinary(view, (at, container), seen),
        }
        self.later = true;
    }

    fn ordinary(&mut self, view: &View<'_>, (at, container): (usize, &Container), seen: &ContainerObserved) {
        match seen.run {
            Run::Running => {}
            Run::Created => self.starts.push(at),
            Run::Exited if seen.exit_code == 0 => self.through(view, at),
            Run::Exited if restarts(view.pod, container, seen.exit_code) => self.starts.push(at),
            Run::Unknown if RestartPolicy::of_container(view.pod, container) != RestartPolicy::Never => {
                self.kills.push(kill_unknown(view.pod, What::Init, seen));
            }
            Run::Exited | Run::Unknown => self.failed = true,
        }
    }

    fn sidecar(&mut self, view: &View<'_>, (at, container): (usize, &Container), seen: &ContainerObserved) {
        match seen.run {
            Run::Created | Run::Exited => self.starts.push(at),
            Run::Unknown => self.kills.push(kill_unknown(view.pod, What::Init, seen)),
            Run::Running => {
                if has_started(view, container, seen) {
                    self.through(view, at);
                }
                self.kills
                    .extend(reason_to_kill(view, What::Init, container, seen));
            }
        }
    }

    /// The one at `at` lets the next one begin.
    fn through(&mut self, view: &View<'_>, at: usize) {
        if at + 1 == init_containers(view.pod).len() {
            self.initialised = true;
        } else if !self.later {
            self.starts.push(at + 1);
        }
    }
}

fn has_started(view: &View<'_>, container: &Container, seen: &ContainerObserved) -> bool {
    container.startup_probe.is_none() || view.history.started.contains(&seen.id)
}
