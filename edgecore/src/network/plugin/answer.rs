//! What is answered: results, and errors with the codes of the specification.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde_json::{Value, json};
use thiserror::Error;

use crate::network::netlink::Mac;
use crate::network::pod_cidr::PodCidr;

/// The version of the specification that is spoken.
pub(super) const VERSION: &str = "1.0.0";

/// A pod on the bridge.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) address: Ipv4Addr,
    pub(super) prefix: u8,
    pub(super) gateway: Ipv4Addr,
    pub(super) mac: Mac,
    pub(super) bridge: String,
    /// The cable's end at the bridge.
    pub(super) host: String,
    /// Its end in the pod.
    pub(super) device: String,
    /// The pod's network namespace.
    pub(super) namespace: PathBuf,
}

/// The result of an ADD.
pub(super) fn result(pod: &Pod) -> Value {
    let mac = pod.mac.map(|octet| format!("{octet:02x}")).join(":");
    json!({
        "cniVersion": VERSION,
        "interfaces": [
            {"name": pod.bridge},
            {"name": pod.host},
            {"name": pod.device, "mac": mac, "sandbox": pod.namespace},
        ],
        "ips": [{
            "address": format!("{}/{}", pod.address, pod.prefix),
            "gateway": pod.gateway,
            "interface": 2,
        }],
        "routes": [{"dst": "0.0.0.0/0", "gw": pod.gateway}],
        "dns": {},
    })
}

/// The answer to VERSION.
pub(super) fn versions() -> String {
    json!({"cniVersion": VERSION, "supportedVersions": [VERSION]}).to_string()
}

/// Why it did not work, as it stands in the pod's events.
#[derive(Debug, Error)]
pub(super) enum PluginError {
    #[error("the network configuration has cniVersion {0}: this plugin knows {VERSION}")]
    OtherVersion(String),
    #[error("{0} {1}")]
    Environment(&'static str, &'static str),
    #[error("the network configuration cannot be read: {0}")]
    Unread(#[from] serde_json::Error),
    #[error("{0} in the network configuration {1}")]
    Configuration(&'static str, &'static str),
    #[error(
        "no address is free in {range}: ls -l {} shows who has them; a larger range is chosen with edgecore join --pod-cidr",
        dir.display()
    )]
    NoAddress { range: PodCidr, dir: PathBuf },
    #[error(
        "another pod was given {address} while {} was lost; the next try gets another address",
        dir.display()
    )]
    Taken { address: Ipv4Addr, dir: PathBuf },
    #[error("cannot hand out addresses in {}: {error}", dir.display())]
    Addresses { dir: PathBuf, error: io::Error },
    #[error("cannot open the pod's network namespace {}: {error}", path.display())]
    Namespace { path: PathBuf, error: io::Error },
    #[error("cannot set up the bridge {0}: {1}")]
    Bridge(String, io::Error),
    #[error("{0}: {1}")]
    Io(&'static str, io::Error),
    #[error("portmap, which publishes ports, is not installed (apt install containernetworking-plugins)")]
    NoPortmap,
    #[error("portmap cannot publish the pod's ports: {0}")]
    Portmap(String),
    #[error("the bridge's end {0} of the pod's cable does not come up")]
    NotUp(String),
    #[error("the pod has a cable, {0}, from an ADD before this one, which stays as it is: DEL comes first")]
    Twice(String),
    #[error("{0} has no address or no cable")]
    NotConnected(String),
}

impl PluginError {
    pub(super) fn io(what: &'static str, error: io::Error) -> Self {
        Self::Io(what, error)
    }

    /// The specification's numbers; from 100 on they are the plugin's.
    fn code(&self) -> u32 {
        match self {
            Self::OtherVersion(_) => 1,
            Self::Environment(..) => 4,
            Self::Unread(_) => 6,
            Self::Configuration(..) => 7,
            Self::Io(..) | Self::Addresses { .. } | Self::Namespace { .. } | Self::Bridge(..) => 5,
            Self::NoAddress { .. } => 100,
            Self::NoPortmap | Self::Portmap(_) => 101,
            Self::NotUp(..) => 11,
            Self::NotConnected(_) => 102,
            Self::Twice(_) => 103,
            Self::Taken { .. } => 104,
        }
    }

    /// The answer that tells it.
    pub(super) fn answer(&self) -> String {
        json!({"cniVersion": VERSION, "code": self.code(), "msg": self.to_string()}).to_string()
    }
}
