//! Certificates that live a minute: renewed over the link, renewed after their end, refused to the banned.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use serde_json::Value;
use tests::{
    EdgeMachine, Testbed, cloudcore,
    control_plane::Patience,
    pods,
    testbed::{condition, node_back},
    wait::{Look, throughout, until},
};

use crate::world::{EDGE, PATIENCE, World, apart, apply, joined, sleepers};

crate::tests![a_node_outlives_its_certificates_and_comes_back_after_their_end_unless_it_is_banned];

/// What the chart allows at least.
const LIFE: Duration = Duration::from_mins(1);
/// A session whose certificate has ended is over at its next beat, which comes within 25 s.
const NOTICED: Duration = Duration::from_secs(40);

async fn status(device: &EdgeMachine) -> Result<Value> {
    let said = device.edgecore(&["status", "-o", "json"]).await?;
    serde_json::from_str(&said).context("edgecore status")
}

/// Seconds to the end of the device's certificate.
async fn left(device: &EdgeMachine) -> Result<i64> {
    status(device).await?["certificateEndsInSeconds"]
        .as_i64()
        .context("no end of the certificate")
}

async fn ended(device: &EdgeMachine) -> Result<()> {
    until("the end of the certificate", LIFE * 2, || async {
        let left = left(device).await?;
        Ok(Look::when(left < -2, || format!("ends in {left} s")))
    })
    .await
}

/// Holds that the node is Ready and its pods are the same for two lives of a certificate.
async fn outlives(testbed: &Testbed, name: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(testbed.client());
    throughout("the node Ready", LIFE + NOTICED, || async {
        let ready = condition(&nodes.get(name).await?, "Ready");
        Ok(Look::when(ready.starts_with("True"), || ready.clone()))
    })
    .await
}

async fn refused_as_banned(device: &EdgeMachine) -> Result<()> {
    until("the ban to be told", PATIENCE, || async {
        let link = status(device).await?["link"].clone();
        let why = link["lastError"].as_str().unwrap_or_default();
        let told =
            link["state"] == "offline" && why.contains("certificate has ended") && why.contains("banned");
        Ok(Look::when(told, || link.to_string()))
    })
    .await
}

/// On a testbed of its own, beside the shared one.
async fn a_node_outlives_its_certificates_and_comes_back_after_their_end_unless_it_is_banned(
    _: &World,
) -> Result<()> {
    apart(Testbed::start(Patience::Default).await?, lives).await
}

async fn lives(testbed: &Testbed) -> Result<()> {
    let device = joined(testbed, &["certificates.nodeLife=1m"]).await?;
    let (node, name) = (EDGE, "sleepers");
    apply(testbed, &sleepers(name, node, 2)).await?;
    let selector = format!("app={name}");
    let identity = async || -> Result<_> {
        let ready = pods::until_ready(&testbed.client(), &selector, 2, PATIENCE).await?;
        Ok((pods::identity(&ready), device.running(name).await?))
    };
    let before = identity().await?;
    let session = status(&device).await?["link"]["since"].clone();

    outlives(testbed, node).await?;
    ensure!(left(&device).await? > 0, "the certificate was not renewed");
    let now = status(&device).await?["link"]["since"].clone();
    ensure!(session == now, "the session of {session} became one of {now}");

    device.machine.cut()?;
    let over = ended(&device).await;
    device.machine.restore().await?;
    over?;
    node_back(&testbed.client(), node, PATIENCE).await?;
    ensure!(
        left(&device).await? > 0,
        "the certificate was not renewed after its end"
    );
    let after = identity().await?;
    ensure!(before == after, "{before:?} became {after:?}");

    cloudcore::exec(testbed, &["node", "ban", node]).await?;
    ended(&device).await?;
    refused_as_banned(&device).await?;
    ensure!(
        left(&device).await? < 0,
        "a banned device has renewed its certificate"
    );
    Ok(())
}
