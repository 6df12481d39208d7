//! Where everything is on the device.

use std::path::{Path, PathBuf};

use crate::identity::Files;

/// Every path that edgecore uses, below one root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// The paths below `root`; `/` on a device.
    pub fn below(root: PathBuf) -> Self {
        Self { root }
    }

    /// Whether these are the paths of the machine itself, so that its services may be touched.
    pub fn is_machine(&self) -> bool {
        self.root == Path::new("/")
    }

    /// An absolute path, below the root.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The directory of configuration, key and certificates.
    pub fn config_dir(&self) -> PathBuf {
        self.at("etc/tombolo")
    }

    /// The configuration.
    pub fn config(&self) -> PathBuf {
        self.config_dir().join("edgecore.yaml")
    }

    /// The directory of key and certificates.
    pub fn pki(&self) -> PathBuf {
        self.config_dir().join("pki")
    }

    /// The node's private key, PEM.
    pub fn key(&self) -> PathBuf {
        self.pki().join("node.key")
    }

    /// The node's certificate, PEM.
    pub fn certificate(&self) -> PathBuf {
        self.pki().join("node.crt")
    }

    /// The cluster's CA certificate, PEM.
    pub fn authority(&self) -> PathBuf {
        self.pki().join("ca.crt")
    }

    /// All three.
    pub fn identity(&self) -> Files {
        Files {
            key: self.key(),
            certificate: self.certificate(),
            authority: self.authority(),
        }
    }

    /// What join wrote.
    pub fn record(&self) -> PathBuf {
        self.config_dir().join("joined.json")
    }

    /// The store.
    pub fn state_dir(&self) -> PathBuf {
        self.at("var/lib/tombolo")
    }

    /// Present when the operator said that the next cluster may be another one than the last.
    pub fn replace_cluster(&self) -> PathBuf {
        self.state_dir().join("replace-cluster")
    }

    /// The root directory of pods, the kubelet's own.
    pub fn kubelet_dir(&self) -> PathBuf {
        self.at("var/lib/kubelet")
    }

    /// Where pods' logs are.
    pub fn pod_logs(&self) -> PathBuf {
        self.at("var/log/pods")
    }

    /// Where links to pods' logs are, for log shippers.
    pub fn log_links(&self) -> PathBuf {
        self.at("var/log/containers")
    }

    /// What lasts until the next boot: the control socket, and what devices said since the last write to flash.
    pub fn run_dir(&self) -> PathBuf {
        self.at("run/tombolo")
    }

    /// Which pod has which address, until the next boot. Not in the directory that the service manager may clear.
    pub fn addresses(&self) -> PathBuf {
        self.at("run/tombolo-addresses")
    }

    /// The socket on which the running node answers.
    pub fn control_socket(&self) -> PathBuf {
        self.run_dir().join("edgecore.sock")
    }

    /// Which address stands on the loopback device for the API server.
    pub fn api_server(&self) -> PathBuf {
        self.run_dir().join("api-server")
    }

    /// The systemd unit.
    pub fn unit(&self) -> PathBuf {
        self.at("etc/systemd/system/edgecore.service")
    }
}
