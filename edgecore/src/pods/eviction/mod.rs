//! Pods that are ended so that the device lives: the kubelet's eviction.
//!
//! ```text
//! watch ──► limits: a pod has more than it may ───────────────────────────────────────────────┐
//!   │                                                                                         ├──► Eviction ──► its worker
//!   └─────► shortage ──► reclaim what ended pods left, and images ──► rank ──► the first pod ─┘
//! ```
//!
//! `rank`, `limits` and `words` decide and are pure; `usage` is what they decide on, `measure` gets it,
//! and `watch` waits. What a shortage is, and when something has to be done about it, [`shortage`](crate::node::shortage)
//! says. Thresholds, ranking, words and grace are the kubelet's; a pod of which nothing runs yet is not evicted for a
//! shortage, since that would free nothing.
//!
//! **Invariants:** a critical pod is never evicted; for a shortage one pod at a time goes, and the next one only
//! when that one is gone or had its time; with enough of everything and no pod that has a limit nothing is measured.

mod limits;
mod measure;
mod rank;
mod usage;
mod watch;
mod words;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::spec;

pub(crate) use watch::Sight;
pub(super) use watch::{Parts, keep_watch};
pub(super) use words::conditions as admission_words;

/// The reason in the status and of the event.
pub const REASON: &str = "Evicted";
/// How long the containers of an evicted pod get, unless it goes for a soft threshold.
pub const GRACE_SECONDS: i64 = 1;

/// From this priority on a pod is part of the system.
const CRITICAL: i32 = 2_000_000_000;
/// The annotation of a pod that shows a static one.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Why a pod is evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// In the kubelet's words.
    pub message: String,
    /// It has done nothing that it may not, but the node needs what it uses: the pod gets the condition
    /// `DisruptionTarget`.
    pub for_the_node: bool,
    /// How long its containers get.
    pub grace_seconds: i64,
}

/// One pod is to be evicted.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) uid: String,
    pub(super) eviction: Arc<Eviction>,
}

/// Whether a pod is part of the system.
pub(super) fn is_critical(pod: &Pod) -> bool {
    let mirrors = pod.metadata.annotations.as_ref();
    mirrors.is_some_and(|annotations| annotations.contains_key(MIRROR)) || priority(pod) >= CRITICAL
}

fn priority(pod: &Pod) -> i32 {
    spec::spec(pod).and_then(|spec| spec.priority).unwrap_or(0)
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
