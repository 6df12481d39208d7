//! Who owns which field of a Pod's and a Node's status.
//!
//! The edge owns what it observes; everything else in a status belongs to others and is kept as
//! it is. The canonical body (what travels down) keeps only what others own; a report (what
//! travels up) changes only what the edge owns.

/// Pod conditions that the node writes.
pub const POD_CONDITIONS: [&str; 8] = [
    "PodScheduled",
    "Ready",
    "Initialized",
    "ContainersReady",
    "PodReadyToStartContainers",
    "PodResizeInProgress",
    "PodResizePending",
    "AllContainersRestarting",
];

/// Pod conditions that the node may write but others write too: kept unless the node says them.
pub const POD_CONDITIONS_SHARED: [&str; 2] = ["PodScheduled", "DisruptionTarget"];

/// Fields of a Pod's status that the node never writes, besides foreign conditions.
pub const POD_STATUS_FOREIGN: [&str; 1] = ["resourceClaimStatuses"];

/// Node conditions that the node writes.
pub const NODE_CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Fields of a Node's status that the node writes, besides its conditions.
pub const NODE_STATUS: [&str; 7] = [
    "capacity",
    "allocatable",
    "nodeInfo",
    "images",
    "runtimeHandlers",
    "features",
    "volumesInUse",
];

/// Whether a pod condition of this type belongs to the node alone.
pub fn is_pod_condition(condition: &str) -> bool {
    POD_CONDITIONS.contains(&condition)
}

/// Whether a node condition of this type belongs to the node alone.
pub fn is_node_condition(condition: &str) -> bool {
    NODE_CONDITIONS.contains(&condition)
}
