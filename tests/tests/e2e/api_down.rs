//! An API server that dies while pods of the edge are connected to it.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{
    Testbed, cloudcore,
    control_plane::Patience,
    machine::Machine,
    pods,
    testbed::node_back,
    wait::{Look, until},
};

use crate::world::{EDGE, PATIENCE, World, apart, apply, joined, pod, sleepers, sleeping};

crate::tests![tunnels_end_with_the_api_server_and_the_node_comes_back_with_it];

/// On a testbed of its own: everybody else needs the API server.
async fn tunnels_end_with_the_api_server_and_the_node_comes_back_with_it(_: &World) -> Result<()> {
    apart(Testbed::start(Patience::Default).await?, outlives).await
}

/// In the machine and all its pods, connections that stand: at the edge, of pods to where they reach the API server; in
/// the cluster, of cloudcore to the API server.
const AT_THE_EDGE: &str = "ss -Htn state established '( sport = :443 or sport = :61443 )'";
const IN_THE_CLUSTER: &str = "for pod in /run/netns/*; do \
    nsenter --net=$pod ss -Htn state established '( dport = :443 or dport = :6443 )'; done";

/// A pod that holds a connection to the API server, and ends with it.
fn connected(name: &str) -> Value {
    let mut container = sleeping();
    let script = "busybox mkfifo /silence; busybox sleep 1000000 > /silence & \
                  exec busybox nc $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT < /silence";
    container["command"] = json!(["busybox", "sh", "-c", script]);
    pod(name, EDGE, container)
}

async fn outlives(testbed: &Testbed) -> Result<()> {
    let edge = joined(testbed, &[]).await?;
    let (client, cluster) = (testbed.client(), &testbed.node.machine);
    apply(testbed, &sleepers("stays", EDGE, 2)).await?;
    let before = pods::identity(&pods::until_ready(&client, "app=stays", 2, PATIENCE).await?);
    let replicas = pods::identity(&cloudcore::pods(testbed).await?);
    apply(testbed, &connected("talks")).await?;
    until_connected(&edge.machine, AT_THE_EDGE, true).await?;
    until_connected(cluster, IN_THE_CLUSTER, true).await?;

    testbed.plane.kill_api_server()?;
    let ended = async {
        until_connected(&edge.machine, AT_THE_EDGE, false).await?;
        until_connected(cluster, IN_THE_CLUSTER, false).await
    }
    .await;
    testbed.plane.start_api_server().await?;
    ended?;

    node_back(&client, EDGE, PATIENCE).await?;
    until_connected(&edge.machine, AT_THE_EDGE, true).await?;
    testbed
        .kubectl(["scale", "deployment", "stays", "--replicas=3"])
        .await?;
    let after = pods::identity(&pods::until_ready(&client, "app=stays", 3, PATIENCE).await?);
    let kept = before
        .iter()
        .all(|(uid, containers)| after.get(uid) == Some(containers));
    ensure!(kept, "{before:?} became {after:?}");
    let now = pods::identity(&cloudcore::pods(testbed).await?);
    ensure!(now == replicas, "cloudcore: {replicas:?} became {now:?}");
    Ok(())
}

/// Waits until connections stand, or none does.
async fn until_connected(machine: &Machine, list: &str, some: bool) -> Result<()> {
    until(
        &format!("connections of {}: {some}", machine.name()),
        PATIENCE,
        || async {
            let list = machine.shell(list).await?;
            Ok(Look::when(list.is_empty() != some, || list.clone()))
        },
    )
    .await
}
