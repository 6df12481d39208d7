//! The sandbox as the runtime is told it, as the kubelet tells it.
//!
//! Reads the device's resolver file, nothing else. **Invariant:** names, labels and paths are those by
//! which `crictl`, log shippers and our own restart find the pod again.

use std::collections::{BTreeSet, HashMap};

use k8s_cri::v1::{
    LinuxContainerResources, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PortMapping,
    Protocol,
};
use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod};

use super::dns::{self, PodDns};
use super::hosts;
use super::resources::{self, Amounts, QUOTA_PERIOD_US};
use super::security;
use super::spec::{self, NodeFacts};

/// Label: the pod's name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label: the pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label: the pod's UID.
pub const POD_UID: &str = "io.kubernetes.pod.uid";

/// A sandbox's configuration, and what to warn of.
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// For the runtime.
    pub config: PodSandboxConfig,
    /// Events of type Warning: (reason, message).
    pub warnings: Vec<(&'static str, String)>,
}

/// The sandbox of `pod`, on its `attempt`th try.
pub fn build(facts: &NodeFacts, pod: &Pod, attempt: u32) -> SandboxConfig {
    let PodDns {
        config: dns,
        warnings,
    } = dns::pod_dns(facts, pod);
    let hostname = if spec::host_network(pod) {
        String::new()
    } else {
        hosts::host_name(pod, &facts.cluster_domain).for_kernel(pod)
    };
    let config = PodSandboxConfig {
        metadata: Some(metadata(pod, attempt)),
        hostname,
        log_directory: facts.pod_log_dir(pod).display().to_string(),
        dns_config: Some(dns),
        port_mappings: port_mappings(pod),
        labels: labels(pod),
        annotations: pod
            .metadata
            .annotations
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
        linux: Some(linux(facts, pod)),
        windows: None,
    };
    SandboxConfig { config, warnings }
}

/// The labels that name a pod in the runtime.
pub fn identity_labels(pod: &Pod) -> HashMap<String, String> {
    let identity = [
        (POD_NAME, spec::name(pod)),
        (POD_NAMESPACE, spec::namespace(pod)),
        (POD_UID, spec::uid(pod)),
    ];
    identity
        .map(|(label, value)| (label.to_owned(), value.to_owned()))
        .into()
}

fn metadata(pod: &Pod, attempt: u32) -> PodSandboxMetadata {
    PodSandboxMetadata {
        name: spec::name(pod).to_owned(),
        uid: spec::uid(pod).to_owned(),
        namespace: spec::namespace(pod).to_owned(),
        attempt,
    }
}

fn labels(pod: &Pod) -> HashMap<String, String> {
    let mut labels: HashMap<_, _> = pod
        .metadata
        .labels
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    labels.extend(identity_labels(pod));
    labels
}

fn linux(facts: &NodeFacts, pod: &Pod) -> LinuxPodSandboxConfig {
    LinuxPodSandboxConfig {
        cgroup_parent: facts.cgroups.pod_parent(resources::qos(pod), spec::uid(pod)),
        security_context: Some(security::sandbox(pod)),
        sysctls: sysctls(pod),
        resources: Some(of_containers(pod)),
        overhead: Some(overhead(pod)),
    }
}

/// What the containers may use together, for runtimes that size the sandbox by it.
fn of_containers(pod: &Pod) -> LinuxContainerResources {
    let (requests, limits) = resources::sandbox_amounts(pod);
    let shares = requests.cpu_milli.or(limits.cpu_milli).unwrap_or(0);
    limited(shares, limits)
}

/// What the pod's class costs; requests and limits in one.
fn overhead(pod: &Pod) -> LinuxContainerResources {
    let declared = spec::spec(pod).is_some_and(|spec| spec.overhead.is_some());
    let amounts = resources::overhead(pod);
    if declared {
        limited(amounts.cpu_milli.unwrap_or(0), amounts)
    } else {
        LinuxContainerResources::default()
    }
}

fn limited(shares: i64, limits: Amounts) -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_period: QUOTA_PERIOD_US,
        cpu_quota: resources::cpu_quota(limits.cpu_milli.unwrap_or(0)),
        cpu_shares: i64::try_from(resources::cpu_shares(shares)).unwrap_or(i64::MAX),
        memory_limit_in_bytes: limits.memory.unwrap_or(0),
        ..LinuxContainerResources::default()
    }
}

fn sysctls(pod: &Pod) -> HashMap<String, String> {
    let context = spec::spec(pod).and_then(|spec| spec.security_context.as_ref());
    let wanted = context.into_iter().flat_map(|c| c.sysctls.iter().flatten());
    wanted
        .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
        .collect()
}

/// The ports that the containers name; those with a host port are mapped to the device. A port that one
/// container names twice counts once.
fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    let containers = spec::spec(pod)
        .map(|spec| spec.containers.as_slice())
        .unwrap_or_default();
    let of_container = |container: &Container| {
        let mut seen = BTreeSet::new();
        let ports = container.ports.iter().flatten();
        let new = ports.filter(|port| seen.insert(port_name(port)));
        new.map(port_mapping).collect::<Vec<_>>()
    };
    containers.iter().flat_map(of_container).collect()
}

/// The port's own name, or all that tells it from another.
fn port_name(port: &ContainerPort) -> String {
    match port.name.as_deref() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => format!(
            "{:?} {:?} {} {:?}",
            port.protocol, port.host_ip, port.container_port, port.host_port
        ),
    }
}

fn port_mapping(port: &ContainerPort) -> PortMapping {
    let protocol = match port.protocol.as_deref() {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => Protocol::Tcp,
    };
    PortMapping {
        protocol: protocol.into(),
        container_port: port.container_port,
        host_port: port.host_port.unwrap_or(0),
        host_ip: port.host_ip.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::testing::{facts, pod};
    use super::*;

    #[test]
    fn a_sandbox_is_named_and_placed_as_the_kubelet_does() {
        let mut pod = pod(
            r#"{"hostname":"db","containers":[{"name":"a","ports":[{"containerPort":53,"protocol":"UDP"}],"resources":{"requests":{"cpu":"1"}}}]}"#,
        );
        pod.metadata.annotations = Some([("k".to_owned(), "v".to_owned())].into());
        let built = build(&facts(), &pod, 3);
        let config = built.config;
        let metadata = config.metadata.unwrap();
        assert_eq!(
            (
                metadata.name.as_str(),
                metadata.namespace.as_str(),
                metadata.uid.as_str(),
                metadata.attempt
            ),
            ("web-0", "ns", "u-1", 3)
        );
        assert_eq!(config.hostname, "db");
        assert_eq!(config.log_directory, "/nonexistent/logs/ns_web-0_u-1");
        assert_eq!(config.labels["app"], "web");
        assert_eq!(config.labels[POD_UID], "u-1");
        assert_eq!(config.annotations["k"], "v");
        assert_eq!(config.port_mappings[0].protocol(), Protocol::Udp);
        assert_eq!(config.dns_config.unwrap().servers, ["10.96.0.10"]);
        assert_eq!(config.linux.unwrap().cgroup_parent, "/kubepods/burstable/podu-1");
    }

    #[test]
    fn a_sandbox_knows_what_its_containers_and_its_class_cost() {
        let spec = r#"{"overhead":{"cpu":"250m","memory":"64Mi"},
            "containers":[{"name":"a","resources":{"requests":{"cpu":"1"},"limits":{"cpu":"2","memory":"1Gi"}}}]}"#;
        let linux = build(&facts(), &pod(spec), 0).config.linux.unwrap();
        let told = |r: LinuxContainerResources| (r.cpu_shares, r.cpu_quota, r.memory_limit_in_bytes);
        assert_eq!(told(linux.resources.unwrap()), (1024, 200_000, 1 << 30));
        assert_eq!(told(linux.overhead.unwrap()), (256, 25_000, 64 << 20));
        let plain = build(&facts(), &pod("{}"), 0).config.linux.unwrap();
        assert_eq!(plain.overhead, Some(LinuxContainerResources::default()));
    }

    #[test]
    fn kernel_settings_are_the_sandboxs() {
        let spec = r#"{"securityContext":{"sysctls":[{"name":"net.ipv4.tcp_syncookies","value":"0"}]}}"#;
        let linux = build(&facts(), &pod(spec), 0).config.linux.unwrap();
        assert_eq!(linux.sysctls["net.ipv4.tcp_syncookies"], "0");
    }

    #[test]
    fn host_ports_are_mapped_and_a_port_named_twice_counts_once() {
        let pod = pod(r#"{"containers":[{"name":"a","ports":[
                {"name":"web","containerPort":80,"hostPort":8080,"hostIP":"127.0.0.1","protocol":"TCP"},
                {"name":"web","containerPort":81},
                {"containerPort":53,"protocol":"UDP"},{"containerPort":53,"protocol":"UDP"},{"containerPort":53,"protocol":"TCP"}]},
              {"name":"b","ports":[{"name":"web","containerPort":90}]}]}"#);
        let mapped: Vec<_> = build(&facts(), &pod, 0)
            .config
            .port_mappings
            .into_iter()
            .map(|port| (port.container_port, port.host_port, port.host_ip))
            .collect();
        let expected = [(80, 8080, "127.0.0.1"), (53, 0, ""), (53, 0, ""), (90, 0, "")];
        assert_eq!(mapped, expected.map(|(a, b, ip)| (a, b, ip.to_owned())));
    }

    #[test]
    fn a_pod_on_the_host_network_has_no_hostname_of_its_own() {
        assert_eq!(
            build(&facts(), &pod(r#"{"hostNetwork":true}"#), 0)
                .config
                .hostname,
            ""
        );
    }
}
