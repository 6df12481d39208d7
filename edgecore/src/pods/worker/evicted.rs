//! A pod that has to go: what is said of it, and how long it gets.
//!
//! **Invariant:** what was said first of a pod's end counts, before a restart too.

use k8s_openapi::api::core::v1::PodStatus;

use super::Worker;
use crate::pods::events::Tone;
use crate::pods::eviction::{self, Eviction};
use crate::pods::lifecycle::{self, Stage};
use crate::pods::status::{self, Failure};

impl Worker {
    /// The pod fails, unless it ends already. What is said of it first counts.
    pub(super) fn evict(&mut self, eviction: &Eviction) {
        if self.stage != Stage::Running || self.has_ended_before() {
            return;
        }
        let (reason, message) = (eviction::REASON, &eviction.message);
        self.kit.events.pod(self.pod(), Tone::Warning, reason, message);
        self.end.failed = Some(Failure {
            reason: reason.to_owned(),
            message: message.clone(),
            for_the_node: eviction.for_the_node,
        });
    }

    /// What was evicted before a restart is still in the way.
    pub(super) fn grace_of_the_ended(&self) -> i64 {
        if self.was_evicted() {
            eviction::GRACE_SECONDS
        } else {
            lifecycle::spec_grace(self.pod())
        }
    }

    /// Whether that was said of the pod, also before a restart.
    pub(super) fn was_evicted(&self) -> bool {
        let said = self
            .known_statuses()
            .filter_map(|status| status.reason.as_deref());
        let decided = self.end.failed.iter().map(|failure| failure.reason.as_str());
        said.chain(decided).any(|reason| reason == eviction::REASON)
    }

    /// Whether it was said, or decided and kept, that the pod never runs again.
    pub(super) fn has_ended_before(&self) -> bool {
        self.end.failed.is_some() || self.known_statuses().any(status::is_terminal)
    }

    /// Removes the containers of a pod that has ended, with all that they wrote: until then the node is as short as it
    /// was. The pod's object may stay for months; its sandbox, its logs and its status do.
    pub(super) async fn shed(&mut self) -> bool {
        for container in self.observed.containers.clone() {
            if !self.removed(&container).await {
                return false;
            }
        }
        true
    }

    /// What was reported last, and what the API server showed.
    pub(super) fn known_statuses(&self) -> impl Iterator<Item = &PodStatus> {
        let known = [self.reported.as_ref(), self.pod().status.as_ref()];
        known.into_iter().flatten()
    }
}
