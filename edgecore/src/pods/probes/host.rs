//! Where a container is asked.
//!
//! A pod on the host network is asked at the device's address, which may change or go while it runs. That
//! says nothing of the pod: where nothing can be reached at the address any more, it is asked at the loopback.
//! **Invariant:** what does not answer there is not held against it: it may listen elsewhere.

use std::net::{IpAddr, UdpSocket};

use k8s_openapi::api::core::v1::Probe;

use super::machine::Outcome;
use crate::node::host_ip::HostIp;

/// Where a container is reached.
#[derive(Clone, Debug)]
pub enum Host {
    /// At the pod's own address.
    Pod(String),
    /// On the host network.
    Device(HostIp),
}

/// Where to ask now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) host: String,
    /// Not the address where others would ask.
    stands_in: bool,
}

impl Host {
    pub(super) fn now(&self) -> Place {
        let place = |host, stands_in| Place { host, stands_in };
        match self {
            Self::Pod(ip) => place(ip.clone(), false),
            Self::Device(known) => match known.last() {
                Some(ip) if is_ours(ip) => place(ip.to_string(), false),
                Some(IpAddr::V6(_)) => place("::1".to_owned(), true),
                Some(IpAddr::V4(_)) | None => place("127.0.0.1".to_owned(), true),
            },
        }
    }

    /// What the answer says of the container, when it was asked at `place`.
    pub(super) fn judged(&self, outcome: Outcome, place: &Place, probe: &Probe) -> Outcome {
        match outcome {
            Outcome::Failure(why) if !names_host(probe) && (place.stands_in || self.now() != *place) => {
                Outcome::Error(format!("the device's address has gone or changed: {why}"))
            }
            Outcome::Success | Outcome::Warning(_) | Outcome::Failure(_) | Outcome::Error(_) => outcome,
        }
    }
}

/// Whether the device has the address now. Binding sends nothing.
fn is_ours(ip: IpAddr) -> bool {
    let bound = UdpSocket::bind((ip, 0));
    !bound.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrNotAvailable)
}

/// Whether the probe says itself whom to ask, or asks nobody.
fn names_host(probe: &Probe) -> bool {
    let http = probe.http_get.as_ref().and_then(|get| get.host.as_deref());
    let tcp = probe
        .tcp_socket
        .as_ref()
        .and_then(|socket| socket.host.as_deref());
    probe.exec.is_some() || [http, tcp].into_iter().flatten().any(|host| !host.is_empty())
}
