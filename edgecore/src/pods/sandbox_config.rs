//! The sandbox as the runtime is told it.

use k8s_cri::v1::PodSandboxConfig;
use k8s_openapi::api::core::v1::Pod;

use super::spec::NodeFacts;

/// The sandbox of `pod`, on its `attempt`th try.
pub fn build(facts: &NodeFacts, pod: &Pod, attempt: u32) -> PodSandboxConfig {
    let _ = (facts, pod, attempt);
    PodSandboxConfig::default()
}
