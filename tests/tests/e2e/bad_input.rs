//! What people and machines get wrong, and what they are told.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tests::{
    EdgeMachine, cloudcore, pods,
    wait::{Look, throughout, until},
};

use crate::{
    told::{mentions, until_waits},
    world::{EDGE, PATIENCE, World, apply, delete, pod, sleeping},
};

crate::tests![
    a_token_with_a_wrong_secret_is_refused,
    an_expired_token_is_refused,
    a_token_for_another_name_is_refused,
    the_name_of_an_ordinary_node_is_refused,
    a_token_that_names_another_ca_is_refused_before_anything_is_sent,
    a_second_device_under_a_name_in_use_is_refused,
    a_foreign_pod_network_is_left_alone,
    garbage_on_the_port_harms_nobody,
    a_pod_that_names_a_missing_config_map_waits_and_starts_when_it_is_there,
    an_image_that_does_not_exist_is_told_in_the_status,
    a_pod_feature_that_is_not_supported_is_refused_by_name,
];

/// Joins in vain; gives back what was said.
async fn refused(device: &EdgeMachine, token: &str, words: &[&str]) -> Result<String> {
    match device.enrol(token, words).await {
        Ok(said) => bail!("it was let in: {said}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

/// Replaces the last character by another of the same kind.
fn spoil(part: &str) -> String {
    let (rest, last) = part.split_at(part.len() - 1);
    format!("{rest}{}", if last == "0" { "1" } else { "0" })
}

async fn a_token_with_a_wrong_secret_is_refused(world: &World) -> Result<()> {
    let (device, testbed) = (world.device().await?, world.with_cloudcore().await?);
    let token = spoil(&cloudcore::token(testbed, &[]).await?);
    mentions(&refused(&device, &token, &[]).await?, &["token"])
}

async fn an_expired_token_is_refused(world: &World) -> Result<()> {
    let (device, testbed) = (world.device().await?, world.with_cloudcore().await?);
    let token = cloudcore::token(testbed, &["--ttl", "1s"]).await?;
    let id = token.split('.').nth(1).context("no id")?;
    until("the token's end", PATIENCE, || async {
        let list = cloudcore::exec(testbed, &["token", "list"]).await?;
        let ended = list
            .lines()
            .any(|line| line.contains(id) && line.contains("expired"));
        Ok(Look::when(ended, || list.clone()))
    })
    .await?;
    mentions(&refused(&device, &token, &[]).await?, &["token", "expired"])
}

async fn a_token_for_another_name_is_refused(world: &World) -> Result<()> {
    let (device, testbed) = (world.device().await?, world.with_cloudcore().await?);
    let token = cloudcore::token(testbed, &["--node", "somebody-else"]).await?;
    mentions(
        &refused(&device, &token, &[]).await?,
        &["token", device.machine.name()],
    )
}

async fn the_name_of_an_ordinary_node_is_refused(world: &World) -> Result<()> {
    let (device, testbed) = (world.device().await?, world.with_cloudcore().await?);
    let token = cloudcore::token(testbed, &[]).await?;
    mentions(&refused(&device, &token, &["--node-name", "w1"]).await?, &["w1"])?;
    let token = cloudcore::token(testbed, &["--node", "w1", "--replace-key"]).await;
    if let Ok(token) = token {
        mentions(&refused(&device, &token, &["--node-name", "w1"]).await?, &["w1"])?;
    }
    Ok(())
}

async fn a_token_that_names_another_ca_is_refused_before_anything_is_sent(world: &World) -> Result<()> {
    let (device, testbed) = (world.device().await?, world.with_cloudcore().await?);
    let token = cloudcore::token(testbed, &[]).await?;
    let (pin, rest) = token.split_once('.').context("no pin")?;
    let other = format!("{}.{rest}", spoil(pin));
    mentions(&refused(&device, &other, &[]).await?, &["CA"])?;
    // Nothing was sent: the same token still has its one use.
    device.enrol(&token, &[]).await.map(drop)
}

async fn a_second_device_under_a_name_in_use_is_refused(world: &World) -> Result<()> {
    let (testbed, _) = world.with_edge().await?;
    let device = world.device().await?;
    let token = cloudcore::token(testbed, &[]).await?;
    mentions(&refused(&device, &token, &["--node-name", EDGE]).await?, &[EDGE])
}

async fn a_foreign_pod_network_is_left_alone(world: &World) -> Result<()> {
    let (device, testbed) = (world.device().await?, world.with_cloudcore().await?);
    let foreign = r#"{"cniVersion":"1.0.0","name":"mine","plugins":[{"type":"loopback"}]}"#;
    device
        .machine
        .shell(&format!(
            "mkdir -p /etc/cni/net.d && echo '{foreign}' > /etc/cni/net.d/10-mine.conflist"
        ))
        .await?;
    let token = cloudcore::token(testbed, &[]).await?;
    let said = device.enrol(&token, &[]).await?;
    mentions(&said, &["10-mine.conflist"])?;
    let files = device.machine.shell("ls /etc/cni/net.d").await?;
    ensure!(files.trim() == "10-mine.conflist", "there is {files}");
    Ok(())
}

async fn garbage_on_the_port_harms_nobody(world: &World) -> Result<()> {
    let (testbed, _) = world.with_edge().await?;
    let device = world.device().await?;
    let to = format!("{} {}", testbed.node.machine.address(), cloudcore::NODE_PORT);
    for protocol in ["-u -w1", "-w2"] {
        let garbage = format!("head -c 200000 /dev/urandom | timeout 5 busybox nc {protocol} {to} || true");
        device.machine.shell(&garbage).await?;
    }
    // Someone who connects and says nothing.
    device
        .machine
        .shell(&format!(
            "for i in 1 2 3 4 5 6 7 8; do (sleep 30 | timeout 30 busybox nc {to} >/dev/null 2>&1 &) ; done"
        ))
        .await?;
    let calm = throughout("cloudcore untouched", Duration::from_secs(3), || async {
        let pods = cloudcore::pods(testbed).await?;
        let restarted = pods
            .iter()
            .flat_map(pods::containers)
            .any(|container| !container.ready);
        Ok(Look::when(!restarted, || pods::table(&pods)))
    });
    calm.await?;
    let token = cloudcore::token(testbed, &[]).await?;
    device.enrol(&token, &[]).await.map(drop)
}

async fn a_pod_that_names_a_missing_config_map_waits_and_starts_when_it_is_there(
    world: &World,
) -> Result<()> {
    let (testbed, _) = world.with_edge().await?;
    let name = world.name("pod");
    let mut container = sleeping();
    container["env"] =
        json!([{ "name": "WORD", "valueFrom": { "configMapKeyRef": { "name": name, "key": "word" } } }]);
    apply(testbed, &pod(&name, EDGE, container)).await?;
    until_waits(testbed, &name, &["CreateContainerConfigError", &name]).await?;
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "word": "x" } });
    apply(testbed, &map).await?;
    pods::until_ready(&testbed.client(), &format!("app={name}"), 1, PATIENCE).await?;
    delete(testbed, &["pod", &name]).await
}

async fn an_image_that_does_not_exist_is_told_in_the_status(world: &World) -> Result<()> {
    let (testbed, _) = world.with_edge().await?;
    let name = world.name("pod");
    let mut container = sleeping();
    container["image"] = json!("registry.invalid/no/such:1");
    apply(testbed, &pod(&name, EDGE, container)).await?;
    until_waits(testbed, &name, &["ImagePull", "registry.invalid"]).await?;
    delete(testbed, &["pod", &name]).await
}

async fn a_pod_feature_that_is_not_supported_is_refused_by_name(world: &World) -> Result<()> {
    let (testbed, edge) = world.with_edge().await?;
    let name = world.name("pod");
    let mut unsupported = pod(&name, EDGE, sleeping());
    unsupported["spec"]["volumes"] =
        json!([{ "name": "share", "nfs": { "server": "files.invalid", "path": "/" } }]);
    apply(testbed, &unsupported).await?;
    until_waits(testbed, &name, &["UnsupportedPodFeature", "nfs"]).await?;
    let pods = pods::list(&testbed.client(), "default", &format!("app={name}")).await?;
    ensure!(
        pods.iter().all(|pod| pods::phase(pod) == "Pending"),
        "{}",
        pods::table(&pods)
    );
    let uid = pods
        .first()
        .and_then(|pod| pod.metadata.uid.clone())
        .context("no uid")?;
    ensure!(edge.of_pod(&uid).await?.is_empty(), "a container was made for it");
    delete(testbed, &["pod", &name]).await
}
