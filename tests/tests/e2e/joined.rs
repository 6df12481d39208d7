//! A node that joined: what users see of it while everything is well.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use serde_json::json;
use tests::{
    pods,
    wait::{Look, until},
};

use crate::world::{EDGE, PATIENCE, World, apply, delete, sleepers};

crate::tests![
    an_edge_node_joins_and_is_ready_with_role_edge,
    a_deployment_runs_on_the_edge_and_goes_when_it_is_scaled_down,
    a_daemon_set_that_tolerates_everything_runs_on_every_machine,
    a_killed_edgecore_restarts_no_container,
    a_killed_cloudcore_restarts_no_container,
    a_killed_containerd_restarts_no_container,
    a_deleted_node_comes_back_and_restarts_no_container,
];

async fn an_edge_node_joins_and_is_ready_with_role_edge(world: &World) -> Result<()> {
    let (testbed, _) = world.with_edge().await?;
    let nodes: Api<Node> = Api::all(testbed.client());
    let node = nodes.get(EDGE).await?;
    let labels = node.metadata.labels.unwrap_or_default();
    ensure!(
        labels.contains_key("node-role.kubernetes.io/edge"),
        "the node's labels are {labels:?}"
    );
    let taints = node.spec.unwrap_or_default().taints.unwrap_or_default();
    let tainted = taints
        .iter()
        .any(|taint| taint.key == "node-role.kubernetes.io/edge");
    ensure!(tainted, "the node's taints are {taints:?}");
    let info = node
        .status
        .and_then(|status| status.node_info)
        .context("no nodeInfo")?;
    ensure!(
        info.kubelet_version.contains("+tombolo."),
        "the version is {}",
        info.kubelet_version
    );
    Ok(())
}

async fn a_deployment_runs_on_the_edge_and_goes_when_it_is_scaled_down(world: &World) -> Result<()> {
    let (testbed, edge) = world.with_edge().await?;
    let name = world.name("sleepers");
    apply(testbed, &sleepers(&name, EDGE, 3)).await?;
    let selector = format!("app={name}");
    pods::until_ready(&testbed.client(), &selector, 3, PATIENCE).await?;
    ensure!(
        edge.running(&name).await?.len() == 3,
        "containerd does not run 3 containers"
    );
    testbed
        .kubectl(["scale", "deployment", &name, "--replicas=0"])
        .await?;
    pods::until_gone(&testbed.client(), &selector, PATIENCE).await?;
    until("no container left", PATIENCE, || async {
        let left = edge.containers(&name).await?;
        Ok(Look::when(left.is_empty(), || format!("{left:?}")))
    })
    .await?;
    delete(testbed, &["deployment", &name]).await
}

async fn a_daemon_set_that_tolerates_everything_runs_on_every_machine(world: &World) -> Result<()> {
    let (testbed, _) = world.with_edge().await?;
    let name = world.name("everywhere");
    let mut object = sleepers(&name, EDGE, 1);
    let set = &mut object["items"][1];
    set["kind"] = json!("DaemonSet");
    set["spec"].as_object_mut().context("no spec")?.remove("replicas");
    let template = &mut set["spec"]["template"]["spec"];
    template["tolerations"] = json!([{ "operator": "Exists" }]);
    template
        .as_object_mut()
        .context("no template")?
        .remove("nodeSelector");
    // Nodes of other tests come and go meanwhile.
    let nodes = [EDGE, testbed.node.machine.name()];
    template["affinity"] = json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{ "matchExpressions": [
            { "key": "kubernetes.io/hostname", "operator": "In", "values": nodes },
        ] }],
    } } });
    apply(testbed, &object).await?;
    pods::until_ready(&testbed.client(), &format!("app={name}"), nodes.len(), PATIENCE).await?;
    delete(testbed, &["daemonset", &name]).await
}

/// Starts three pods, does `harm`, and holds that the same containers are Ready in the end.
async fn untouched_by<F: Future<Output = Result<()>>>(world: &World, harm: F) -> Result<()> {
    let (testbed, edge) = world.with_edge().await?;
    let name = world.name("sleepers");
    apply(testbed, &sleepers(&name, EDGE, 3)).await?;
    let selector = format!("app={name}");
    let before = pods::identity(&pods::until_ready(&testbed.client(), &selector, 3, PATIENCE).await?);
    let running = edge.running(&name).await?;
    harm.await?;
    world.with_edge().await?;
    let after = pods::identity(&pods::until_ready(&testbed.client(), &selector, 3, PATIENCE).await?);
    ensure!(before == after, "{before:?} became {after:?}");
    let now = edge.running(&name).await?;
    ensure!(running == now, "containerd ran {running:?} and runs {now:?}");
    delete(testbed, &["deployment", &name]).await?;
    pods::until_gone(&testbed.client(), &selector, PATIENCE).await
}

async fn a_killed_edgecore_restarts_no_container(world: &World) -> Result<()> {
    let (_, edge) = world.with_edge().await?;
    let harm = async {
        let pid = edge.machine.service_pid("edgecore")?;
        edge.machine.kill("edgecore")?;
        until("edgecore to run again", PATIENCE, || async {
            let now = edge.machine.service_pid("edgecore")?;
            Ok(Look::when(now != pid, || format!("pid {now}")))
        })
        .await
    };
    untouched_by(world, harm).await
}

async fn a_killed_containerd_restarts_no_container(world: &World) -> Result<()> {
    let (_, edge) = world.with_edge().await?;
    let harm = async {
        edge.machine.kill("containerd")?;
        edge.runtime_ready().await
    };
    untouched_by(world, harm).await
}

async fn a_killed_cloudcore_restarts_no_container(world: &World) -> Result<()> {
    let testbed = world.with_cloudcore().await?;
    let harm = async {
        let before = tests::cloudcore::pods(testbed).await?;
        let script = "for p in $(pidof cloudcore); do kill -9 $p; done";
        testbed.node.machine.shell(script).await?;
        until("cloudcore to be restarted", PATIENCE, || async {
            let now = tests::cloudcore::pods(testbed).await?;
            let (was, is) = (pods::identity(&before), pods::identity(&now));
            Ok(Look::when(was != is, || pods::table(&now)))
        })
        .await?;
        tests::cloudcore::available(testbed).await
    };
    untouched_by(world, harm).await
}

async fn a_deleted_node_comes_back_and_restarts_no_container(world: &World) -> Result<()> {
    let (testbed, _) = world.with_edge().await?;
    let nodes: Api<Node> = Api::all(testbed.client());
    let uid = nodes.get(EDGE).await?.metadata.uid;
    let harm = async {
        testbed.kubectl(["delete", "node", EDGE]).await?;
        until("the node to be made again", PATIENCE, || async {
            let now = nodes.get(EDGE).await?.metadata.uid;
            Ok(Look::when(now != uid, || format!("{now:?}")))
        })
        .await
    };
    untouched_by(world, harm).await
}
