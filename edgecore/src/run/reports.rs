//! The reporter behind the seam of pods.

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Event, Pod, PodStatus};

use crate::pods::seams::{NotKept, Report};
use crate::pods::status::{Failure, is_terminal};
use crate::reported::Reporter;
use crate::store::{Frost, StoreError};
use crate::uplink::DesiredFlow;

/// Whom pods tell.
pub(super) struct PodReports {
    pub(super) reporter: Arc<Reporter>,
    pub(super) flow: Arc<DesiredFlow>,
    pub(super) frost: Option<Arc<Frost>>,
}

impl PodReports {
    fn trouble(&self) -> Option<StoreError> {
        self.frost.as_ref().and_then(|frost| frost.trouble())
    }
}

/// Whether the pod has failed because the node wanted it to, and not by what its containers did: an eviction, a
/// deadline, a pod that was not admitted. Only those have a reason.
fn failed_by_the_node(status: &PodStatus) -> bool {
    is_terminal(status) && status.reason.is_some()
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
            // Whoever made the pod deletes it then, which waits for nobody, and its successor may run elsewhere; the
            // next start may find a disk that knows nothing of it, and run it again.
            if let Some(trouble) = self.trouble().filter(|_| failed_by_the_node(status)) {
                self.reporter.withhold(pod, status, failure);
                return Err(NotKept(Box::new(trouble)));
            }
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
            if let Some(trouble) = self.trouble() {
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

    async fn frozen(name: &str) -> (PodReports, Arc<Frost>) {
        let root = std::env::temp_dir().join(format!("tombolo-{name}-{}", std::process::id()));
        let mut stores = open_stores(&root).unwrap();
        let frost = stores.freeze();
        drop(stores);
        std::fs::remove_dir_all(root).unwrap();
        let (desired, remembered) = Desired::load(Db::in_memory()).await.unwrap();
        let reports = PodReports {
            reporter: Arc::new(Reporter::load(Db::in_memory()).await.unwrap()),
            flow: DesiredFlow::new(desired, remembered),
            frost: Some(Arc::clone(&frost)),
        };
        (reports, frost)
    }

    fn status(phase: &str, reason: Option<&str>) -> PodStatus {
        PodStatus {
            phase: Some(phase.to_owned()),
            reason: reason.map(str::to_owned),
            ..PodStatus::default()
        }
    }

    #[tokio::test]
    async fn no_pod_is_said_to_have_failed_by_the_node_that_the_next_start_may_run_again() {
        let (reports, frost) = frozen("failed").await;
        let (mut pod, evicted) = (Pod::default(), status("Failed", Some("Evicted")));
        pod.metadata.uid = Some("u1".to_owned());
        let tell = |status: &PodStatus| {
            let (reports, pod, status) = (&reports, &pod, status.clone());
            async move { reports.pod_status(pod, &status, None).await }
        };
        tell(&evicted).await.unwrap_err();
        assert_eq!(reports.reporter.pending(), 0, "it would be sent out of memory");
        assert_eq!(reports.last_status("u1"), Some(evicted.clone()));
        reports.forget("u1").await;
        assert_eq!(reports.last_status("u1"), None);

        // What its containers did they did, and what is said of a pod that runs on is measured again.
        for told in [status("Running", Some("Evicted")), status("Failed", None)] {
            tell(&told).await.unwrap();
            assert_eq!(reports.reporter.pending(), 1);
            reports.forget("u1").await;
        }
        tell(&evicted).await.unwrap_err();
        frost.melt_all();
        tell(&evicted).await.unwrap();
        assert_eq!(reports.reporter.pending(), 1);
        assert_eq!(reports.last_status("u1"), Some(evicted));
        let later = status("Failed", None);
        tell(&later).await.unwrap();
        assert_eq!(reports.last_status("u1"), Some(later));
    }

    #[tokio::test]
    async fn no_pod_is_said_to_be_gone_whose_deletion_the_next_start_may_not_know() {
        let (reports, frost) = frozen("gone").await;
        reports.gone(&Pod::default()).await.unwrap_err();
        assert_eq!(reports.reporter.pending(), 0, "it would be sent out of memory");
        frost.melt_all();
        reports.gone(&Pod::default()).await.unwrap();
        assert_eq!(reports.reporter.pending(), 1);
    }
}
