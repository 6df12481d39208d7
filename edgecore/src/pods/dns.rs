//! dnsPolicy: which resolver configuration a pod gets.

use k8s_cri::v1::DnsConfig;
use k8s_openapi::api::core::v1::Pod;

use super::spec::NodeFacts;

/// What a pod resolves names with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodDns {
    /// For the sandbox.
    pub config: DnsConfig,
    /// What to say in events of type Warning: (reason, message).
    pub warnings: Vec<(&'static str, String)>,
}

/// The pod's resolver configuration.
pub fn pod_dns(facts: &NodeFacts, pod: &Pod) -> PodDns {
    let _ = (facts, pod);
    PodDns::default()
}
