//! An ordinary node of the cluster: a machine with the stock kubelet and kube-proxy.

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    cache::Cache,
    containerd,
    control_plane::{ControlPlane, kubeconfig},
    ground::Ground,
    machine::{Cable, Machine, Service},
    network::Network,
};

/// The images that every machine has from the beginning.
pub const IMAGES: [&str; 3] = ["pause", "busybox", "agnhost"];

/// A machine that is an ordinary node.
#[derive(Debug)]
pub struct ClusterNode {
    /// The machine under it.
    pub machine: Machine,
}

impl ClusterNode {
    /// Builds and boots the node; whether it is Ready is for the caller to wait for.
    pub async fn start(
        name: &str,
        (ground, network): (&Arc<Ground>, &Arc<Network>),
        (plane, cache): (&ControlPlane, &Cache),
    ) -> Result<Self> {
        let machine = Machine::build(name, ground, network)?;
        write_network(&machine, &network.pods_of(machine.place())?)?;
        containerd::install(&machine, cache)?;
        machine.boot(Cable::Plugged).await?;
        network.route_pods(machine.place())?;
        containerd::ready(&machine, cache).await?;
        for image in IMAGES {
            containerd::import(&machine, cache, &cache.image(image)?).await?;
        }
        install_kubelet(&machine, plane, cache)?;
        install_kube_proxy(&machine, plane, cache)?;
        Ok(Self { machine })
    }

    /// Waits until the API server shows the node Ready.
    pub async fn ready(&self, plane: &ControlPlane) -> Result<()> {
        crate::testbed::node_ready(&plane.client(), self.machine.name(), Duration::from_mins(1))
            .await
            .with_context(|| format!("the kubelet's log is {}", self.machine.log("kubelet").display()))
    }
}

/// The pod network, with a range of the node's own.
fn write_network(machine: &Machine, pods: &str) -> Result<()> {
    let network = json!({
        "cniVersion": "1.0.0",
        "name": "cluster",
        "plugins": [
            { "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
              "ipam": { "type": "host-local", "routes": [{ "dst": "0.0.0.0/0" }],
                        "ranges": [[{ "subnet": pods }]] } },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    let dir = machine.file("/etc/cni/net.d");
    fs::create_dir_all(&dir)?;
    fs::write(
        dir.join("10-cluster.conflist"),
        serde_json::to_vec_pretty(&network)?,
    )?;
    Ok(())
}

fn install_kubelet(machine: &Machine, plane: &ControlPlane, cache: &Cache) -> Result<()> {
    let name = machine.name();
    let user = plane.kubeconfig_for(&format!("system:node:{name}"), &["system:nodes"])?;
    let (identity, config) = (
        machine.dir().join("kubelet.kubeconfig"),
        machine.dir().join("kubelet.json"),
    );
    kubeconfig::save(&identity, &user)?;
    fs::write(
        &config,
        serde_json::to_vec_pretty(&kubelet_configuration(machine, plane))?,
    )?;
    let args = [
        format!("--config={}", config.display()),
        format!("--kubeconfig={}", identity.display()),
        format!("--hostname-override={name}"),
        format!("--node-ip={}", machine.address()),
    ];
    let kubelet = Service::new("kubelet", &cache.program("kubelet")?, args);
    machine.install(kubelet.with_env("PATH", containerd::path(cache)))
}

fn kubelet_configuration(machine: &Machine, plane: &ControlPlane) -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": { "anonymous": { "enabled": false }, "webhook": { "enabled": true },
                            "x509": { "clientCAFile": plane.authority_file() } },
        "authorization": { "mode": "Webhook" },
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": machine.cgroup().path(),
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": containerd::ENDPOINT,
        "failCgroupV1": false,
        "failSwapOn": false,
        // The host's disk is not the testbed's to judge.
        "evictionHard": { "memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%",
                          "nodefs.inodesFree": "0%", "imagefs.inodesFree": "0%" },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
    })
}

fn install_kube_proxy(machine: &Machine, plane: &ControlPlane, cache: &Cache) -> Result<()> {
    let identity = machine.dir().join("kube-proxy.kubeconfig");
    kubeconfig::save(&identity, &plane.kubeconfig_for("system:kube-proxy", &[])?)?;
    let args = [
        format!("--kubeconfig={}", identity.display()),
        format!("--hostname-override={}", machine.name()),
        "--proxy-mode=iptables".into(),
        "--conntrack-max-per-core=0".into(),
        "--conntrack-tcp-timeout-established=0".into(),
        "--conntrack-tcp-timeout-close-wait=0".into(),
    ];
    let proxy = Service::new("kube-proxy", &cache.program("kube-proxy")?, args);
    machine.install(proxy.with_env("PATH", containerd::path(cache)))
}
