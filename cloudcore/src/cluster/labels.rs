//! The labels, annotations and taints by which edge nodes are known.

use serde_json::Value;

/// Set by cloudcore alone (`NodeRestriction` forbids it to nodes): the Node is an edge node of ours.
pub const OURS: &str = "node-restriction.kubernetes.io/tombolo";
/// The role that `kubectl get nodes` shows.
pub const ROLE: &str = "node-role.kubernetes.io/edge";
/// "true": pods of the node are not evicted while it is cut off.
pub const AUTONOMY: &str = "tombolo.dev/autonomy";
/// Cloud load balancers leave such nodes out.
pub const NO_LOAD_BALANCER: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The labels as the device's configuration had them last, in JSON: an edit of it is told from one of the Node.
pub const CONFIGURED: &str = "tombolo.dev/configured-labels";
/// The device's own address: the Node's `InternalIP` is cloudcore's.
pub const DEVICE_ADDRESS: &str = "tombolo.dev/device-address";
/// The region that edge nodes get when none is configured.
pub const REGION: &str = "topology.kubernetes.io/region";
/// The zone; by default each edge node is its own, so that cut nodes never count in another's.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// The node's name, as a label.
pub const HOSTNAME: &str = "kubernetes.io/hostname";

/// Whether a Node, as JSON, carries the label that only cloudcore sets.
pub fn is_ours(node: &Value) -> bool {
    node["metadata"]["labels"].get(OURS).is_some()
}
