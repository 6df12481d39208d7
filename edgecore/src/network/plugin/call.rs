//! What the runtime asks: the environment and the network configuration, read and checked.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::addresses::Holder;
use super::answer::{PluginError, VERSION};
use crate::network::pod_cidr::PodCidr;

/// The longest name of a device: `IFNAMSIZ` without its NUL.
const LONGEST_DEVICE: usize = 15;
/// How the host's end of a cable begins. Network managers leave such devices alone.
const CABLE: &str = "veth";

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Add,
    Del,
    Check,
}

/// A question about the plugin, or about a pod.
#[derive(Debug)]
pub(super) enum Asked {
    Version,
    Of(Box<Call>),
}

/// One pod that comes, goes or is looked at.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) command: Command,
    /// The sandbox's name at the runtime.
    pub(super) container: String,
    /// The device in the pod.
    pub(super) device: String,
    pub(super) network: Network,
    /// Where other plugins are.
    pub(super) plugins: Vec<PathBuf>,
    /// The pod's network namespace; a pod that goes may have none any more.
    namespace: Option<PathBuf>,
}

/// Our part of the network configuration.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Network {
    pub(super) name: String,
    cni_version: String,
    pub(super) bridge: String,
    #[serde(deserialize_with = "range")]
    pub(super) range: PodCidr,
    /// The directory in which addresses are handed out.
    pub(super) addresses: PathBuf,
    #[serde(default)]
    pub(super) runtime_config: Value,
}

fn range<'de, D: serde::Deserializer<'de>>(text: D) -> Result<PodCidr, D::Error> {
    String::deserialize(text)?
        .parse()
        .map_err(serde::de::Error::custom)
}

impl Call {
    /// By whom an address is held: the sandbox and its device.
    pub(super) fn owner(&self) -> String {
        format!("{}/{}", self.container, self.device)
    }

    /// The names under which it may be held.
    pub(super) fn holder(&self) -> Holder {
        Holder {
            owner: self.owner(),
            cable: self.host_end(),
        }
    }

    /// The name of the cable's end at the bridge: found again without a look into the pod.
    pub(super) fn host_end(&self) -> String {
        let mut name = format!("{CABLE}{}", hex::encode(Sha256::digest(self.owner())));
        name.truncate(LONGEST_DEVICE);
        name
    }

    /// The pod's network namespace.
    pub(super) fn namespace(&self) -> Result<&Path, PluginError> {
        self.namespace
            .as_deref()
            .ok_or(PluginError::Environment("CNI_NETNS", "is not set"))
    }

    /// Whether the pod publishes ports.
    pub(super) fn publishes(&self) -> bool {
        let mappings = self.network.runtime_config["portMappings"].as_array();
        mappings.is_some_and(|mappings| !mappings.is_empty())
    }
}

/// Whether `device` is named as the ends of cables at the bridge are.
pub(super) fn is_cable(device: &str) -> bool {
    let is_hash = |hash: &str| hash.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
    device.len() == LONGEST_DEVICE && device.strip_prefix(CABLE).is_some_and(is_hash)
}

/// Reads what is asked from the environment's variables and standard input.
pub(super) fn parse(variable: &dyn Fn(&str) -> Option<String>, input: &[u8]) -> Result<Asked, PluginError> {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    let needed = |name| set(name).ok_or(PluginError::Environment(name, "is not set"));
    let command = match needed("CNI_COMMAND")?.as_str() {
        "VERSION" => return Ok(Asked::Version),
        "ADD" => Command::Add,
        "DEL" => Command::Del,
        "CHECK" => Command::Check,
        _ => {
            return Err(PluginError::Environment(
                "CNI_COMMAND",
                "is none of ADD, DEL, CHECK and VERSION",
            ));
        }
    };
    let network: Network = serde_json::from_slice(input)?;
    if network.cni_version != VERSION {
        return Err(PluginError::OtherVersion(network.cni_version));
    }
    let call = Call {
        command,
        container: needed("CNI_CONTAINERID")?,
        device: needed("CNI_IFNAME")?,
        network,
        plugins: set("CNI_PATH")
            .map(|path| std::env::split_paths(&path).collect())
            .unwrap_or_default(),
        namespace: set("CNI_NETNS").map(PathBuf::from),
    };
    checked(call).map(|call| Asked::Of(Box::new(call)))
}

/// The names become names of files and of devices.
fn checked(call: Call) -> Result<Call, PluginError> {
    if !is_container(&call.container) {
        return Err(PluginError::Environment("CNI_CONTAINERID", "is no name"));
    }
    if !is_device(&call.device) {
        return Err(PluginError::Environment("CNI_IFNAME", "is no name of a device"));
    }
    if !is_device(&call.network.bridge) {
        return Err(PluginError::Configuration("bridge", "is no name of a device"));
    }
    if !call.network.addresses.is_absolute() {
        return Err(PluginError::Configuration("addresses", "is no absolute path"));
    }
    if call.command == Command::Add {
        call.namespace()?;
    }
    Ok(call)
}

/// As the specification has it: letters and digits, and behind the first also `_`, `.` and `-`.
fn is_container(name: &str) -> bool {
    let within = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.len() <= 128 && name.chars().all(within)
}

fn is_device(name: &str) -> bool {
    let strange = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    (1..=LONGEST_DEVICE).contains(&name.len()) && name != "." && name != ".." && !name.contains(strange)
}
