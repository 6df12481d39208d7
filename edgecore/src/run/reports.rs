//! The reporter behind the seam of pods.

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Event, Pod, PodStatus};

use crate::pods::seams::{NotKept, Report};
use crate::pods::status::Failure;
use crate::reported::Reporter;
use crate::store::Frost;
use crate::uplink::DesiredFlow;

/// Whom pods tell.
pub(super) struct PodReports {
    pub(super) reporter: Arc<Reporter>,
    pub(super) flow: Arc<DesiredFlow>,
    pub(super) frost: Option<Arc<Frost>>,
}

fn not_kept(error: crate::reported::ReportError) -> NotKept {
    NotKept(Box::new(error))
}

impl Report for PodReports {
    fn pod_status<'a>(
        &'a self,
        pod: &'a Pod,
        status: &'a PodStatus,
        failure: Option<&'a Failure>,
    ) -> BoxFuture<'a, Result<(), NotKept>> {
        Box::pin(async move {
            let kept = self.reporter.pod_status(pod, status, failure).await;
            kept.map_err(not_kept)
        })
    }

    fn last_status(&self, uid: &str) -> Option<PodStatus> {
        self.reporter.last_status(uid)
    }

    fn last_failure(&self, uid: &str) -> Option<Failure> {
        self.reporter.last_failure(uid)
    }

    fn gone<'a>(&'a self, pod: &'a Pod) -> BoxFuture<'a, Result<(), NotKept>> {
        Box::pin(async move {
            // The next start may find a disk that knows nothing of the deletion: not even in memory may it be said.
            if let Some(trouble) = self.frost.as_ref().and_then(|frost| frost.trouble()) {
                return Err(NotKept(Box::new(trouble)));
            }
            self.reporter.gone(pod).await.map_err(not_kept)
        })
    }

    fn forget<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.flow.terminated(uid);
            if let Err(error) = self.reporter.forget(uid).await {
                tracing::debug!(uid, %error, "the last status of a pod that is gone was not forgotten");
            }
        })
    }

    fn unforgotten(&self) -> Vec<String> {
        self.flow.terminating()
    }

    fn event(&self, event: Event) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(error) = self.reporter.event(&event).await {
                tracing::debug!(%error, "an event was not kept");
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Desired;
    use crate::store::{Db, open_stores};

    #[tokio::test]
    async fn no_pod_is_said_to_be_gone_whose_deletion_the_next_start_may_not_know() {
        let root = std::env::temp_dir().join(format!("tombolo-gone-{}", std::process::id()));
        let mut stores = open_stores(&root).unwrap();
        let frost = stores.freeze();
        let (desired, remembered) = Desired::load(Db::in_memory()).await.unwrap();
        let reports = PodReports {
            reporter: Arc::new(Reporter::load(Db::in_memory()).await.unwrap()),
            flow: DesiredFlow::new(desired, remembered),
            frost: stores.frost.clone(),
        };
        reports.gone(&Pod::default()).await.unwrap_err();
        assert_eq!(reports.reporter.pending(), 0, "it would be sent out of memory");
        frost.melt_all();
        reports.gone(&Pod::default()).await.unwrap();
        assert_eq!(reports.reporter.pending(), 1);
        std::fs::remove_dir_all(root).unwrap();
    }
}
