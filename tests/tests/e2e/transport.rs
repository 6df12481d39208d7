//! What carries the link: QUIC where UDP passes, a WebSocket where it does not.

use std::time::Duration;

use anyhow::{Context, Result};
use tests::{
    EdgeMachine, cloudcore, pods,
    testbed::node_ready,
    wait::{Look, until},
};

use crate::world::{PATIENCE, World, apply, delete, sleepers};

crate::tests![a_node_without_udp_joins_over_tcp_and_moves_when_udp_comes_and_goes];

/// QUIC is tried again after two and a half minutes at the latest.
const PROBED: Duration = Duration::from_mins(4);

/// Waits until the link is up and carried by `wanted`.
async fn over(device: &EdgeMachine, wanted: &str, patience: Duration) -> Result<()> {
    until(&format!("a link over {wanted}"), patience, || async {
        let said = device.edgecore(&["status", "-o", "json"]).await?;
        let status: serde_json::Value = serde_json::from_str(&said).context("edgecore status")?;
        let link = &status["link"];
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
    anyhow::ensure!(before == after, "{before:?} became {after:?}");
    delete(testbed, &["deployment", &name]).await
}
