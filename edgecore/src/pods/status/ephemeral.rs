//! Ephemeral containers (`kubectl debug`): not run on this node, and said so.
//!
//! The pod goes on without them: it was there before, and they can never be taken out of it again.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateWaiting, ContainerStatus, EphemeralContainer, Pod,
};

use crate::pods::features::UnsupportedPodFeature;
use crate::pods::spec;

/// What each of them waits with; `kubectl debug` shows it.
pub(crate) const MESSAGE: &str =
    "ephemeral containers are not supported on this node; the pod goes on without it";

/// The pod's ephemeral containers.
pub(crate) fn containers(pod: &Pod) -> &[EphemeralContainer] {
    spec::spec(pod)
        .and_then(|spec| spec.ephemeral_containers.as_deref())
        .unwrap_or_default()
}

/// One status each.
pub(super) fn statuses(pod: &Pod) -> Vec<ContainerStatus> {
    let status = |container: &EphemeralContainer| ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(UnsupportedPodFeature::REASON.to_owned()),
                message: Some(MESSAGE.to_owned()),
            }),
            ..ContainerState::default()
        }),
        ..ContainerStatus::default()
    };
    containers(pod).iter().map(status).collect()
}
