//! The postStart hook: a container counts as started only when it is over.
//!
//! Nothing is reported while it runs but the readiness of others, and the containers that come next wait, as with the
//! kubelet. A hook that a restart of edgecore cuts short is not run again: the container is found running and taken as
//! it is.

use k8s_openapi::api::core::v1::Container;

use super::orders::{ordered_end, ordered_to_end_sooner};
use super::{Waiting, Worker};
use crate::pods::events::Tone;
use crate::pods::hooks::{self, HookTarget, Hooked};
use crate::pods::lifecycle::{self, Kill};

impl Worker {
    /// Runs the hook of a container that has just been started. False when it failed and the container was killed.
    pub(super) async fn post_start(&mut self, container: &Container, id: &str) -> bool {
        let Some(handler) = hooks::post_start(container) else {
            return true;
        };
        self.permit = None;
        let target = self.hook_target(container, id);
        let done = tokio::select! {
            done = hooks::run(handler, target) => done,
            () = ordered_to_end_sooner(self.orders.clone(), i64::MAX) => Err(hooks::given_up(handler, target)),
        };
        let failure = match done {
            Ok(hooked) => {
                self.hooked(&hooked);
                return true;
            }
            Err(failure) => failure,
        };
        let event = (Tone::Warning, "FailedPostStartHook", "PostStartHook failed");
        self.say(&container.name, event);
        let waiting = Waiting {
            reason: "PostStartHookError".to_owned(),
            message: failure.to_string(),
        };
        self.waiting.insert(container.name.clone(), waiting);
        if ordered_end(&self.orders.borrow()).is_none() {
            self.kill_all(vec![self.kill_of_failed(container, id)]).await;
        }
        false
    }

    fn kill_of_failed(&self, container: &Container, id: &str) -> Kill {
        Kill {
            id: id.to_owned(),
            name: container.name.clone(),
            grace_seconds: lifecycle::spec_grace(self.pod()),
            message: "FailedPostStartHook".to_owned(),
            restart: false,
            after: Vec::new(),
        }
    }

    pub(super) fn hook_target<'a>(&'a self, container: &'a Container, id: &'a str) -> HookTarget<'a> {
        HookTarget {
            pod: self.pod(),
            container,
            id,
            pod_ips: self.observed.ips(),
            runtime: self.kit.runtime.as_ref(),
        }
    }

    pub(super) fn hooked(&self, hooked: &Hooked) {
        if let Hooked::WithoutTls(address) = hooked {
            let message = format!(
                "request to HTTPS lifecycle hook {address} got HTTP response, retry with HTTP succeeded"
            );
            let reason = "LifecycleHTTPFallback";
            self.kit.events.pod(self.pod(), Tone::Warning, reason, &message);
        }
    }
}
