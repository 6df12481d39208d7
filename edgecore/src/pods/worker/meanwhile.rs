//! Readiness goes past the work: what is killed takes its grace, and a hook its time, and who is not ready must not be
//! asked as long.
//!
//! All else that a status says is as it was when the work began; the next look brings it up to date.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PodStatus;
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::pods::status;

impl Worker {
    /// Reports the status, and again whenever the probes say something else, until the work is `done`. What it gives
    /// was kept last. Borrows nothing.
    pub(super) fn publish_until(
        &self,
        done: CancellationToken,
    ) -> impl Future<Output = Option<PodStatus>> + use<> {
        // First the pulse: no beat is missed.
        let pulse = self.probing.pulse().filter(|_| !self.order.removed);
        let (kit, order) = (Arc::clone(&self.kit), self.order.clone());
        let (first, teller) = (self.report(), self.teller());
        async move {
            let (mut status, mut kept) = first.await;
            let Some(mut pulse) = pulse else {
                return kept.then_some(status);
            };
            // A report that has begun is not given up: it would not be known what was kept.
            while done.run_until_cancelled(pulse.changed()).await.is_some() {
                let pod = &order.desired.pod;
                let now = status::with_health(pod, &status, &pulse.health(), kit.clock.now());
                let news = !kept || now != status;
                if news && teller.tell(&now).await {
                    (status, kept) = (now, true);
                }
            }
            kept.then_some(status)
        }
    }
}
