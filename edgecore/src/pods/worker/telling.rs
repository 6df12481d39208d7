//! What a worker tells of its pod: the status, and events about what waits.
//!
//! Statuses are [`status::build`]'s. **Invariant:** a status is told again until it is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::PodStatus;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::act::field;
use super::{Order, RETRY, Turn, Waiting, Worker};
use crate::pods::admission::Rejection;
use crate::pods::events::Tone;
use crate::pods::features::UnsupportedPodFeature;
use crate::pods::kit::Kit;
use crate::pods::lifecycle::Plan;
use crate::pods::spec;
use crate::pods::status::{self, Failure, StatusInput, ephemeral};

/// How long a status waits for the sandbox or the first containers: it is out of date as soon as they are
/// there, and telling it takes the processor from those that make them.
pub(super) const SOON: Duration = Duration::from_millis(400);
/// How long it waits in all from the pod's first step on, while all turns to start are taken: most of a burst's pods
/// run by then, and have one status to tell instead of two.
pub(super) const CROWDED: Duration = Duration::from_secs(5);

impl Worker {
    pub(super) fn say_back_offs(&mut self, plan: &Plan) {
        let pod = &self.order.desired.pod;
        for (name, seconds) in &plan.backing_off {
            let full_name = format!("{}_{}({})", spec::name(pod), spec::namespace(pod), self.uid);
            let delay = go_duration(*seconds);
            let message = format!("back-off {delay} restarting failed container={name} pod={full_name}");
            let event = format!("Back-off restarting failed container {name} in pod {full_name}");
            let field = field(pod, name);
            self.kit
                .events
                .container(pod, &field, (Tone::Warning, "BackOff", &event));
            self.waiting.insert(
                name.clone(),
                Waiting {
                    reason: "CrashLoopBackOff".to_owned(),
                    message,
                },
            );
        }
    }

    /// Ephemeral containers are not run: said once of each, before the status that says so too is kept.
    pub(super) fn say_ephemeral(&self) {
        let told = self
            .reported
            .as_ref()
            .and_then(|status| status.ephemeral_container_statuses.as_deref())
            .unwrap_or_default();
        let untold = |name: &str| !self.order.removed && !told.iter().any(|status| status.name == name);
        for container in ephemeral::containers(self.pod()) {
            if untold(&container.name) {
                let field = format!("spec.ephemeralContainers{{{}}}", container.name);
                let reason = UnsupportedPodFeature::REASON;
                self.kit
                    .events
                    .container(self.pod(), &field, (Tone::Warning, reason, ephemeral::MESSAGE));
            }
        }
    }

    /// A pod that this node does not honour stays Pending and says why.
    pub(super) async fn refuse(&mut self, refusal: &UnsupportedPodFeature) -> Turn {
        let message = refusal.to_string();
        let reason = UnsupportedPodFeature::REASON;
        self.kit.events.pod(self.pod(), Tone::Warning, reason, &message);
        let waiting = Waiting {
            reason: reason.to_owned(),
            message,
        };
        let names: Vec<String> = spec::all_containers(self.pod()).map(|c| c.name.clone()).collect();
        self.waiting = names.into_iter().map(|name| (name, waiting.clone())).collect();
        let told = self.publish().await;
        let failed = told.is_none();
        self.keep(told);
        Turn::Wait(failed.then(|| Instant::now() + RETRY))
    }

    /// The pod is not admitted: it fails before anything of it is made.
    #[must_use]
    pub fn rejected(mut self, rejection: &Rejection) -> Self {
        let Rejection { reason, message } = rejection;
        self.kit.events.pod(self.pod(), Tone::Warning, reason, message);
        self.end.rejected = Some(((*reason).to_owned(), format!("Pod was rejected: {message}")));
        self.begin_end(0);
        self
    }

    pub(super) fn status(&self) -> PodStatus {
        let host_ips = self.kit.host_ips();
        // On a disk that keeps nothing new the last that was told is not kept. It is what the cluster sees, and with
        // it nothing is told anew, with other times, as often as it is tried.
        let told = self.kit.report.last_status(&self.uid);
        status::build(&StatusInput {
            pod: self.pod(),
            last: told.as_ref().or(self.reported.as_ref()),
            observed: &self.observed,
            history: &self.history,
            waiting: &self.waiting,
            health: &self.probing.health(),
            host_ips: &host_ips,
            runtime: &self.kit.runtime_name,
            recursive_read_only: self.kit.recursive_read_only(self.pod()),
            resize: &self.resizing.state,
            end: &self.end,
            since: self.since,
            now: self.kit.clock.now(),
        })
    }

    /// Reports the status if it says something new. `None` when it could not be kept.
    pub(super) async fn publish(&self) -> Option<PodStatus> {
        let (status, kept) = self.report().await;
        kept.then_some(status)
    }

    /// The same; says whether it is kept. Borrows nothing, so that work goes on meanwhile.
    pub(super) fn report(&self) -> impl Future<Output = (PodStatus, bool)> + use<> {
        let status = self.status();
        let news = self.reported.as_ref() != Some(&status) && !self.order.removed;
        let teller = self.teller();
        async move {
            let kept = !news || teller.tell(&status).await;
            (status, kept)
        }
    }

    pub(super) fn teller(&self) -> Teller {
        Teller {
            kit: Arc::clone(&self.kit),
            order: self.order.clone(),
            failure: self.end.failed.clone(),
            waits: Arc::clone(&self.status_waits),
        }
    }

    pub(super) fn keep(&mut self, told: Option<PodStatus>) {
        if told.is_some() {
            self.reported = told;
        }
    }
}

/// Tells statuses of a pod while its worker goes on.
pub(super) struct Teller {
    kit: Arc<Kit>,
    order: Order,
    failure: Option<Failure>,
    /// The last one could not be kept.
    waits: Arc<AtomicBool>,
}

impl Teller {
    /// Whether the status could be kept.
    pub(super) async fn tell(&self, status: &PodStatus) -> bool {
        let pod = &self.order.desired.pod;
        let told = self
            .kit
            .report
            .pod_status(pod, status, self.failure.as_ref())
            .await;
        let waited = self.waits.swap(told.is_err(), Ordering::Relaxed);
        match &told {
            Ok(()) => {}
            // Warned of once: it is tried each second.
            Err(error) if waited => debug!(pod = spec::name(pod), %error, "a status waits still"),
            Err(error) => warn!(pod = spec::name(pod), %error, "a status waits"),
        }
        told.is_ok()
    }
}

/// Works, and tells meanwhile; not if the work is done `soon`, for then there is newer to tell, nor as long as telling
/// `waits`.
pub(super) async fn beside<T>(
    told: impl Future<Output = Option<T>>,
    mut work: impl Future<Output = bool> + Unpin,
    (soon, waits): (Duration, impl Fn() -> bool),
) -> (bool, Option<T>) {
    if !soon.is_zero() {
        loop {
            if let Ok(noted) = timeout(soon, &mut work).await {
                return (noted, None);
            }
            if !waits() {
                break;
            }
        }
    }
    let (told, noted) = tokio::join!(told, work);
    (noted, told)
}

/// `1m20s`, as Go prints a duration.
fn go_duration(seconds: u64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}
