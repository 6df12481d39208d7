//! What failed a moment ago is left alone for a while.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::{Worker, earlier};
use crate::pods::container_config::container_hash;
use crate::pods::lifecycle::{Plan, Step};
use crate::pods::spec;

/// What is left alone until an instant, because it failed.
#[derive(Debug, Default)]
pub(super) struct Holds {
    pub(super) sandbox: Option<Instant>,
    pub(super) containers: BTreeMap<String, Instant>,
    pub(super) mount_failures: u32,
    /// How often a sandbox could not be stopped.
    pub(super) stops: BTreeMap<String, u32>,
}

impl Worker {
    /// That another image failed says nothing of a container's new one, and nobody waits for the old one.
    pub(super) fn let_go_of_other_versions(&mut self, before: &Pod) {
        let containers = spec::all_containers(&self.order.desired.pod);
        self.ahead.pulling.keep_for(containers);
        for container in spec::all_containers(&self.order.desired.pod) {
            let hash = container_hash(container);
            if !spec::all_containers(before).any(|old| container_hash(old) == hash) {
                self.holds.containers.remove(&container.name);
                self.waiting.remove(&container.name);
            }
        }
    }

    /// Takes out of the plan what failed a moment ago; says when it may be tried again.
    pub(super) fn hold_back(&mut self, plan: &mut Plan) -> Option<Instant> {
        let now = Instant::now();
        self.holds.containers.retain(|_, until| *until > now);
        self.holds.sandbox = self.holds.sandbox.filter(|until| *until > now);
        let pod = &self.order.desired.pod;
        let hold = |step: &Step| match step {
            Step::CreateSandbox { .. } => self.holds.sandbox,
            Step::Start(start) => {
                let container = start
                    .place
                    .of(pod)
                    .and_then(|c| self.holds.containers.get(&c.name));
                earlier(container.copied(), self.holds.sandbox)
            }
            Step::Kill(_) | Step::StopSandbox { .. } => None,
        };
        let until = plan.steps.iter().filter_map(hold).min();
        plan.steps.retain(|step| hold(step).is_none());
        self.hold_for_images(plan);
        until
    }
}
