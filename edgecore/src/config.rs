//! edgecore.yaml, parsed into types that cannot be wrong.
//!
//! The file is read once, at start. Every mistake in it is reported in one go: an unknown key
//! with the nearest known one, a wrong value with what would be right. Nothing here touches the
//! network or asks the runtime; a [`Config`] only says what the operator wants.
//!
//! **Invariant:** a [`Config`] that exists is complete: its values were checked, and each
//! default that it carries stands in this file beside its reason.

mod address;
mod budgets;
mod devices;
mod dmi;
mod eviction;
mod fields;
mod labels;
mod lines;
mod mistakes;
mod mqtt;
mod proxy;
mod render;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use protocol::name::NodeName;
use thiserror::Error;

pub use crate::network::pod_cidr::PodCidr;
pub use address::{Address, DEFAULT_PORT, InvalidAddress};
pub use budgets::Budget;
pub(crate) use budgets::written;
pub use devices::{DEFAULT_JOURNAL_DIR, Devices};
pub use labels::{InvalidLabel, InvalidTaint, Taint, TaintEffect, check_label};
pub use mistakes::{Mistake, Mistakes};
pub use proxy::{InvalidProxy, Proxy, ProxyPasswordError};

use crate::devices::dmi::DmiConfig;
use crate::devices::mqtt::Mqtt;
use crate::node::document::Identity;
use crate::node::shortage::Policy;
use crate::pods::cgroups::CgroupDriver;
use fields::Fields;

/// The socket of containerd where Debian, Ubuntu and the upstream packages put it.
pub const DEFAULT_RUNTIME_ENDPOINT: &str = "unix:///run/containerd/containerd.sock";
/// What the kubelet's configuration defaults to, and what every stock cluster uses.
pub const DEFAULT_CLUSTER_DOMAIN: &str = "cluster.local";
/// The whole machine: pods are below `/kubepods`, as under a stock kubelet.
pub const DEFAULT_CGROUP_ROOT: &str = "/";
/// The kubelet's own default, and that of a containerd that does not tell its driver.
pub const DEFAULT_CGROUP_DRIVER: CgroupDriver = CgroupDriver::Cgroupfs;
/// The kubelet's own default; the scheduler counts on it.
pub const DEFAULT_MAX_PODS: u32 = 110;
/// The kubelet's `imageGCHighThresholdPercent`.
pub const DEFAULT_IMAGE_GC_HIGH_PERCENT: u8 = 85;
/// Keeps edge nodes out of the zones and regions of ordinary ones (evictions are rated by zone).
pub const DEFAULT_REGION: &str = "edge";
/// Ordinary pods must not drift to the edge; those meant for it tolerate this.
pub const DEFAULT_TAINT: &str = "node-role.kubernetes.io/edge:NoSchedule";

/// What the operator wants of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The name under which the node stands in the cluster.
    pub node_name: NodeName,
    /// Where cloudcore is reached; tried in turn, never empty.
    pub addresses: Vec<Address>,
    /// The HTTP proxy through which TCP leads there; none by default.
    pub proxy: Option<Proxy>,
    /// The unix socket of the container runtime.
    pub runtime_endpoint: RuntimeEndpoint,
    /// The cgroup below which `kubepods` stands.
    pub cgroup_root: String,
    /// Who makes cgroups, where the runtime does not tell.
    pub cgroup_driver: CgroupDriver,
    /// Name servers of the cluster for pods with `dnsPolicy: ClusterFirst`; none by default, since
    /// the cluster's DNS is not reachable from the edge unless someone made it so.
    pub cluster_dns: Vec<IpAddr>,
    /// The domain under which the cluster's services have names.
    pub cluster_domain: String,
    /// The device's resolver configuration, for pods that ask no name server of the cluster; by default
    /// `/etc/resolv.conf`, or the file behind it where that names only the device itself.
    pub resolv_conf: Option<PathBuf>,
    /// The range of the default pod network.
    pub pod_cidr: PodCidr,
    /// Labels of the Node, beside those that edgecore sets itself.
    pub labels: BTreeMap<String, String>,
    /// Taints with which the Node is registered.
    pub taints: Vec<Taint>,
    /// How many pods the node takes.
    pub max_pods: u32,
    /// How full the disk may be, in percent, before unused images are removed; 100 keeps them all.
    pub image_gc_high_percent: u8,
    /// When the node is under pressure, and pods are evicted.
    pub eviction: Policy,
    /// `topology.kubernetes.io/zone`; a zone of its own (the node's name) by default, so that a
    /// cut edge node never counts in an ordinary zone's eviction rate.
    pub zone: String,
    /// `topology.kubernetes.io/region`.
    pub region: String,
    /// What classes of traffic may cost; none by default.
    pub budgets: Vec<Budget>,
    /// How devices are served.
    pub devices: Devices,
    /// Where mappers report, and who may.
    pub dmi: DmiConfig,
    /// The site's MQTT broker.
    pub mqtt: Mqtt,
}

/// The unix socket of the container runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeEndpoint(PathBuf);

impl RuntimeEndpoint {
    /// Reads `unix:///path` or `/path`.
    pub fn parse(text: &str) -> Result<Self, InvalidEndpoint> {
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if path.starts_with('/') {
            return Ok(Self(PathBuf::from(path)));
        }
        Err(InvalidEndpoint(text.to_owned()))
    }

    /// The socket in the file system.
    pub fn socket(&self) -> &Path {
        &self.0
    }
}

impl std::fmt::Display for RuntimeEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

/// A runtime endpoint that is no unix socket.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{0}\" is not a unix socket: write it as unix:///run/containerd/containerd.sock")]
pub struct InvalidEndpoint(String);

/// Why there is no usable configuration.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no file: the device has not joined.
    #[error("there is no {}: join a cluster first (`edgecore join ADDRESS --token-file FILE`)", .0.display())]
    NotJoined(PathBuf),
    /// The file could not be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The configuration file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file was read, and is wrong.
    #[error("{} is not usable:\n{mistakes}", path.display())]
    Wrong {
        /// The configuration file.
        path: PathBuf,
        /// Everything that is wrong with it.
        mistakes: Mistakes,
    },
}

impl Config {
    /// Reads and checks the file at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| {
            let path = path.to_owned();
            if source.kind() == std::io::ErrorKind::NotFound {
                ConfigError::NotJoined(path)
            } else {
                ConfigError::Read { path, source }
            }
        })?;
        Self::parse(&text).map_err(|mistakes| ConfigError::Wrong {
            path: path.to_owned(),
            mistakes,
        })
    }

    /// Checks the text of a configuration file; all mistakes at once.
    pub fn parse(text: &str) -> Result<Self, Mistakes> {
        let mut fields = Fields::read(text)?;
        let config = Self::from_fields(&mut fields);
        let mistakes = fields.finish();
        // A required value is only absent when a mistake says so.
        config.filter(|_| mistakes.is_empty()).ok_or(mistakes)
    }

    /// The smallest configuration: everything else is the default.
    pub fn new(node_name: NodeName, addresses: Vec<Address>) -> Self {
        Self {
            zone: node_name.to_string(),
            node_name,
            addresses,
            proxy: None,
            runtime_endpoint: RuntimeEndpoint(PathBuf::from(
                DEFAULT_RUNTIME_ENDPOINT.trim_start_matches("unix://"),
            )),
            cgroup_root: DEFAULT_CGROUP_ROOT.to_owned(),
            cgroup_driver: DEFAULT_CGROUP_DRIVER,
            cluster_dns: Vec::new(),
            cluster_domain: DEFAULT_CLUSTER_DOMAIN.to_owned(),
            resolv_conf: None,
            pod_cidr: PodCidr::DEFAULT,
            labels: BTreeMap::new(),
            taints: Taint::edge_default(),
            max_pods: DEFAULT_MAX_PODS,
            image_gc_high_percent: DEFAULT_IMAGE_GC_HIGH_PERCENT,
            eviction: Policy::default(),
            region: DEFAULT_REGION.to_owned(),
            budgets: Vec::new(),
            devices: Devices::default(),
            dmi: DmiConfig::default(),
            mqtt: Mqtt::default(),
        }
    }

    /// The configuration as the text of a file that [`Config::parse`] reads back.
    pub fn to_yaml(&self) -> String {
        render::yaml(self)
    }

    /// What the Node document takes from the configuration.
    pub fn identity(&self) -> Identity {
        let taint = |taint: &Taint| (taint.key.clone(), taint.value.clone(), taint.effect.to_string());
        Identity {
            name: self.node_name.to_string(),
            labels: self.labels.clone(),
            taints: self.taints.iter().map(taint).collect(),
            max_pods: self.max_pods,
            zone: self.zone.clone(),
            region: self.region.clone(),
        }
    }

    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let node_name = fields.required("node_name", fields::node_name);
        let addresses = fields.required("addresses", fields::addresses);
        let optional = Optional::take(fields);
        let mut config = Self::new(node_name?, addresses?);
        optional.over(&mut config);
        Some(config)
    }
}

/// The keys that have defaults, as far as the file names them.
struct Optional {
    proxy: Option<Proxy>,
    runtime_endpoint: Option<RuntimeEndpoint>,
    cgroup_root: Option<String>,
    cgroup_driver: Option<CgroupDriver>,
    cluster_dns: Option<Vec<IpAddr>>,
    cluster_domain: Option<String>,
    resolv_conf: Option<String>,
    pod_cidr: Option<PodCidr>,
    labels: Option<BTreeMap<String, String>>,
    taints: Option<Vec<Taint>>,
    max_pods: Option<u32>,
    image_gc_high_percent: Option<u8>,
    eviction: Option<Policy>,
    zone: Option<String>,
    region: Option<String>,
    budgets: Option<Vec<Budget>>,
    devices: Option<Devices>,
    dmi: Option<DmiConfig>,
    mqtt: Option<Mqtt>,
}

impl Optional {
    fn take(fields: &mut Fields) -> Self {
        Self {
            proxy: proxy::read(fields),
            runtime_endpoint: fields.optional("runtime_endpoint", fields::runtime_endpoint),
            cgroup_root: fields.optional("cgroup_root", fields::absolute_path),
            cgroup_driver: fields.optional("cgroup_driver", fields::cgroup_driver),
            cluster_dns: fields.optional("cluster_dns", fields::name_servers),
            cluster_domain: fields.optional("cluster_domain", fields::domain),
            resolv_conf: fields.optional("resolv_conf", fields::absolute_path),
            pod_cidr: fields.optional("pod_cidr", fields::pod_cidr),
            labels: fields.optional("labels", fields::labels),
            taints: fields.optional("taints", fields::taints),
            max_pods: fields.optional("max_pods", fields::max_pods),
            image_gc_high_percent: fields.optional("image_gc_high_percent", fields::percent),
            eviction: fields.below("eviction", eviction::read),
            zone: fields.optional("zone", fields::label_value),
            region: fields.optional("region", fields::label_value),
            budgets: fields.below("budgets", budgets::read),
            devices: fields.below("devices", devices::read),
            dmi: fields.below("dmi", dmi::read),
            mqtt: fields.below("mqtt", mqtt::read),
        }
    }

    fn over(self, config: &mut Config) {
        config.proxy = self.proxy;
        set(&mut config.runtime_endpoint, self.runtime_endpoint);
        set(&mut config.cgroup_root, self.cgroup_root);
        set(&mut config.cgroup_driver, self.cgroup_driver);
        set(&mut config.cluster_dns, self.cluster_dns);
        set(&mut config.cluster_domain, self.cluster_domain);
        config.resolv_conf = self.resolv_conf.map(PathBuf::from);
        set(&mut config.pod_cidr, self.pod_cidr);
        set(&mut config.labels, self.labels);
        set(&mut config.taints, self.taints);
        set(&mut config.max_pods, self.max_pods);
        set(&mut config.image_gc_high_percent, self.image_gc_high_percent);
        set(&mut config.eviction, self.eviction);
        set(&mut config.zone, self.zone);
        set(&mut config.region, self.region);
        set(&mut config.budgets, self.budgets);
        set(&mut config.devices, self.devices);
        set(&mut config.dmi, self.dmi);
        set(&mut config.mqtt, self.mqtt);
    }
}

fn set<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

#[cfg(test)]
mod tests;
