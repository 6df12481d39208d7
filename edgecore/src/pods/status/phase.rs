//! The phase of a pod, from its container statuses.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};

use crate::pods::lifecycle::{self, RestartPolicy};

/// `Pending`, `Running`, `Succeeded` or `Failed`.
pub(super) fn of(pod: &Pod, statuses: &[ContainerStatus], stopped: bool) -> &'static str {
    let policy = RestartPolicy::of(pod);
    match init_progress(pod, statuses, policy) {
        Init::FailedForGood => return "Failed",
        Init::Pending => return "Pending",
        Init::Done => {}
    }
    let count = Count::of(pod, statuses);
    if count.waiting > 0 {
        "Pending"
    } else if count.running > 0 && count.unknown == 0 {
        "Running"
    } else if count.ended > 0 && count.unknown == 0 {
        ended(&count, policy, stopped)
    } else {
        "Pending"
    }
}

fn ended(count: &Count, policy: RestartPolicy, stopped: bool) -> &'static str {
    let all_succeeded = count.ended == count.succeeded;
    match policy {
        RestartPolicy::Always if !stopped => "Running",
        RestartPolicy::OnFailure if !stopped && !all_succeeded => "Running",
        RestartPolicy::Always | RestartPolicy::OnFailure | RestartPolicy::Never if all_succeeded => {
            "Succeeded"
        }
        RestartPolicy::Always | RestartPolicy::OnFailure | RestartPolicy::Never => "Failed",
    }
}

enum Init {
    Done,
    Pending,
    FailedForGood,
}

fn init_progress(pod: &Pod, statuses: &[ContainerStatus], policy: RestartPolicy) -> Init {
    let mut pending = false;
    for container in lifecycle::init_containers(pod) {
        let status = statuses.iter().find(|status| status.name == container.name);
        match status.and_then(last_exit_code) {
            None => pending = true,
            Some(0) => {}
            Some(code) if policy.restarts(code) => {}
            Some(_) => return Init::FailedForGood,
        }
    }
    if pending { Init::Pending } else { Init::Done }
}

/// The exit code of a container that has ended, or of its last instance while it waits for the next.
fn last_exit_code(status: &ContainerStatus) -> Option<i32> {
    let ended = |state: &Option<ContainerState>| {
        state
            .as_ref()
            .and_then(|state| state.terminated.as_ref())
            .map(|ended| ended.exit_code)
    };
    let state = status.state.as_ref();
    if state.is_some_and(|state| state.running.is_some()) {
        return None;
    }
    ended(&status.state).or_else(|| ended(&status.last_state))
}

#[derive(Default)]
struct Count {
    running: usize,
    waiting: usize,
    ended: usize,
    succeeded: usize,
    unknown: usize,
}

impl Count {
    fn of(pod: &Pod, statuses: &[ContainerStatus]) -> Self {
        let mut count = Self::default();
        for container in lifecycle::main_containers(pod) {
            count.add(statuses.iter().find(|status| status.name == container.name));
        }
        count
    }

    fn add(&mut self, status: Option<&ContainerStatus>) {
        let Some((status, state)) = status.and_then(|s| s.state.as_ref().map(|state| (s, state))) else {
            self.unknown += 1;
            return;
        };
        if state.running.is_some() {
            self.running += 1;
        } else if let Some(ended) = &state.terminated {
            self.ended += 1;
            self.succeeded += usize::from(ended.exit_code == 0);
        } else if status
            .last_state
            .as_ref()
            .is_some_and(|last| last.terminated.is_some())
        {
            self.ended += 1;
        } else {
            self.waiting += 1;
        }
    }
}
