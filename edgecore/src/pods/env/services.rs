//! Service links: the variables that name the Services of the pod's namespace and the API server's.
//!
//! Pure. **Invariant:** `KUBERNETES_SERVICE_HOST` stands in every pod's environment, whatever
//! `enableServiceLinks` says.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};

use super::super::spec::{self, Objects};
use super::EnvError;

const MASTER_NAMESPACE: &str = "default";
const MASTER: &str = "kubernetes";

/// The variables of every Service the pod is told of.
pub(super) fn variables(objects: &dyn Objects, pod: &Pod) -> Result<BTreeMap<String, String>, EnvError> {
    let mut linked: BTreeMap<String, Arc<Service>> = BTreeMap::new();
    let links = spec::spec(pod)
        .and_then(|spec| spec.enable_service_links)
        .unwrap_or(true);
    if links {
        linked.extend(
            objects
                .services(spec::namespace(pod))
                .into_iter()
                .map(|service| (name(&service), service)),
        );
    }
    let mut masters = objects
        .services(MASTER_NAMESPACE)
        .into_iter()
        .filter(|service| name(service) == MASTER);
    let master = masters.next().ok_or(EnvError::NoServices)?;
    linked.entry(MASTER.to_owned()).or_insert(master);

    let mut variables = BTreeMap::new();
    for service in linked.values() {
        describe(service, &mut variables);
    }
    Ok(variables)
}

fn name(service: &Service) -> String {
    service.metadata.name.clone().unwrap_or_default()
}

fn describe(service: &Service, out: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let ip = spec.cluster_ip.as_deref().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    let (false, Some(first)) = (ip.is_empty() || ip == "None", ports.first()) else {
        return;
    };
    let prefix = variable_name(&name(service));
    out.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    out.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    out.insert(format!("{prefix}_PORT"), url(ip, first));
    for port in ports {
        describe_port(&prefix, ip, port, out);
    }
}

fn describe_port(prefix: &str, ip: &str, port: &ServicePort, out: &mut BTreeMap<String, String>) {
    if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
        out.insert(
            format!("{prefix}_SERVICE_PORT_{}", variable_name(name)),
            port.port.to_string(),
        );
    }
    let link = format!("{prefix}_PORT_{}_{}", port.port, protocol(port).to_uppercase());
    out.insert(format!("{link}_PROTO"), protocol(port).to_lowercase());
    out.insert(format!("{link}_PORT"), port.port.to_string());
    out.insert(format!("{link}_ADDR"), ip.to_owned());
    out.insert(link, url(ip, port));
}

fn url(ip: &str, port: &ServicePort) -> String {
    let scheme = protocol(port).to_lowercase();
    if ip.parse::<Ipv6Addr>().is_ok() {
        format!("{scheme}://[{ip}]:{}", port.port)
    } else {
        format!("{scheme}://{ip}:{}", port.port)
    }
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol
        .as_deref()
        .filter(|protocol| !protocol.is_empty())
        .unwrap_or("TCP")
}

fn variable_name(text: &str) -> String {
    text.replace('-', "_").to_uppercase()
}
