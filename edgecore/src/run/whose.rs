//! Which pod has an address, by the newest statuses.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use crate::network::api::Whose;
use crate::pods::seams::PodSource as _;
use crate::pods::spec;
use crate::reported::Reporter;
use crate::state::Desired;

/// Asks what the node holds, each time.
pub(super) fn whose(desired: Desired, reporter: Arc<Reporter>) -> Whose {
    Arc::new(move |address| {
        let pods = desired.pods();
        pods.iter().map(|wanted| &wanted.pod).find_map(|pod| {
            let status = reporter.last_status(spec::uid(pod))?;
            has(pod, &status, address).then(|| format!("{}/{}", spec::namespace(pod), spec::name(pod)))
        })
    })
}

/// Whether an address is this pod's alone: on the host's network it is the device's.
fn has(pod: &Pod, status: &PodStatus, address: IpAddr) -> bool {
    let more = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
    let mut all = status.pod_ip.iter().chain(more);
    !spec::host_network(pod) && all.any(|ip| ip.parse() == Ok(address))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_has_each_of_its_addresses_and_none_of_the_device_s() {
        let status: PodStatus = serde_json::from_value(json!({
            "podIP": "10.86.0.3", "podIPs": [{"ip": "10.86.0.3"}, {"ip": "fd00::3"}]
        }))
        .unwrap();
        let mut pod = Pod::default();
        for (address, its) in [("10.86.0.3", true), ("fd00:0::3", true), ("10.86.0.4", false)] {
            assert_eq!(has(&pod, &status, address.parse().unwrap()), its, "{address}");
        }
        pod.spec = serde_json::from_value(json!({"hostNetwork": true, "containers": []})).unwrap();
        assert!(!has(&pod, &status, "10.86.0.3".parse().unwrap()));
    }
}
