//! The two nodes, each with a recording proxy between its agent and its container runtime.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::{
    EdgeMachine, Testbed, cloudcore,
    control_plane::Patience,
    cri_proxy::CriProxy,
    machine::Machine,
    programs::workspace,
    testbed::{node_back, node_ready},
};

use crate::{
    show::{output, step},
    side::Side,
};

/// The edge node's name.
const EDGE: &str = "e1";
/// A name server for both nodes; none has to answer there.
const CLUSTER_DNS: &str = "10.96.0.10";
/// How long anything may take that is not compared.
const PATIENCE: Duration = Duration::from_mins(3);

/// The nodes, both of them Ready.
pub(crate) struct Stage<'a> {
    testbed: &'a Testbed,
    edge: EdgeMachine,
    at_kubelet: CriProxy,
    at_edge: CriProxy,
}

pub(crate) async fn cluster() -> Result<Testbed> {
    step(
        "starting a control plane and one ordinary node, w1",
        Testbed::start(Patience::Default),
    )
    .await
}

impl<'a> Stage<'a> {
    pub(crate) async fn build(testbed: &'a Testbed) -> Result<Self> {
        let machine = &testbed.node.machine;
        let at_kubelet = CriProxy::start(machine)?;
        step("a proxy before the kubelet's runtime", async {
            lead_kubelet(machine, &at_kubelet)?;
            node_back(&testbed.client(), machine.name(), PATIENCE).await?;
            // An edge node has them, and pods get their node's.
            let labels = [
                "topology.kubernetes.io/region=edge",
                "topology.kubernetes.io/zone=w1",
            ];
            let words = ["label", "node", machine.name()];
            testbed.kubectl(words.iter().chain(&labels)).await.map(drop)
        })
        .await?;
        step("helm install cloudcore", async {
            cloudcore::load_image(testbed).await?;
            cloudcore::install(testbed, &[]).await?;
            cloudcore::available(testbed).await
        })
        .await?;
        let (edge, at_edge) = step("an edge node", join(testbed)).await?;
        let nodes = testbed.kubectl(["get", "nodes", "-o", "wide"]).await?;
        output("kubectl get nodes -o wide", &nodes);
        Ok(Self {
            testbed,
            edge,
            at_kubelet,
            at_edge,
        })
    }

    /// The stock kubelet's node.
    pub(crate) fn kubelet(&self) -> Side<'_> {
        Side {
            client: self.testbed.client(),
            machine: &self.testbed.node.machine,
            recorder: &self.at_kubelet.recorder,
        }
    }

    /// The edge node.
    pub(crate) fn edge(&self) -> Side<'_> {
        Side {
            client: self.testbed.client(),
            machine: &self.edge.machine,
            recorder: &self.at_edge.recorder,
        }
    }

    /// Writes down every call that was recorded, for whoever wants to look closer.
    pub(crate) fn save_calls(&self) -> Result<()> {
        for (name, proxy) in [("kubelet", &self.at_kubelet), ("edge", &self.at_edge)] {
            let calls = proxy.recorder.calls();
            let lines: Result<Vec<_>, _> = calls.iter().map(serde_json::to_string).collect();
            fs::write(details()?.join(format!("calls.{name}.jsonl")), lines?.join("\n"))?;
        }
        Ok(())
    }
}

/// Where details are written, below the workspace.
pub(crate) fn details() -> Result<std::path::PathBuf> {
    let dir = workspace().join("target/oracle");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// Gives the kubelet the proxy as its runtime, and the name server that the edge node gets; an emptyDir above its limit
/// is seen within a case.
fn lead_kubelet(machine: &Machine, proxy: &CriProxy) -> Result<()> {
    let path = machine.dir().join("kubelet.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
    config["containerRuntimeEndpoint"] = json!(proxy.endpoint());
    config["clusterDNS"] = json!([CLUSTER_DNS]);
    // What volumes hold is counted every minute otherwise, longer than a case waits.
    config["volumeStatsAggPeriod"] = json!("5s");
    fs::write(&path, serde_json::to_vec_pretty(&config)?)?;
    machine.start("kubelet")
}

async fn join(testbed: &Testbed) -> Result<(EdgeMachine, CriProxy)> {
    let token = cloudcore::token(testbed, &[]).await?;
    let edge = EdgeMachine::start(testbed, EDGE).await?;
    let proxy = CriProxy::start(&edge.machine)?;
    let words = [
        "--runtime-endpoint",
        proxy.endpoint(),
        "--cluster-dns",
        CLUSTER_DNS,
    ];
    edge.join(&token, &words).await?;
    node_ready(&testbed.client(), EDGE, PATIENCE).await?;
    Ok((edge, proxy))
}
