//! What pods need from the rest of the node: the wanted pods, and somebody to tell.
//!
//! Traits only, so that this folder knows neither the store nor the link.

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use thiserror::Error;
use tokio::sync::watch;

use super::desired::DesiredPod;
use super::spec;
use super::status::{self, Failure};

/// A pod that the cluster wants here and of which no readable version is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID; `None` where not even that can be read.
    pub uid: Option<String>,
}

impl UnreadPod {
    /// Whether what the runtime holds under this UID and name may be of this pod.
    pub fn may_be(&self, uid: &str, namespace: &str, name: &str) -> bool {
        match &self.uid {
            Some(own) => own == uid,
            None => self.namespace == namespace && self.name == name,
        }
    }
}

/// The pods that the cluster wants on this node.
pub trait PodSource: Send + Sync + 'static {
    /// All of them, decoded once per version.
    fn pods(&self) -> Vec<Arc<DesiredPod>>;
    /// Whether the list has been confirmed by the cluster since this boot: only then is a pod that is
    /// missing from it really gone.
    fn pods_synced(&self) -> bool;
    /// Pods that are wanted and missing from [`pods`](Self::pods), because they cannot be read. What runs of
    /// them is left alone.
    fn unread(&self) -> Vec<UnreadPod>;
    /// Changes whenever [`pods`](Self::pods) or [`pods_synced`](Self::pods_synced) may answer differently.
    fn pods_changed(&self) -> watch::Receiver<u64>;
    /// Changes whenever a ConfigMap, a Secret or a Service may have changed.
    fn objects_changed(&self) -> watch::Receiver<u64>;
}

/// The report could not be kept.
#[derive(Debug, Error)]
#[error("the report could not be stored; it is made again")]
pub struct NotKept(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Whom to tell what became of a pod. Returns when the report outlives a crash.
pub trait Report: Send + Sync + 'static {
    /// The pod's status, whole. The newest one counts. Why the pod fails is kept beside it on the device alone: the
    /// status says it only when nothing of the pod runs any more.
    fn pod_status<'a>(
        &'a self,
        pod: &'a Pod,
        status: &'a PodStatus,
        failure: Option<&'a Failure>,
    ) -> BoxFuture<'a, Result<(), NotKept>>;
    /// The status that was reported last, if it is still remembered (also from before a restart).
    fn last_status(&self, uid: &str) -> Option<PodStatus>;
    /// Why the pod fails, as it was kept beside that status.
    fn last_failure(&self, uid: &str) -> Option<Failure>;
    /// Whether the pod has ended for good, as far as this node or the cluster knows: it never runs again.
    fn is_over(&self, pod: &Pod) -> bool {
        let reported = self.last_status(spec::uid(pod));
        let known = [reported.as_ref(), pod.status.as_ref()];
        known.into_iter().flatten().any(status::is_terminal)
    }
    /// Nothing of the pod is left here: its object may go.
    fn gone<'a>(&'a self, pod: &'a Pod) -> BoxFuture<'a, Result<(), NotKept>>;
    /// The pod is neither here nor in the cluster any more: what is kept of it may go.
    fn forget<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, ()>;
    /// Removed pods that wait to be forgotten. Some were never worked on: they came and went while a pod of
    /// their name was ending.
    fn unforgotten(&self) -> Vec<String>;
    /// Something worth telling happened to the pod. Best effort.
    fn event(&self, event: k8s_openapi::api::core::v1::Event) -> BoxFuture<'_, ()>;
}
