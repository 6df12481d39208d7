//! What is said of the containers of a pod that has ended.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodStatus};

use super::StatusInput;
use super::containers::{UNKNOWN_EXIT_CODE, UNKNOWN_REASON, is_waiting, terminated};
use crate::pods::lifecycle;
use crate::pods::spec::is_sidecar;

const NOT_FOUND: &str = "The container could not be located when the pod was terminated";

/// Once a pod has ended, a container that nobody saw end has failed; not so the main containers of a pod that was ended
/// while it initialised, though its init container may have ended well because of that.
pub(super) fn settle(input: &StatusInput<'_>, old: &PodStatus, status: &mut PodStatus) {
    let unknown = |container: &mut ContainerStatus| {
        if container
            .state
            .as_ref()
            .is_none_or(|state| state.terminated.is_none())
        {
            container.state = Some(terminated(UNKNOWN_REASON, NOT_FOUND, UNKNOWN_EXIT_CODE));
        }
    };
    if !input.end.uninitialized && was_initialized(input.pod, old, status) {
        status.container_statuses.iter_mut().flatten().for_each(unknown);
    }
    let inits = status.init_container_statuses.as_deref_mut().unwrap_or_default();
    let touched = inits
        .iter()
        .rposition(|container| !is_waiting(container) || ended_before(container));
    let failed = touched.map_or(1, |last| last + 1).min(inits.len());
    inits.iter_mut().take(failed).for_each(unknown);
}

fn ended_before(container: &ContainerStatus) -> bool {
    container
        .last_state
        .as_ref()
        .is_some_and(|last| last.terminated.is_some())
}

pub(super) fn was_initialized(pod: &Pod, old: &PodStatus, status: &PodStatus) -> bool {
    let exited_well = |state: &Option<ContainerState>| {
        let ended = state.as_ref().and_then(|state| state.terminated.as_ref());
        ended.is_some_and(|ended| ended.exit_code == 0)
    };
    // A sidecar that started and has ended does not show any more that it had started.
    let sidecars_started = lifecycle::init_containers(pod).last().is_some_and(is_sidecar)
        && old
            .conditions
            .iter()
            .flatten()
            .any(|c| c.type_ == "Initialized" && c.status == "True");
    let last_init = status.init_container_statuses.iter().flatten().next_back();
    let mut mains = status.container_statuses.iter().flatten();
    lifecycle::init_containers(pod).is_empty()
        || sidecars_started
        || mains.any(|container| ended_before(container) || !is_waiting(container))
        || last_init.is_some_and(|init| exited_well(&init.state) || exited_well(&init.last_state))
}
