//! What is measured: an edge node, the stock kubelet's node, and a device with a runtime alone.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use tests::{
    EdgeMachine, Testbed, cloudcore, control_plane::Patience, machine::PLUGINS, testbed::node_ready,
};

use crate::show::{output, step};

/// The edge node's name.
pub(crate) const EDGE: &str = "e1";
/// The device on which the runtime is asked without an agent.
const BARE: &str = "bare";
/// Where the runtime looks for the pod network.
const CNI: &str = "/etc/cni/net.d";
/// How long anything may take that is not measured.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);

/// The machines, all of them up.
pub(crate) struct Stage<'a> {
    /// The control plane and the stock kubelet's node.
    pub(crate) testbed: &'a Testbed,
    /// The edge node.
    pub(crate) edge: EdgeMachine,
    /// containerd with the edge's pod network, and no agent.
    pub(crate) bare: EdgeMachine,
}

pub(crate) async fn cluster() -> Result<Testbed> {
    step(
        "starting a control plane and one ordinary node, w1",
        Testbed::start(Patience::Default),
    )
    .await
}

pub(crate) async fn cloudcore(testbed: &Testbed) -> Result<()> {
    step("helm install cloudcore", async {
        cloudcore::load_image(testbed).await?;
        cloudcore::install(testbed, &[]).await?;
        cloudcore::available(testbed).await
    })
    .await
}

impl<'a> Stage<'a> {
    pub(crate) async fn build(testbed: &'a Testbed) -> Result<Self> {
        let edge = step("an edge node", join(testbed)).await?;
        let bare = step("a device with containerd alone", bare(testbed, &edge)).await?;
        let nodes = testbed.kubectl(["get", "nodes", "-o", "wide"]).await?;
        output("kubectl get nodes -o wide", &nodes);
        Ok(Self { testbed, edge, bare })
    }
}

async fn join(testbed: &Testbed) -> Result<EdgeMachine> {
    let token = cloudcore::token(testbed, &[]).await?;
    let edge = EdgeMachine::start(testbed, EDGE).await?;
    edge.join(&token, &[]).await?;
    node_ready(&testbed.client(), EDGE, PATIENCE).await?;
    Ok(edge)
}

/// A device that never joins; its pods get the network that the edge node's get.
async fn bare(testbed: &Testbed, edge: &EdgeMachine) -> Result<EdgeMachine> {
    let bare = EdgeMachine::start(testbed, BARE).await?;
    let (from, to) = (edge.machine.file(CNI), bare.machine.file(CNI));
    fs::create_dir_all(&to)?;
    let mut copied = 0;
    for file in fs::read_dir(&from)? {
        let file = file?;
        fs::copy(file.path(), to.join(file.file_name()))?;
        copied += 1;
    }
    ensure!(copied > 0, "edgecore left no pod network in {}", from.display());
    let plugin = format!("{PLUGINS}/tombolo");
    let program = edge.machine.shell(&format!("readlink {plugin}")).await?;
    bare.machine
        .shell(&format!("ln -s {} {plugin}", program.trim()))
        .await?;
    Ok(bare)
}
