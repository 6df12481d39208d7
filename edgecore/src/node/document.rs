//! The Node as this device says it is: one document for registration and for status.
//!
//! Pure. What cloudcore says under its own name (role, restricted labels, addresses, endpoints)
//! is absent, and so are heartbeat times: two documents are equal when nothing worth telling
//! changed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    ContainerImage, Node, NodeCondition, NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures,
    NodeSpec, NodeStatus, NodeSwapStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::capacity::{allocatable, capacity};
use super::{Handler, Image, Machine, Observation, RuntimeFacts};

/// The Kubernetes whose kubelet this node behaves like.
const KUBERNETES: &str = "v1.36.3";
/// How many images the kubelet lists, and how many names of each.
const MAX_IMAGES: usize = 50;
const MAX_NAMES: usize = 5;
/// Where the device's own address stands.
const DEVICE_ADDRESS: &str = "tombolo.dev/device-address";

/// What the configuration says of the Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The node's name.
    pub name: String,
    /// Labels of the configuration.
    pub labels: BTreeMap<String, String>,
    /// Taints to register with: key, value, effect.
    pub taints: Vec<(String, String, String)>,
    /// How many pods the node takes.
    pub max_pods: u32,
    /// `topology.kubernetes.io/zone`.
    pub zone: String,
    /// `topology.kubernetes.io/region`.
    pub region: String,
}

/// The Node, from who it is, what was seen and what that means. Heartbeats are left out.
pub fn node(
    identity: &Identity,
    seen: &Observation,
    address: Option<IpAddr>,
    conditions: Vec<NodeCondition>,
) -> Node {
    Node {
        metadata: ObjectMeta {
            name: Some(identity.name.clone()),
            labels: Some(labels(identity)),
            annotations: address.map(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: Some(taints(identity)),
            ..NodeSpec::default()
        }),
        status: Some(status(identity, seen, conditions)),
    }
}

/// The same document with the time at which it is sent.
pub fn with_heartbeat(mut node: Node, now: &Time) -> Node {
    let conditions = node
        .status
        .iter_mut()
        .filter_map(|status| status.conditions.as_mut())
        .flatten();
    for condition in conditions {
        condition.last_heartbeat_time = Some(now.clone());
    }
    node
}

/// The architecture in Go's words, which is what Kubernetes uses.
pub const fn architecture() -> &'static str {
    match std::env::consts::ARCH.as_bytes() {
        b"x86_64" => "amd64",
        b"aarch64" => "arm64",
        b"x86" => "386",
        b"powerpc64" => "ppc64le",
        _ => std::env::consts::ARCH,
    }
}

fn labels(identity: &Identity) -> BTreeMap<String, String> {
    let arch = architecture();
    let own = [
        ("beta.kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("kubernetes.io/hostname", &identity.name),
        ("kubernetes.io/os", "linux"),
        // Cloud load balancers must not send traffic to a device behind NAT.
        ("node.kubernetes.io/exclude-from-external-load-balancers", ""),
        ("tombolo.dev/autonomy", "true"),
        ("topology.kubernetes.io/region", &identity.region),
        ("topology.kubernetes.io/zone", &identity.zone),
    ];
    let mut labels: BTreeMap<String, String> = own
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    labels.extend(identity.labels.clone());
    labels
}

fn annotations(address: IpAddr) -> BTreeMap<String, String> {
    BTreeMap::from([(DEVICE_ADDRESS.to_owned(), address.to_string())])
}

/// An empty list says "none"; an absent one would leave the choice to cloudcore.
fn taints(identity: &Identity) -> Vec<Taint> {
    let taint = |(key, value, effect): &(String, String, String)| Taint {
        key: key.clone(),
        value: Some(value.clone()).filter(|value| !value.is_empty()),
        effect: effect.clone(),
        time_added: None,
    };
    identity.taints.iter().map(taint).collect()
}

fn status(identity: &Identity, seen: &Observation, conditions: Vec<NodeCondition>) -> NodeStatus {
    let facts = seen.runtime.as_ref().ok();
    let disk = seen.load.disk;
    NodeStatus {
        capacity: Some(capacity(&seen.machine, disk, identity.max_pods)),
        allocatable: Some(allocatable(&seen.machine, disk, identity.max_pods)),
        conditions: Some(conditions),
        node_info: Some(node_info(&seen.machine, facts)),
        images: facts.map(|facts| images(&facts.images)),
        runtime_handlers: facts.map(|facts| facts.handlers.iter().map(handler).collect()),
        features: facts.and_then(features),
        ..NodeStatus::default()
    }
}

fn node_info(machine: &Machine, facts: Option<&RuntimeFacts>) -> NodeSystemInfo {
    let version = env!("CARGO_PKG_VERSION");
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: machine.boot_id.clone(),
        container_runtime_version: runtime_version(facts),
        kernel_version: machine.kernel_version.clone(),
        // Nothing here proxies Services; the field is deprecated and empty on stock nodes too.
        kube_proxy_version: String::new(),
        kubelet_version: format!("{KUBERNETES}+tombolo.{version}"),
        machine_id: machine.machine_id.clone(),
        operating_system: "linux".to_owned(),
        os_image: machine.os_image.clone(),
        swap: swap(machine),
        system_uuid: machine.system_uuid.clone(),
    }
}

fn runtime_version(facts: Option<&RuntimeFacts>) -> String {
    facts.map_or_else(
        || "unknown://Unknown".to_owned(),
        |facts| format!("{}://{}", facts.name, facts.version),
    )
}

fn swap(machine: &Machine) -> Option<NodeSwapStatus> {
    let capacity = i64::try_from(machine.swap).ok().filter(|swap| *swap > 0)?;
    Some(NodeSwapStatus {
        capacity: Some(capacity),
    })
}

/// The largest images, by a stable order: the list must not change when nothing did.
fn images(all: &[Image]) -> Vec<ContainerImage> {
    let mut sorted: Vec<&Image> = all.iter().collect();
    sorted.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.names.cmp(&b.names)));
    let image = |image: &Image| ContainerImage {
        names: Some(image.names.iter().take(MAX_NAMES).cloned().collect()),
        size_bytes: i64::try_from(image.size).ok(),
    };
    sorted.into_iter().take(MAX_IMAGES).map(image).collect()
}

fn handler(handler: &Handler) -> NodeRuntimeHandler {
    NodeRuntimeHandler {
        name: Some(handler.name.clone()),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(handler.recursive_read_only_mounts),
            user_namespaces: Some(handler.user_namespaces),
        }),
    }
}

fn features(facts: &RuntimeFacts) -> Option<NodeFeatures> {
    facts.supplemental_groups_policy.map(|known| NodeFeatures {
        supplemental_groups_policy: Some(known),
    })
}

#[cfg(test)]
mod tests;
