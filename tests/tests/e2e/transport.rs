//! What carries the link: QUIC where UDP passes, a WebSocket where it does not.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use serde_json::Value;
use tests::{
    EdgeMachine, Testbed, cloudcore,
    edge_machine::Outfit,
    pods,
    relay::Relay,
    testbed::{condition, node_back, node_ready},
    wait::{Look, throughout, until},
};

use crate::world::{PATIENCE, World, apply, delete, sleepers};

crate::tests![
    a_node_without_udp_joins_over_tcp_and_moves_when_udp_comes_and_goes,
    a_node_behind_a_balancer_that_forgets_its_flows_stays_ready_on_both_links,
];

/// QUIC is tried again after two and a half minutes at the latest.
const PROBED: Duration = Duration::from_mins(4);

/// What `edgecore status` says of the link.
async fn link(device: &EdgeMachine) -> Result<Value> {
    let said = device.edgecore(&["status", "-o", "json"]).await?;
    let mut status: Value = serde_json::from_str(&said).context("edgecore status")?;
    Ok(status["link"].take())
}

/// Waits until the link is up and carried by `wanted`.
async fn over(device: &EdgeMachine, wanted: &str, patience: Duration) -> Result<()> {
    until(&format!("a link over {wanted}"), patience, || async {
        let link = link(device).await?;
        let there = link["state"] == "connected" && link["transport"] == wanted;
        Ok(Look::when(there, || link.to_string()))
    })
    .await
}

async fn a_node_without_udp_joins_over_tcp_and_moves_when_udp_comes_and_goes(world: &World) -> Result<()> {
    let (device, testbed) = (world.device().await?, world.with_cloudcore().await?);
    device.let_udp_through(false).await?;
    let token = cloudcore::token(testbed, &[]).await?;
    device.join(&token, &[]).await?;
    node_ready(&testbed.client(), device.machine.name(), PATIENCE).await?;
    over(&device, "websocket", PATIENCE).await?;

    let name = world.name("sleepers");
    apply(testbed, &sleepers(&name, device.machine.name(), 3)).await?;
    let selector = format!("app={name}");
    let before = pods::identity(&pods::until_ready(&testbed.client(), &selector, 3, PATIENCE).await?);

    for (udp, wanted, patience) in [(true, "quic", PROBED), (false, "websocket", PATIENCE)] {
        device.let_udp_through(udp).await?;
        over(&device, wanted, patience).await?;
        node_ready(&testbed.client(), device.machine.name(), PATIENCE).await?;
    }
    let after = pods::identity(&pods::until_ready(&testbed.client(), &selector, 3, PATIENCE).await?);
    ensure!(before == after, "{before:?} became {after:?}");
    delete(testbed, &["deployment", &name]).await
}

/// How long the node must stay Ready after its flow was forgotten: longer than the cluster's patience with
/// a node that says nothing.
const SPAN: Duration = Duration::from_mins(1);

async fn a_node_behind_a_balancer_that_forgets_its_flows_stays_ready_on_both_links(
    world: &World,
) -> Result<()> {
    let testbed = world.with_cloudcore().await?;
    let mut outfit = Outfit::usual(testbed);
    let relay = Relay::start(testbed.network.host(), outfit.cloudcore).await?;
    outfit.cloudcore = relay.address();
    let device = EdgeMachine::start_with(testbed, &world.name("d"), outfit).await?;
    device.join(&cloudcore::token(testbed, &[]).await?, &[]).await?;
    let (client, node) = (testbed.client(), device.machine.name());
    node_ready(&client, node, PATIENCE).await?;
    over(&device, "quic", PATIENCE).await?;

    let name = world.name("sleepers");
    apply(testbed, &sleepers(&name, node, 2)).await?;
    let selector = format!("app={name}");
    let before = pods::identity(&pods::until_ready(&client, &selector, 2, PATIENCE).await?);
    let session = link(&device).await?["since"].take();
    let flows = relay.flows();
    relay.forget();
    stays_ready(testbed, node, SPAN).await?;
    node_back(&client, node, PATIENCE).await?;
    ensure!(relay.flows() > flows, "the flow was not forgotten");
    let now = link(&device).await?;
    ensure!(
        now["since"] == session,
        "another session than since {session}: {now}"
    );

    device.let_udp_through(false).await?;
    over(&device, "websocket", PATIENCE).await?;
    node_back(&client, node, PATIENCE).await?;
    let session = link(&device).await?["since"].take();
    relay.forget();
    until("another session", PATIENCE, || async {
        let link = link(&device).await?;
        let another = link["state"] == "connected" && link["since"] != session;
        Ok(Look::when(another, || link.to_string()))
    })
    .await?;
    node_back(&client, node, PATIENCE).await?;
    // What goes down the link arrives too.
    testbed
        .kubectl(["scale", "deployment", &name, "--replicas=3"])
        .await?;
    let after = pods::identity(&pods::until_ready(&client, &selector, 3, PATIENCE).await?);
    let kept = before
        .iter()
        .all(|(uid, containers)| after.get(uid) == Some(containers));
    ensure!(kept, "{before:?} became {after:?}");
    delete(testbed, &["deployment", &name]).await?;
    pods::until_gone(&client, &selector, PATIENCE).await?;
    world.retire(device).await
}

async fn stays_ready(testbed: &Testbed, node: &str, span: Duration) -> Result<()> {
    let nodes: Api<Node> = Api::all(testbed.client());
    throughout("the node Ready", span, || async {
        let ready = condition(&nodes.get(node).await?, "Ready");
        Ok(Look::when(ready.starts_with("True"), || ready.clone()))
    })
    .await
}
