//! The last status of each pod: what was said, and what may not be said yet.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use protocol::reported::{OutboxKey, PodIdentity};
use serde::{Deserialize, Serialize};

use super::{Book, ReportError, Reporter, identity};
use crate::pods::status::Failure;
use crate::store::{Op, Table};

/// What was last said of a pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LastStatus {
    pub(super) pod: PodIdentity,
    status: PodStatus,
    /// Why it fails, which the status says only when nothing of it runs any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
}

impl LastStatus {
    fn of(pod: &Pod, status: &PodStatus, failure: Option<&Failure>) -> Self {
        Self {
            pod: identity(pod),
            status: status.clone(),
            failure: failure.cloned(),
        }
    }
}

impl Reporter {
    /// Reports a pod's status, and keeps here why it fails.
    pub async fn pod_status(
        &self,
        pod: &Pod,
        status: &PodStatus,
        failure: Option<&Failure>,
    ) -> Result<(), ReportError> {
        let identity = identity(pod);
        let last = LastStatus::of(pod, status, failure);
        let (json, kept) = (serde_json::to_vec(status)?, serde_json::to_vec(&last)?);
        self.put(|book| {
            book.put(OutboxKey::Pod(identity.clone()), &json);
            let (uid, put) = (identity.uid, Op::Put(kept.into()));
            book.withheld.remove(&uid);
            if book.statuses.insert(uid.clone(), last).is_some() {
                book.keep(Table::PodState, uid, put);
            } else {
                book.keep_new(Table::PodState, uid, put);
            }
        })
        .await
    }

    /// Remembers a status that may not be told yet, for who works on the pod: the cluster would rely on it, and the
    /// disk cannot keep it. Nothing of it is told or written until it is [reported](Self::pod_status).
    pub fn withhold(&self, pod: &Pod, status: &PodStatus, failure: Option<&Failure>) {
        let last = LastStatus::of(pod, status, failure);
        self.book.lock().withheld.insert(last.pod.uid.clone(), last);
    }

    /// The status that was last reported of a pod.
    pub fn last_status(&self, uid: &str) -> Option<PodStatus> {
        Some(self.book.lock().last(uid)?.status.clone())
    }

    /// Why a pod fails, as it was kept beside its last status.
    pub fn last_failure(&self, uid: &str) -> Option<Failure> {
        self.book.lock().last(uid)?.failure.clone()
    }
}

impl Book {
    /// The newest of a pod, told or not.
    fn last(&self, uid: &str) -> Option<&LastStatus> {
        self.withheld.get(uid).or_else(|| self.statuses.get(uid))
    }

    /// A status from before the restart: said again in the next session unless a newer one waits.
    pub(super) fn remember(&mut self, uid: String, last: LastStatus, waiting: &[OutboxKey]) {
        let key = OutboxKey::Pod(last.pod.clone());
        let gone = OutboxKey::Gone(last.pod.clone());
        if let Ok(json) = serde_json::to_vec(&last.status)
            && !waiting.contains(&key)
            && !waiting.contains(&gone)
        {
            self.put(key, &json);
        }
        self.statuses.insert(uid, last);
    }

    pub(super) fn forget_status(&mut self, uid: &str) {
        self.withheld.remove(uid);
        if self.statuses.remove(uid).is_some() {
            self.keep(Table::PodState, uid.to_owned(), Op::Delete);
        }
    }
}
