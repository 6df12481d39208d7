//! The phase of a pod, from its container statuses.
//!
//! A sidecar holds the phase back only until it has first started; its ends do not count.

use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStatus, Pod};

use crate::pods::lifecycle;
use crate::pods::spec::is_sidecar;

/// How far the pod has come, apart from its statuses.
#[derive(Clone, Copy)]
pub(super) struct Progress {
    /// A main container has run in its sandbox.
    pub(super) begun: bool,
    /// Nothing of it runs any more, and nothing will.
    pub(super) stopped: bool,
    /// It is deleted.
    pub(super) deleted: bool,
}

/// `Pending`, `Running`, `Succeeded` or `Failed`.
pub(super) fn of(pod: &Pod, statuses: &[ContainerStatus], progress: Progress) -> &'static str {
    let count = Count::of(pod, statuses);
    let sidecars_pending = count.pending_sidecars > 0 && !progress.begun;
    if count.failed_inits > 0 {
        "Failed"
    } else if count.pending_inits > 0 || sidecars_pending || count.waiting > 0 || count.unknown > 0 {
        "Pending"
    } else if count.running > 0 {
        "Running"
    } else if count.ended > 0 {
        count.ended(progress)
    } else {
        "Pending"
    }
}

/// The exit code of a container that has ended, or of its last instance while it waits for the next.
fn last_exit_code(status: &ContainerStatus) -> Option<i32> {
    let ended = |state: &Option<ContainerState>| {
        state
            .as_ref()
            .and_then(|state| state.terminated.as_ref())
            .map(|ended| ended.exit_code)
    };
    if is_running(status) {
        return None;
    }
    ended(&status.state).or_else(|| ended(&status.last_state))
}

fn is_running(status: &ContainerStatus) -> bool {
    let state = status.state.as_ref();
    state.is_some_and(|state| state.running.is_some())
}

fn has_ended(status: &ContainerStatus) -> bool {
    let state = status.state.as_ref();
    state.is_some_and(|state| state.terminated.is_some())
}

#[derive(Default)]
struct Count {
    /// Init containers that have not ended well yet.
    pending_inits: usize,
    /// Init containers that failed and are not started again.
    failed_inits: usize,
    /// Sidecars that have not started yet.
    pending_sidecars: usize,
    running: usize,
    waiting: usize,
    ended: usize,
    ended_for_good: usize,
    succeeded: usize,
    unknown: usize,
}

impl Count {
    fn of(pod: &Pod, statuses: &[ContainerStatus]) -> Self {
        let mut count = Self::default();
        let find = |container: &Container| {
            let mut all = statuses.iter();
            all.find(|status| status.name == container.name)
                .filter(|status| status.state.is_some())
        };
        for container in lifecycle::init_containers(pod) {
            if is_sidecar(container) {
                count.add_sidecar(find(container));
            } else {
                count.add_init(pod, container, find(container));
            }
        }
        for container in lifecycle::main_containers(pod) {
            count.add_main(pod, container, find(container));
        }
        count
    }

    fn add_init(&mut self, pod: &Pod, container: &Container, status: Option<&ContainerStatus>) {
        match status.and_then(last_exit_code) {
            None => self.pending_inits += 1,
            Some(0) => {}
            Some(code) if lifecycle::restarts(pod, container, code) => {}
            Some(_) => self.failed_inits += 1,
        }
    }

    fn add_sidecar(&mut self, status: Option<&ContainerStatus>) {
        match status {
            None => self.unknown += 1,
            Some(status) if is_running(status) => {
                self.running += 1;
                self.pending_sidecars += usize::from(status.started != Some(true));
            }
            Some(status) if last_exit_code(status).is_some() => {}
            Some(_) => {
                self.pending_sidecars += 1;
                self.waiting += 1;
            }
        }
    }

    fn add_main(&mut self, pod: &Pod, container: &Container, status: Option<&ContainerStatus>) {
        let Some(status) = status else {
            self.unknown += 1;
            return;
        };
        match last_exit_code(status) {
            None if is_running(status) => self.running += 1,
            None => self.waiting += 1,
            Some(code) => {
                self.ended += 1;
                self.ended_for_good += usize::from(!lifecycle::restarts(pod, container, code));
                self.succeeded += usize::from(has_ended(status) && code == 0);
            }
        }
    }

    /// Who would run again has not done its work, unless the pod is deleted: then, as with the kubelet, what it exited
    /// with when it was stopped counts.
    const fn ended(&self, progress: Progress) -> &'static str {
        let for_good = self.ended == self.ended_for_good;
        if !progress.stopped && !for_good {
            "Running"
        } else if self.ended == self.succeeded && (for_good || progress.deleted) {
            "Succeeded"
        } else {
            "Failed"
        }
    }
}
