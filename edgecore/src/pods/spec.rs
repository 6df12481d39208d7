//! What every builder of this folder needs to know of the node, of a pod, and of the objects a pod names.
//!
//! Plain values and one lookup trait. Nothing here does I/O; paths are only computed.
//!
//! **Invariant:** a path is always made from a UID or a name that the API server has validated, and
//! [`NodeFacts::pod_dir`] refuses nothing else: callers check UIDs with [`is_plain_name`] first.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, ContainerStatus, Pod, PodSpec, PodStatus, Secret, Service,
};
use k8s_openapi::api::node::v1::RuntimeClass;

use super::cgroups::CgroupLayout;
use super::resolver::Resolver;
use super::resource_fields::Resources;
use crate::node::host_ip::HostIp;
use crate::node::pressures::Pressures;
use crate::runtime::Abilities;

/// What the builders need to know of this node. Made once at start.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// The node's name, as `spec.nodeName`.
    pub node_name: String,
    /// The device's own address, `status.hostIP`.
    pub host_ip: HostIp,
    /// `/var/lib/kubelet`.
    pub root_dir: PathBuf,
    /// `/var/log/pods`.
    pub log_dir: PathBuf,
    /// The device's hosts file, for pods on the host network.
    pub hosts_file: PathBuf,
    /// The device's resolver configuration, for dnsPolicy Default.
    pub resolver: Resolver,
    /// The cluster's DNS servers; empty when none is configured.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's DNS domain, `cluster.local`.
    pub cluster_domain: String,
    /// How pod cgroups are called.
    pub cgroups: CgroupLayout,
    /// The device's memory in bytes, for OOM scores.
    pub memory_capacity: u64,
    /// What pods may have of the device: told to containers that have no limit of their own.
    pub allocatable: Resources,
    /// The sizes of huge pages that the kernel knows, in bytes.
    pub huge_page_sizes: Vec<u64>,
    /// The kernel's major and minor version.
    pub kernel: (u32, u32),
    /// Whether the kernel enforces profiles of `AppArmor`.
    pub app_armor: bool,
    /// Whether files carry labels that containers are kept apart by.
    pub selinux: bool,
    /// What the runtime can do.
    pub abilities: Abilities,
    /// The pressures that the Node shows.
    pub pressures: Pressures,
}

impl NodeFacts {
    /// `<root>/pods/<uid>`.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }

    /// `<root>/pods/<uid>/containers/<name>`: where termination messages are written.
    pub fn container_dir(&self, uid: &str, container: &str) -> PathBuf {
        self.pod_dir(uid).join("containers").join(container)
    }

    /// `<log>/<ns>_<name>_<uid>`.
    pub fn pod_log_dir(&self, pod: &Pod) -> PathBuf {
        self.log_dir
            .join(format!("{}_{}_{}", namespace(pod), name(pod), uid(pod)))
    }
}

/// What is known of an object that a pod names.
#[derive(Clone, Debug)]
pub enum Lookup<T> {
    /// Here it is.
    Found(Arc<T>),
    /// The cluster says that it does not exist.
    Absent,
    /// The cluster has not said anything of it yet.
    Unknown,
}

impl<T> Lookup<T> {
    /// The same answer about a part of the object.
    pub fn map<U>(&self, part: impl FnOnce(&T) -> U) -> Lookup<U> {
        match self {
            Self::Found(object) => Lookup::Found(Arc::new(part(object))),
            Self::Absent => Lookup::Absent,
            Self::Unknown => Lookup::Unknown,
        }
    }
}

/// The objects that pods of this node name, answered from memory.
pub trait Objects: Send + Sync {
    /// A ConfigMap.
    fn config_map(&self, namespace: &str, name: &str) -> Lookup<ConfigMap>;
    /// A Secret.
    fn secret(&self, namespace: &str, name: &str) -> Lookup<Secret>;
    /// A `RuntimeClass`; all of the cluster's are here.
    fn runtime_class(&self, name: &str) -> Option<Arc<RuntimeClass>>;
    /// The Services of a namespace that the node knows.
    fn services(&self, namespace: &str) -> Vec<Arc<Service>>;
}

/// The pod's namespace; `default` when it says none.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// The pod's name.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The pod's UID.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// The pod's spec, when it has one.
pub fn spec(pod: &Pod) -> Option<&PodSpec> {
    pod.spec.as_ref()
}

/// Whether the pod lives on the host network.
pub fn host_network(pod: &Pod) -> bool {
    spec(pod).and_then(|spec| spec.host_network).unwrap_or(false)
}

/// The group that volumes belong to, when the pod names one.
pub fn fs_group(pod: &Pod) -> Option<u32> {
    let group = spec(pod)?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// All containers, init containers first.
pub fn all_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = spec(pod);
    let init = spec
        .and_then(|spec| spec.init_containers.as_deref())
        .unwrap_or_default();
    let main = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    init.iter().chain(main)
}

/// What a status says of containers, init containers first.
pub fn container_statuses(status: &PodStatus) -> Vec<ContainerStatus> {
    let inits = status.init_container_statuses.iter().flatten();
    inits
        .chain(status.container_statuses.iter().flatten())
        .cloned()
        .collect()
}

/// Whether an init container restarts always: it then runs beside the others until the pod ends.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether `text` can be one path element made by us: no separator, no `.` or `..`, not empty, at most 253 bytes.
pub fn is_plain_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 253 && text != "." && text != ".." && !text.contains(['/', '\0'])
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_path_elements_are_plain_names() {
        assert!(is_plain_name("0b1c-22"));
        for bad in ["", ".", "..", "a/b", "/a", "a\0b", &"x".repeat(254)] {
            assert!(!is_plain_name(bad), "{bad:?}");
        }
    }
}
