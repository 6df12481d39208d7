//! A device with containerd 1.6, as Debian 12 has it: it tells of no events and knows fewer fields.

use std::fs;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use serde_json::{Value, json};
use tests::{
    EdgeMachine, Testbed, cloudcore,
    edge_machine::Outfit,
    pods,
    testbed::node_ready,
    wait::{Look, until},
};

use crate::world::{PATIENCE, World, apply, delete, pod, sleepers, sleeping};

crate::tests![a_device_with_containerd_1_6_runs_pods_counts_restarts_and_leaves_nothing];

async fn a_device_with_containerd_1_6_runs_pods_counts_restarts_and_leaves_nothing(
    world: &World,
) -> Result<()> {
    let (device, testbed) = old_device(world).await?;
    let (deployment, mortal) = (world.name("sleepers"), world.name("mortal"));
    apply(testbed, &sleepers(&deployment, device.machine.name(), 2)).await?;
    apply(testbed, &with_probes(&mortal, device.machine.name())).await?;
    let (of_sleepers, of_mortal) = (format!("app={deployment}"), format!("app={mortal}"));
    let mut all = pods::until_ready(&testbed.client(), &of_sleepers, 2, PATIENCE).await?;
    all.extend(pods::until_ready(&testbed.client(), &of_mortal, 1, PATIENCE).await?);
    let printed = fs::read_to_string(log(&device, &all[2])?)?;
    ensure!(printed.contains("stdout F hello"), "the log is {printed:?}");

    // A container that is killed, and one whose probe says that it is not alive any more.
    let killed = device.running_of(uid(&all[0])?, &deployment).await?;
    let killed = killed.first().context("no container")?;
    device
        .ctr(&["tasks", "kill", "--signal", "SIGKILL", killed])
        .await?;
    let sick = device.running_of(uid(&all[2])?, "main").await?;
    let sick = sick.first().context("no container")?;
    let remove = [
        "tasks",
        "exec",
        "--exec-id",
        "x",
        sick,
        "busybox",
        "rm",
        "/tmp/alive",
    ];
    device.ctr(&remove).await?;
    restarts(testbed, &of_sleepers, 1).await?;
    restarts(testbed, &of_mortal, 1).await?;
    pods::until_ready(&testbed.client(), &of_sleepers, 2, PATIENCE).await?;
    pods::until_ready(&testbed.client(), &of_mortal, 1, PATIENCE).await?;

    delete(testbed, &["deployment", &deployment]).await?;
    delete(testbed, &["pod", &mortal]).await?;
    for (selector, pod) in [&of_sleepers, &of_sleepers, &of_mortal].into_iter().zip(&all) {
        pods::until_gone(&testbed.client(), selector, PATIENCE).await?;
        nothing_left(&device, uid(pod)?).await?;
    }
    world.retire(device).await
}

/// A device that joined, Ready, and the testbed.
async fn old_device(world: &World) -> Result<(EdgeMachine, &Testbed)> {
    let testbed = world.with_cloudcore().await?;
    let outfit = Outfit {
        cache: testbed.cache.older()?,
        ..Outfit::usual(testbed)
    };
    let device = EdgeMachine::start_with(testbed, &world.name("d"), outfit).await?;
    device.join(&cloudcore::token(testbed, &[]).await?, &[]).await?;
    let name = device.machine.name().to_owned();
    node_ready(&testbed.client(), &name, PATIENCE).await?;
    let node = Api::<Node>::all(testbed.client()).get(&name).await?;
    let version = node.status.and_then(|status| status.node_info);
    let version = version.context("no nodeInfo")?.container_runtime_version;
    ensure!(version.starts_with("containerd://1.6."), "it is {version}");
    let said = fs::read_to_string(device.machine.log("edgecore"))?;
    ensure!(said.contains("the runtime has no event stream"), "{said}");
    Ok((device, testbed))
}

/// A pod that says hello, and is ready and alive as long as its files are there.
fn with_probes(name: &str, node: &str) -> Value {
    let mut container = sleeping();
    container["command"] = json!([
        "busybox",
        "sh",
        "-c",
        "echo hello; touch /tmp/alive /tmp/ready; trap 'exit 0' TERM; while true; do sleep 1; done"
    ]);
    let exists = |file| json!({ "exec": { "command": ["busybox", "test", "-e", file] }, "periodSeconds": 1 });
    container["readinessProbe"] = exists("/tmp/ready");
    container["livenessProbe"] = exists("/tmp/alive");
    container["livenessProbe"]["initialDelaySeconds"] = json!(2);
    pod(name, node, container)
}

fn uid(pod: &Pod) -> Result<&str> {
    pod.metadata.uid.as_deref().context("no uid")
}

/// Where the log of a pod's container `main` begins.
fn log(device: &EdgeMachine, pod: &Pod) -> Result<std::path::PathBuf> {
    let dir = format!("default_{}_{}", pods::name(pod), uid(pod)?);
    let logs = device.machine.file("/var/log/pods");
    Ok(logs.join(dir).join("main/0.log"))
}

/// Waits until so many restarts were told of all these pods together.
async fn restarts(testbed: &Testbed, selector: &str, wanted: i32) -> Result<()> {
    until(&format!("{wanted} restarts of {selector}"), PATIENCE, || async {
        let pods = pods::list(&testbed.client(), "default", selector).await?;
        let counts = pods.iter().flat_map(pods::containers).map(|c| c.restart_count);
        Ok(Look::when(counts.sum::<i32>() == wanted, || pods::table(&pods)))
    })
    .await
}

/// Neither containers, nor files, nor control groups.
async fn nothing_left(device: &EdgeMachine, uid: &str) -> Result<()> {
    let files = format!(
        "ls -d /var/lib/kubelet/pods/{uid} /var/log/pods/*{uid} 2>/dev/null; \
         find /sys/fs/cgroup -type d -name '*{uid}*' 2>/dev/null; grep {uid} /proc/mounts || true"
    );
    until(&format!("nothing of pod {uid}"), PATIENCE, || async {
        let containers = device.of_pod(uid).await?;
        let files = device.machine.shell(&files).await?;
        let left = format!("{containers:?} {files}");
        Ok(Look::when(containers.is_empty() && files.is_empty(), || {
            left.clone()
        }))
    })
    .await
}
