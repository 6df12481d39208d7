//! Devices that run out of disk or memory, and what becomes of their pods.

use std::fs;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, PodStatus};
use kube::Api;
use serde_json::{Value, json};
use tests::{
    EdgeMachine, Testbed, cloudcore,
    edge_machine::{DISK_IGNORED, Outfit},
    machine::disk::{Disk, RUNTIME},
    pods,
    testbed::{condition, node_ready},
    wait::{Look, throughout, until},
};

use crate::{
    storage::{all_ended, end, status},
    told::until_event,
    world::{PATIENCE, World, apply, pod, sleeping, until_pod},
};

crate::tests![
    a_disk_that_fills_costs_unused_images_first_and_then_the_pod_that_filled_it,
    images_on_a_disk_of_their_own_cost_the_pod_that_fills_it,
    a_memory_that_stays_short_costs_the_greediest_pod_first_which_gets_its_time,
];

/// The small disk, in MiB: thrice what the images take.
const DISK: u64 = 768;
/// How much pods may write before it is too full, in MiB, and by how much they do.
const ROOM: u64 = 96;
const EXCESS: u64 = 32;
/// An image that no pod uses.
const UNUSED: &str = "agnhost";

/// A pod that may be asked to write, one that minds its own business, a disk that all of the device is on: first
/// there is an image to remove, the second time there is none.
async fn a_disk_that_fills_costs_unused_images_first_and_then_the_pod_that_filled_it(
    world: &World,
) -> Result<()> {
    let testbed = world.with_cloudcore().await?;
    let device = joined(world, testbed, Some(Disk::OfAll(DISK))).await?;
    let names = ["filler", "bystander", "late", "waiting"].map(|stem| world.name(stem));
    let [filler, bystander, late, waiting] = &names;
    apply(testbed, &with_cache(filler, device.machine.name())).await?;
    apply(testbed, &pod(bystander, device.machine.name(), sleeping())).await?;
    ready(testbed, filler).await?;
    let before = pods::identity(&ready(testbed, bystander).await?);
    let threshold = free(&device)? - ROOM;
    device.configure("image_gc_high_percent", "99")?;
    set_eviction(
        &device,
        &format!("{{nodefs.available: {threshold}Mi, pressure_transition_period: 30s}}"),
    )?;

    ensure!(images(&device).await?.contains(UNUSED), "no image to remove");
    write(&device, (testbed, filler), "/cache", ROOM + EXCESS).await?;
    until("the image that is not used removed", PATIENCE, || async {
        let images = images(&device).await?;
        Ok(Look::when(!images.contains(UNUSED), || images.clone()))
    })
    .await?;
    pressed(testbed, &device, "DiskPressure", true).await?;
    let tried = "Attempting to reclaim ephemeral-storage";
    until_event(testbed, device.machine.name(), "EvictionThresholdMet", tried).await?;
    let still = status(testbed, filler).await?;
    ensure!(
        still.phase.as_deref() == Some("Running"),
        "removing images was enough: {still:?}"
    );
    refused(testbed, late, &device, "DiskPressure").await?;
    apply(testbed, &pod(waiting, device.machine.name(), sleeping())).await?;

    let room = free(&device)?.saturating_sub(threshold);
    write(&device, (testbed, filler), "/cache", room + EXCESS).await?;
    let evicted = evicted(testbed, filler).await?;
    let said = format!(
        "The node was low on resource: ephemeral-storage. Threshold quantity: {threshold}Mi, available: "
    );
    ensure!(
        evicted.message.as_deref().unwrap_or("").starts_with(&said),
        "{evicted:?}"
    );
    until("nothing of it left on the disk", PATIENCE, || async {
        let free = free(&device)?;
        Ok(Look::when(free >= threshold, || format!("{free} MiB are free")))
    })
    .await?;
    pressed(testbed, &device, "DiskPressure", false).await?;
    ready(testbed, waiting).await?;
    let after = pods::identity(&ready(testbed, bystander).await?);
    ensure!(
        before == after,
        "it had nothing to do with it: {before:?} became {after:?}"
    );
    finish(world, testbed, device, &names).await
}

/// What a container writes beside its volumes lies with the images, what it writes into them does not.
async fn images_on_a_disk_of_their_own_cost_the_pod_that_fills_it(world: &World) -> Result<()> {
    let testbed = world.with_cloudcore().await?;
    let device = joined(world, testbed, Some(Disk::OfImages(DISK))).await?;
    let names = ["writer", "filler"].map(|stem| world.name(stem));
    let [writer, filler] = &names;
    for name in &names {
        apply(testbed, &with_cache(name, device.machine.name())).await?;
        ready(testbed, name).await?;
    }
    let threshold = free(&device)? - ROOM;
    // The runtime counts every ten seconds what was written there: as long as edgecore waits after its start.
    write(&device, (testbed, filler), "/cache", ROOM + 2 * EXCESS).await?;
    write(&device, (testbed, writer), "", ROOM + EXCESS).await?;
    set_eviction(
        &device,
        &format!(
            "{{nodefs.available: disabled, nodefs.inodesFree: disabled, imagefs.available: {threshold}Mi, \
             pressure_transition_period: 30s}}"
        ),
    )?;
    let evicted = evicted(testbed, writer).await?;
    let said = format!(
        "The node was low on resource: ephemeral-storage. Threshold quantity: {threshold}Mi, available: "
    );
    let message = evicted.message.as_deref().unwrap_or_default();
    ensure!(
        message.starts_with(&said) && message.contains("Container main was using "),
        "{message}"
    );
    pressed(testbed, &device, "DiskPressure", true).await?;
    pressed(testbed, &device, "DiskPressure", false).await?;
    let other = status(testbed, filler).await?;
    ensure!(
        other.phase.as_deref() == Some("Running"),
        "it wrote elsewhere: {other:?}"
    );
    ensure!(
        images(&device).await?.contains(UNUSED),
        "images are all to be kept"
    );
    finish(world, testbed, device, &names).await
}

/// More memory than there is must be left, so the node is short of it whatever else the host does. The grace period
/// and the pod's time are what a soft threshold is about; the order is the kubelet's.
async fn a_memory_that_stays_short_costs_the_greediest_pod_first_which_gets_its_time(
    world: &World,
) -> Result<()> {
    let testbed = world.with_cloudcore().await?;
    let device = joined(world, testbed, None).await?;
    let names = ["hungry", "modest", "critical", "late"].map(|stem| world.name(stem));
    let [hungry, modest, critical, late] = &names;
    for pod in trio([hungry, modest, critical], device.machine.name()) {
        apply(testbed, &pod).await?;
    }
    for name in [hungry, modest, critical] {
        ready(testbed, name).await?;
    }
    let all = memory()?;
    set_eviction(
        &device,
        &format!(
            "{{{DISK_IGNORED}, soft: {{memory.available: {all}}}, soft_grace_period: {{memory.available: 20s}}, \
             max_pod_grace_period: 30, pressure_transition_period: 30s}}"
        ),
    )?;

    pressed(testbed, &device, "MemoryPressure", true).await?;
    refused(testbed, late, &device, "MemoryPressure").await?;
    let evicted_first = evicted(testbed, hungry).await?;
    let message = evicted_first.message.clone().unwrap_or_default();
    ensure!(
        message.starts_with("The node was low on resource: memory. Threshold quantity: ")
            && message.contains("Container main was using ")
            && message.ends_with("request is 0, has larger consumption of memory. "),
        "{message}"
    );
    let code = exit_code(&evicted_first)?;
    ensure!(code == 0, "it had time to end well: {evicted_first:?}");
    let evicted_then = evicted(testbed, modest).await?;
    let when =
        |status: &PodStatus| disrupted(status).map(|why| why.last_transition_time.clone().map(|time| time.0));
    ensure!(
        when(&evicted_first)? < when(&evicted_then)?,
        "who keeps within its request goes later: {evicted_first:?} {evicted_then:?}"
    );
    throughout("the critical pod runs", PATIENCE / 5, || async {
        let now = status(testbed, critical).await?;
        Ok(Look::when(now.phase.as_deref() == Some("Running"), || {
            format!("{now:?}")
        }))
    })
    .await?;

    set_eviction(
        &device,
        &format!("{{{DISK_IGNORED}, memory.available: disabled}}"),
    )?;
    pressed(testbed, &device, "MemoryPressure", false).await?;
    finish(world, testbed, device, &names).await
}

async fn joined(world: &World, testbed: &Testbed, disk: Option<Disk>) -> Result<EdgeMachine> {
    let outfit = Outfit {
        disk,
        ..Outfit::usual(testbed)
    };
    let device = EdgeMachine::start_with(testbed, &world.name("d"), outfit).await?;
    device.join(&cloudcore::token(testbed, &[]).await?, &[]).await?;
    node_ready(&testbed.client(), device.machine.name(), PATIENCE).await?;
    Ok(device)
}

/// Has edgecore start anew with another policy.
fn set_eviction(device: &EdgeMachine, policy: &str) -> Result<()> {
    device.configure("eviction", policy)?;
    device.machine.start("edgecore")
}

async fn finish(world: &World, testbed: &Testbed, device: EdgeMachine, names: &[String]) -> Result<()> {
    for name in names {
        end(testbed, name).await?;
    }
    world.retire(device).await
}

fn with_cache(name: &str, node: &str) -> Value {
    let mut pod = pod(name, node, sleeping());
    pod["spec"]["volumes"] = json!([{ "name": "cache", "emptyDir": {} }]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "cache", "mountPath": "/cache" }]);
    pod
}

/// One that takes memory which it did not request and needs a while to end, one that requested more than it takes, and
/// one that belongs to the system.
fn trio([hungry, modest, critical]: [&str; 3], node: &str) -> [Value; 3] {
    let mut greedy = sleeping();
    let script = "trap 'sleep 4; exit 0' TERM; x=$(busybox dd if=/dev/zero bs=1M count=32 | busybox tr '\\0' x); \
                  while true; do sleep 1; done";
    greedy["command"] = json!(["busybox", "sh", "-c", script]);
    let mut greedy = pod(hungry, node, greedy);
    greedy["spec"]["terminationGracePeriodSeconds"] = json!(60);
    let mut thrifty = sleeping();
    thrifty["resources"] = json!({ "requests": { "memory": "64Mi" } });
    let mut vital = pod(critical, node, sleeping());
    vital["spec"]["priorityClassName"] = json!("system-node-critical");
    [greedy, pod(modest, node, thrifty), vital]
}

async fn ready(testbed: &Testbed, name: &str) -> Result<Vec<Pod>> {
    pods::until_ready(&testbed.client(), &format!("app={name}"), 1, PATIENCE).await
}

/// What is free in the runtime's directory on the device's own disk, in MiB.
fn free(device: &EdgeMachine) -> Result<u64> {
    let stat = nix::sys::statvfs::statvfs(&device.machine.dir().join(RUNTIME))?;
    Ok((stat.blocks_available() * stat.fragment_size()) >> 20)
}

/// The memory of the host, in bytes.
fn memory() -> Result<u64> {
    let table = fs::read_to_string("/proc/meminfo")?;
    let line = table.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no MemTotal")?.parse::<u64>()? << 10)
}

/// Has the pod's own container write so many MiB more into a directory.
async fn write(
    device: &EdgeMachine,
    (testbed, name): (&Testbed, &str),
    dir: &str,
    mebibytes: u64,
) -> Result<()> {
    let pods = pods::list(&testbed.client(), "default", &format!("app={name}")).await?;
    let uid = pods.first().and_then(|pod| pod.metadata.uid.clone());
    let running = device.running_of(&uid.context("it is gone")?, "main").await?;
    let container = running.first().context("it does not run")?;
    let script = format!("busybox dd if=/dev/zero bs=1M count={mebibytes} >> {dir}/big");
    let words = [
        "tasks",
        "exec",
        "--exec-id",
        "write",
        container,
        "busybox",
        "sh",
        "-c",
        &script,
    ];
    device.ctr(&words).await.map(drop)
}

async fn images(device: &EdgeMachine) -> Result<String> {
    device.ctr(&["images", "list", "--quiet"]).await
}

/// Waits until the Node shows the pressure, and the taint of it, or neither any more.
async fn pressed(testbed: &Testbed, device: &EdgeMachine, kind: &str, holds: bool) -> Result<()> {
    let nodes: Api<Node> = Api::all(testbed.client());
    let (status, taint) = match kind {
        "DiskPressure" if holds => (
            "True (KubeletHasDiskPressure: ",
            "node.kubernetes.io/disk-pressure",
        ),
        "DiskPressure" => (
            "False (KubeletHasNoDiskPressure: ",
            "node.kubernetes.io/disk-pressure",
        ),
        _ if holds => (
            "True (KubeletHasInsufficientMemory: ",
            "node.kubernetes.io/memory-pressure",
        ),
        _ => (
            "False (KubeletHasSufficientMemory: ",
            "node.kubernetes.io/memory-pressure",
        ),
    };
    until(
        &format!("{kind} of {}: {holds}", device.machine.name()),
        PATIENCE,
        || async {
            let node = nodes.get(device.machine.name()).await?;
            let taints = node
                .spec
                .as_ref()
                .and_then(|spec| spec.taints.as_deref())
                .unwrap_or_default();
            let is_tainted = taints
                .iter()
                .any(|one| one.key == taint && one.effect == "NoSchedule");
            let shown = condition(&node, kind);
            let done = shown.starts_with(status) && is_tainted == holds;
            Ok(Look::when(done, || format!("{shown}, {taints:?}")))
        },
    )
    .await
}

/// A pod that is bound to the node although it is under pressure.
async fn refused(testbed: &Testbed, name: &str, device: &EdgeMachine, pressure: &str) -> Result<()> {
    let mut bound = pod(name, device.machine.name(), sleeping());
    bound["spec"]["nodeName"] = json!(device.machine.name());
    apply(testbed, &bound).await?;
    let is_over = |pod: &Pod| {
        pod.status
            .as_ref()
            .is_some_and(|status| status.phase.as_deref() == Some("Failed"))
    };
    let status = until_pod(testbed, name, is_over)
        .await?
        .status
        .unwrap_or_default();
    let said = format!("Pod was rejected: The node had condition: [{pressure}]. ");
    ensure!(
        status.reason.as_deref() == Some("Evicted") && status.message.as_deref() == Some(&said),
        "{status:?}"
    );
    Ok(())
}

/// The pod's status once it was evicted for the node's sake and nothing of it runs.
async fn evicted(testbed: &Testbed, name: &str) -> Result<PodStatus> {
    let is_over = |pod: &Pod| {
        let status = pod.status.as_ref();
        status.is_some_and(|status| status.phase.as_deref() == Some("Failed") && all_ended(status))
    };
    let status = until_pod(testbed, name, is_over)
        .await?
        .status
        .unwrap_or_default();
    ensure!(status.reason.as_deref() == Some("Evicted"), "{status:?}");
    let why = disrupted(&status)?;
    ensure!(
        why.reason.as_deref() == Some("TerminationByKubelet") && why.message == status.message,
        "{status:?}"
    );
    let message = status.message.as_deref().unwrap_or_default();
    until_event(testbed, name, "Evicted", message).await?;
    Ok(status)
}

fn disrupted(status: &PodStatus) -> Result<&PodCondition> {
    let mut conditions = status.conditions.iter().flatten();
    let found = conditions.find(|condition| condition.type_ == "DisruptionTarget");
    found.with_context(|| format!("it says not that it was disrupted: {status:?}"))
}

fn exit_code(status: &PodStatus) -> Result<i32> {
    let mut ends = status
        .container_statuses
        .iter()
        .flatten()
        .filter_map(|one| one.state.as_ref());
    let ended = ends.find_map(|state| state.terminated.as_ref());
    Ok(ended
        .with_context(|| format!("it has not ended: {status:?}"))?
        .exit_code)
}
