//! Readiness goes past the work: what is killed takes its grace, and a hook its time, and who is not ready must not be
//! asked as long.
//!
//! All else that a status says is as it was when the work began; the next look brings it up to date.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::PodStatus;
use tokio_util::sync::CancellationToken;

use super::probing::Pulse;
use super::telling::tell;
use super::{Order, Waiting, Worker};
use crate::pods::kit::Kit;
use crate::pods::lifecycle::History;
use crate::pods::observed::PodObserved;
use crate::pods::resize::Resize;
use crate::pods::status::{self, End, StatusInput};

/// What a status is made from, when the work began, and the probes, as they are.
struct Sketch {
    kit: Arc<Kit>,
    order: Order,
    last: Option<PodStatus>,
    observed: PodObserved,
    history: History,
    waiting: BTreeMap<String, Waiting>,
    resize: Resize,
    end: End,
    since: SystemTime,
    pulse: Pulse,
}

impl Worker {
    /// Reports the status, and again whenever the probes say something else, until the work is `done`. What it gives
    /// was kept last. Borrows nothing.
    pub(super) fn publish_until(
        &self,
        done: CancellationToken,
    ) -> impl Future<Output = Option<PodStatus>> + use<> {
        // First the sketch: no beat is missed.
        let (sketch, first) = (self.sketch(), self.publish());
        async move {
            let mut told = first.await;
            let Some(mut sketch) = sketch else {
                return told;
            };
            // A report that has begun is not given up: it would not be known what was kept.
            while done.run_until_cancelled(sketch.pulse.changed()).await.is_some() {
                let status = sketch.status(told.as_ref());
                if told.as_ref() != Some(&status) && sketch.tell(&status).await {
                    told = Some(status);
                }
            }
            told
        }
    }

    /// Nothing where nothing else can be told before the work is done.
    fn sketch(&self) -> Option<Sketch> {
        let pulse = self.probing.pulse().filter(|_| !self.order.removed)?;
        Some(Sketch {
            kit: Arc::clone(&self.kit),
            order: self.order.clone(),
            last: self.reported.clone(),
            observed: self.observed.clone(),
            history: self.history.clone(),
            waiting: self.waiting.clone(),
            resize: self.resizing.state.clone(),
            end: self.end.clone(),
            since: self.since,
            pulse,
        })
    }
}

impl Sketch {
    async fn tell(&self, status: &PodStatus) -> bool {
        tell(&self.kit, &self.order, status, self.end.failed.as_ref()).await
    }

    fn status(&self, told: Option<&PodStatus>) -> PodStatus {
        let pod = &self.order.desired.pod;
        status::build(&StatusInput {
            pod,
            last: told.or(self.last.as_ref()),
            observed: &self.observed,
            history: &self.history,
            waiting: &self.waiting,
            health: &self.pulse.health(),
            host_ips: &self.kit.host_ips(),
            runtime: &self.kit.runtime_name,
            recursive_read_only: self.kit.recursive_read_only(pod),
            resize: &self.resize,
            end: &self.end,
            since: self.since,
            now: self.kit.clock.now(),
        })
    }
}
