//! Two pods cannot have the same port of the device.
//!
//! Ports conflict when number and protocol are equal and the addresses are, or one of them is every address.

use k8s_openapi::api::core::v1::{ContainerPort, Pod};

use super::super::spec;
use super::Rejection;

const EVERY_ADDRESS: &str = "0.0.0.0";

/// Checks the pod's host ports against those of the pods before it.
pub(super) fn check<'a>(pod: &Pod, others: impl Iterator<Item = &'a Pod>) -> Result<(), Rejection> {
    let wanted: Vec<HostPort<'_>> = host_ports(pod).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let taken = others.flat_map(host_ports).any(|taken| {
        let conflicts = |wanted: &HostPort<'_>| wanted.conflicts(&taken);
        wanted.iter().any(conflicts)
    });
    if !taken {
        return Ok(());
    }
    Err(Rejection {
        reason: "NodePorts",
        message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
            .to_owned(),
    })
}

struct HostPort<'a> {
    address: &'a str,
    protocol: &'a str,
    number: i32,
}

impl HostPort<'_> {
    fn conflicts(&self, other: &Self) -> bool {
        let addresses =
            self.address == other.address || self.address == EVERY_ADDRESS || other.address == EVERY_ADDRESS;
        addresses && self.protocol == other.protocol && self.number == other.number
    }
}

/// Of the containers that run as long as the pod does.
fn host_ports(pod: &Pod) -> impl Iterator<Item = HostPort<'_>> {
    let spec = spec::spec(pod);
    let init = spec
        .into_iter()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars = init.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let main = spec.into_iter().flat_map(|spec| &spec.containers);
    sidecars
        .chain(main)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(host_port)
}

fn host_port(port: &ContainerPort) -> Option<HostPort<'_>> {
    let said = |text: &'_ str| !text.is_empty();
    Some(HostPort {
        address: port
            .host_ip
            .as_deref()
            .filter(|text| said(text))
            .unwrap_or(EVERY_ADDRESS),
        protocol: port
            .protocol
            .as_deref()
            .filter(|text| said(text))
            .unwrap_or("TCP"),
        number: port.host_port.filter(|number| *number > 0)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::spec::testing::pod;
    use super::*;

    fn with_port(port: &str) -> Pod {
        pod(&format!(r#"{{"containers":[{{"name":"c","ports":[{port}]}}]}}"#))
    }

    fn fits(wanted: &str, taken: &str) -> bool {
        check(&with_port(wanted), [with_port(taken)].iter()).is_ok()
    }

    #[test]
    fn the_same_number_and_protocol_on_overlapping_addresses_conflict() {
        let port = r#"{"containerPort":80,"hostPort":8080}"#;
        let local = r#"{"containerPort":80,"hostPort":8080,"hostIP":"127.0.0.1"}"#;
        let other_address = r#"{"containerPort":80,"hostPort":8080,"hostIP":"127.0.0.2","protocol":"TCP"}"#;
        assert!(!fits(port, port));
        assert!(!fits(local, port) && !fits(port, local) && !fits(local, local));
        assert!(fits(local, other_address));
        assert!(fits(
            port,
            r#"{"containerPort":80,"hostPort":8080,"protocol":"UDP"}"#
        ));
        assert!(fits(port, r#"{"containerPort":80,"hostPort":8081}"#));
        assert!(fits(r#"{"containerPort":80}"#, r#"{"containerPort":80}"#));
        let rejection = check(&with_port(port), [with_port(port)].iter()).unwrap_err();
        assert_eq!(rejection.reason, "NodePorts");
    }

    #[test]
    fn sidecars_hold_ports_and_plain_init_containers_do_not() {
        let init = |policy: &str| {
            pod(&format!(
                r#"{{"initContainers":[{{"name":"i",{policy}"ports":[{{"containerPort":1,"hostPort":1}}]}}]}}"#
            ))
        };
        let wanted = with_port(r#"{"containerPort":1,"hostPort":1}"#);
        assert!(check(&wanted, [init("")].iter()).is_ok());
        assert!(check(&wanted, [init(r#""restartPolicy":"Always","#)].iter()).is_err());
    }
}
