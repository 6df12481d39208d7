//! A device whose disk fails under edgecore's store.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tests::{
    EdgeMachine, Testbed, cloudcore,
    edge_machine::Outfit,
    machine::{Cable, disk::Disk},
    pods,
    testbed::node_ready,
    wait::{Look, until},
};

use crate::{
    storage::end,
    told::{mentions, until_event},
    world::{PATIENCE, World, apply, delete, pod, sleeping},
};

crate::tests![a_disk_that_fails_under_the_store_costs_the_node_nothing_that_the_cluster_has];

/// The disk, in MiB.
const DISK: u64 = 96;
/// What the node says of it.
const SAID: &str = "the store in /var/lib/tombolo cannot be written, because its disk is read-only: dmesg says why; have \
    the disk checked (a reboot does, as a rule) or replace it; until then edgecore goes on with what it holds, and keeps \
    nothing new";

/// Nothing but the store lies on that disk: what containers need works on, and all that fails is edgecore's own.
async fn a_disk_that_fails_under_the_store_costs_the_node_nothing_that_the_cluster_has(
    world: &World,
) -> Result<()> {
    let testbed = world.with_cloudcore().await?;
    let outfit = Outfit {
        disk: Some(Disk::OfStore(DISK)),
        ..Outfit::usual(testbed)
    };
    let device = EdgeMachine::start_with(testbed, &world.name("d"), outfit).await?;
    let node = device.machine.name().to_owned();
    device.join(&cloudcore::token(testbed, &[]).await?, &[]).await?;
    node_ready(&testbed.client(), &node, PATIENCE).await?;
    let names = ["stays", "goes", "comes"].map(|stem| world.name(stem));
    let [stays, goes, comes] = &names;
    apply(testbed, &probed(stays, &node)).await?;
    apply(testbed, &sleeper(goes, &node)).await?;
    let before = pods::identity(&ready(testbed, stays).await?);
    ready(testbed, goes).await?;

    device.machine.fail_store()?;
    apply(testbed, &sleeper(comes, &node)).await?;
    ready(testbed, comes).await?;
    says_so(testbed, &device).await?;
    let after = pods::identity(&ready(testbed, stays).await?);
    ensure!(before == after, "{before:?} became {after:?}");
    lives_on(testbed, &device, [stays, goes]).await?;
    ready(testbed, comes).await?;

    device.machine.power_off()?;
    device.machine.mend_store()?;
    device.machine.boot(Cable::Plugged).await?;
    device.runtime_ready().await?;
    says(&device, false).await?;
    node_ready(&testbed.client(), &node, PATIENCE).await?;
    for name in [stays, comes] {
        until(&format!("{name} to run again"), PATIENCE, || async {
            let running = device.running(name).await?;
            Ok(Look::when(!running.is_empty(), || {
                "nothing of it runs".to_owned()
            }))
        })
        .await?;
        ready(testbed, name).await?;
    }
    // That it is gone could not be kept until now.
    pods::until_gone(&testbed.client(), &format!("app={goes}"), PATIENCE).await?;
    until_nothing_runs_of(&device, goes).await?;
    for name in [stays, comes] {
        end(testbed, name).await?;
    }
    world.retire(device).await
}

/// The cluster, the status and the doctor say what it is and what to do.
async fn says_so(testbed: &Testbed, device: &EdgeMachine) -> Result<()> {
    until_event(testbed, device.machine.name(), "StoreReadOnly", SAID).await?;
    says(device, true).await?;
    let doctor = device.edgecore(&["doctor"]).await;
    let doctor = doctor.err().context("the doctor finds nothing")?;
    mentions(
        &format!("{doctor:#}"),
        &["FAILED", "file system that is read-only", SAID],
    )
}

/// A pod that is deleted ends and is not said to be gone, one that is ill is started anew, and edgecore's own end
/// changes nothing.
async fn lives_on(testbed: &Testbed, device: &EdgeMachine, [stays, goes]: [&String; 2]) -> Result<()> {
    delete(testbed, &["pod", goes]).await?;
    until_nothing_runs_of(device, goes).await?;
    let running = device.running(stays).await?;
    let healthy = running.first().context("no container")?;
    device
        .ctr(&[
            "tasks",
            "exec",
            "--exec-id",
            "x",
            healthy,
            "busybox",
            "touch",
            "/ill",
        ])
        .await?;
    until_restarted(testbed, stays).await?;
    let before = pods::identity(&ready(testbed, stays).await?);
    let process = device.machine.service_pid("edgecore")?;
    device.machine.kill("edgecore")?;
    until("another edgecore with a link", PATIENCE, || async {
        let status = status(device).await;
        let is_connected = status
            .as_ref()
            .is_ok_and(|status| status["link"]["state"] == "connected");
        let is_another = device
            .machine
            .service_pid("edgecore")
            .is_ok_and(|now| now != process);
        Ok(Look::when(is_connected && is_another, || format!("{status:?}")))
    })
    .await?;
    let after = pods::identity(&ready(testbed, stays).await?);
    ensure!(before == after, "{before:?} became {after:?}");
    until_nothing_runs_of(device, goes).await?;
    let waits = pods::list(&testbed.client(), "default", &format!("app={goes}")).await?;
    ensure!(
        waits.len() == 1,
        "a restart would start it again: {}",
        pods::table(&waits)
    );
    Ok(())
}

/// A pod whose container has its name.
fn sleeper(name: &str, node: &str) -> Value {
    let mut sleeper = pod(name, node, sleeping());
    sleeper["spec"]["containers"][0]["name"] = json!(name);
    sleeper
}

/// A pod that is ill as long as it has a file.
fn probed(name: &str, node: &str) -> Value {
    let mut probed = sleeper(name, node);
    probed["spec"]["containers"][0]["livenessProbe"] = json!({
        "exec": { "command": ["busybox", "test", "!", "-e", "/ill"] }, "periodSeconds": 1, "failureThreshold": 1
    });
    probed
}

async fn ready(testbed: &Testbed, name: &str) -> Result<Vec<Pod>> {
    pods::until_ready(&testbed.client(), &format!("app={name}"), 1, PATIENCE).await
}

async fn until_restarted(testbed: &Testbed, name: &str) -> Result<()> {
    until(&format!("{name} to be started anew"), PATIENCE, || async {
        let found = pods::list(&testbed.client(), "default", &format!("app={name}")).await?;
        let restarts = found
            .iter()
            .flat_map(pods::containers)
            .map(|one| one.restart_count);
        Ok(Look::when(restarts.sum::<i32>() > 0, || pods::table(&found)))
    })
    .await
}

async fn until_nothing_runs_of(device: &EdgeMachine, name: &str) -> Result<()> {
    until(&format!("no container of {name}"), PATIENCE, || async {
        let left = device.running(name).await?;
        Ok(Look::when(left.is_empty(), || format!("{left:?}")))
    })
    .await
}

async fn status(device: &EdgeMachine) -> Result<Value> {
    let said = device.edgecore(&["status", "-o", "json"]).await?;
    Ok(serde_json::from_str(&said)?)
}

/// Waits until `edgecore status` says that the store cannot be written, or says it no more.
async fn says(device: &EdgeMachine, does: bool) -> Result<()> {
    until("what the status says of the disk", PATIENCE, || async {
        let status = status(device).await;
        let warnings = status
            .as_ref()
            .ok()
            .and_then(|status| status["warnings"].as_array());
        let is_said = warnings.map(|all| all.iter().any(|one| one == SAID));
        Ok(Look::when(is_said == Some(does), || format!("{status:?}")))
    })
    .await
}
