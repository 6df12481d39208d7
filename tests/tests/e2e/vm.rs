//! What only a machine with cgroup v2, systemd and a power cord can show.
//!
//! The figures of the control groups are those that the stock kubelet 1.36.3 set for the same pods in this very machine
//! (containerd 2.4.2, runc 1.5.2, systemd 252, Linux 6.1), run by hand.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tests::{
    Testbed, cloudcore,
    machine::Cable,
    pods,
    testbed::{node_back, node_ready},
    vm::{Driver, Vm},
    wait::{Look, until},
};

use crate::world::{World, apply, delete, pod, sleeping};

crate::tests![
    in_a_vm_pods_are_limited_as_the_kubelet_limits_them,
    in_a_vm_a_container_out_of_memory_ends_as_a_whole,
    in_a_vm_a_restart_spares_pods_and_a_deleted_one_leaves_no_slice,
    in_a_vm_pods_run_again_after_a_power_cut_without_a_network,
];

/// The machine's name and the node's.
pub(crate) const VM: &str = "vm1";
/// A processor is emulated there, and another may be at work beside it.
pub(crate) const SLOW: Duration = Duration::from_mins(4);
/// The files that limit a cgroup.
const FILES: &str = "cpu.max cpu.weight memory.max memory.min memory.low memory.high memory.swap.max memory.oom.group pids.max hugetlb.2MB.max";

/// What a stock kubelet's pod of each class has: its slice, and the container in it.
const EACH: [(&str, &str, &str, &str); 3] = [
    (
        "vm-guaranteed",
        "",
        "cpu.max=34000 100000, cpu.weight=13, memory.max=67108864",
        "cpu.max=34000 100000, cpu.weight=43, memory.max=67108864",
    ),
    (
        "vm-burstable",
        "burstable",
        "cpu.max=max 100000, cpu.weight=4, memory.max=100663296",
        "cpu.max=max 100000, cpu.weight=17, memory.max=100663296",
    ),
    (
        "vm-besteffort",
        "besteffort",
        "cpu.max=max 100000, cpu.weight=1, memory.max=max",
        "cpu.max=max 100000, cpu.weight=1, memory.max=max",
    ),
];
/// What all of them have besides.
const REST: &str = "memory.min=0, memory.low=0, memory.high=max";
const SLICE_REST: &str = "memory.swap.max=max, memory.oom.group=0, pids.max=max, hugetlb.2MB.max=0";
const CONTAINER_REST: &str = "memory.swap.max=0, memory.oom.group=1";

/// Boots the machine; returns when its container runtime answers.
pub(crate) async fn boot(vm: &Vm) -> Result<()> {
    vm.boot(Cable::Plugged).await?;
    until("containerd of the machine", SLOW, || async {
        vm.shell("ctr version").await.map(Look::Done)
    })
    .await
    .map(drop)
}

/// Boots the machine and has it join.
pub(crate) async fn join(testbed: &Testbed, driver: Driver) -> Result<Vm> {
    let vm = Vm::build(VM, testbed, driver)?;
    boot(&vm).await?;
    for image in ["pause", "busybox"] {
        vm.shell(&format!("ctr -n k8s.io images import /extra/images/{image}.tar"))
            .await?;
    }
    // The image has no such directory yet.
    vm.shell("install -D -m 755 /extra/edgecore /usr/local/bin/edgecore")
        .await?;
    enrol(testbed, &vm).await?;
    node_ready(&testbed.client(), VM, SLOW)
        .await
        .with_context(|| format!("its console: {}", vm.console().display()))?;
    Ok(vm)
}

/// `edgecore join` as docs/install.md has it, with a token of its own. It writes the service and starts it.
///
/// Another test may just have killed cloudcore: both steps are repeated, as an operator would.
pub(crate) async fn enrol(testbed: &Testbed, vm: &Vm) -> Result<String> {
    let token = until("a join token", SLOW, || async {
        cloudcore::token(testbed, &[]).await.map(Look::Done)
    })
    .await?;
    vm.shell(&format!("echo {token} >/root/token")).await?;
    until("the machine to join", SLOW, || async {
        rejoin(testbed, vm, "").await.map(Look::Done)
    })
    .await
}

/// The same with the token that is there, and with more words.
pub(crate) async fn rejoin(testbed: &Testbed, vm: &Vm, words: &str) -> Result<String> {
    let (address, port) = (testbed.node.machine.address(), cloudcore::NODE_PORT);
    let line = format!("edgecore join {address}:{port} --token-file /root/token {words}");
    vm.shell(&line).await
}

pub(crate) fn limited(name: &str, resources: Value) -> Value {
    let mut container = sleeping();
    container["resources"] = resources;
    let mut pod = pod(name, VM, container);
    pod["metadata"]["labels"]["of"] = json!("vm");
    pod
}

/// One pod of each class of service.
fn one_of_each() -> Value {
    let guaranteed = json!({ "cpu": "333m", "memory": "64Mi" });
    let items = [
        limited(
            "vm-guaranteed",
            json!({ "requests": guaranteed, "limits": guaranteed }),
        ),
        limited(
            "vm-burstable",
            json!({ "requests": { "cpu": "100m", "memory": "32Mi" }, "limits": { "memory": "96Mi" } }),
        ),
        limited("vm-besteffort", json!({})),
    ];
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

async fn run_one_of_each(testbed: &Testbed) -> Result<Vec<Pod>> {
    apply(testbed, &one_of_each()).await?;
    pods::until_ready(&testbed.client(), "of=vm", 3, SLOW).await
}

/// The values of [`FILES`] of a cgroup, those it has.
async fn limits(vm: &Vm, path: &str) -> Result<String> {
    let line =
        format!("cd /sys/fs/cgroup/{path} && for f in {FILES}; do [ ! -e $f ] || echo $f=$(cat $f); done");
    Ok(vm.shell(&line).await?.lines().collect::<Vec<_>>().join(", "))
}

fn uid(found: &[Pod], name: &str) -> Result<String> {
    let pod = found.iter().find(|pod| pods::name(pod) == name);
    pod.and_then(|pod| pod.metadata.uid.clone())
        .with_context(|| format!("no pod {name}"))
}

/// The slice of a pod below `kubepods.slice`.
fn slice(class: &str, uid: &str) -> String {
    let uid = uid.replace('-', "_");
    match class {
        "" => format!("kubepods.slice/kubepods-pod{uid}.slice"),
        _ => format!("kubepods.slice/kubepods-{class}.slice/kubepods-{class}-pod{uid}.slice"),
    }
}

/// The task of the pod's container `main` as `ctr` lists it: id, process, state; nothing while it does not run.
async fn task(vm: &Vm, uid: &str) -> Result<String> {
    let filter =
        format!(r#"labels."io.kubernetes.pod.uid"=="{uid}",labels."io.kubernetes.container.name"=="main""#);
    let line = format!(
        "tasks=$(ctr -n k8s.io tasks list); for id in $(ctr -n k8s.io containers list -q '{filter}'); \
         do echo \"$tasks\" | grep \"^$id .*RUNNING\"; done; true"
    );
    Ok(vm.shell(&line).await?.trim().to_owned())
}

/// The cgroup of the running container `main` below its pod's.
async fn scope(vm: &Vm, uid: &str) -> Result<String> {
    let task = task(vm, uid).await?;
    let id = task.split_whitespace().next();
    let id = id.with_context(|| format!("no container of pod {uid} runs"))?;
    Ok(format!("cri-containerd-{id}.scope"))
}

async fn in_a_vm_pods_are_limited_as_the_kubelet_limits_them(world: &World) -> Result<()> {
    let (testbed, vm) = world.with_vm().await?;
    let found = run_one_of_each(testbed).await?;
    let memory = vm
        .shell("sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo")
        .await?;
    let memory = memory.trim().parse::<u64>()? * 1024;
    let all = limits(vm, "kubepods.slice").await?;
    // Two processors, and all the memory there is.
    let expected = format!("cpu.max=max 100000, cpu.weight=79, memory.max={memory}, {REST}, ");
    ensure!(
        all.starts_with(&expected),
        "all pods together have\n{all}, not\n{expected}"
    );
    // What systemd gives to each unit that does not say otherwise.
    let tasks = vm
        .shell("systemctl show --value --property=DefaultTasksMax")
        .await?;
    let tasks = format!("pids.max={}, hugetlb.2MB.max=max", tasks.trim());
    for (name, class, of_pod, of_container) in EACH {
        let uid = uid(&found, name)?;
        let slice = slice(class, &uid);
        let seen = limits(vm, &slice).await?;
        let expected = format!("{of_pod}, {REST}, {SLICE_REST}");
        ensure!(seen == expected, "{name}: its slice has\n{seen}, not\n{expected}");
        let seen = limits(vm, &format!("{slice}/{}", scope(vm, &uid).await?)).await?;
        let expected = format!("{of_container}, {REST}, {CONTAINER_REST}, {tasks}");
        ensure!(
            seen == expected,
            "{name}: its container has\n{seen}, not\n{expected}"
        );
        // The slices are systemd's own, or it would take them away.
        let unit = slice.rsplit('/').next().unwrap_or_default();
        let line = format!("systemctl show --value --property=ActiveState,Transient {unit} | xargs");
        let state = vm.shell(&line).await?;
        ensure!(state.trim() == "active yes", "{unit} is {state}");
    }
    Ok(())
}

async fn in_a_vm_a_container_out_of_memory_ends_as_a_whole(world: &World) -> Result<()> {
    let (testbed, _) = world.with_vm().await?;
    // containerd reads of the lack of memory in the container's cgroup, which goes with the container:
    // now and then, on a slow machine, it never knows.
    for round in 1..=3 {
        let (reason, code) = run_out_of_memory(testbed).await?;
        ensure!(code == 137, "the container ended with {reason:?}, {code}");
        match reason.as_deref() {
            Some("OOMKilled") => return Ok(()),
            Some("Error") => println!("round {round}: the runtime did not tell why"),
            other => bail!("the container ended with {other:?}"),
        }
    }
    bail!("no container of three was said to be OOMKilled")
}

/// How a pod ends whose container takes more memory than it may.
async fn run_out_of_memory(testbed: &Testbed) -> Result<(Option<String>, i32)> {
    let mut greedy = limited("vm-greedy", json!({ "limits": { "memory": "24Mi" } }));
    greedy["metadata"]["labels"]["of"] = json!("greed");
    greedy["spec"]["restartPolicy"] = json!("Never");
    // The first process would wait for ever: it ends because another one of its container is killed.
    greedy["spec"]["containers"][0]["command"] = json!([
        "busybox",
        "sh",
        "-c",
        "(sleep 2; exec busybox tail /dev/zero) & while true; do sleep 1; done"
    ]);
    apply(testbed, &greedy).await?;
    let end = until("the end of the greedy pod", SLOW, || async {
        let found = pods::list(&testbed.client(), "default", "of=greed").await?;
        let ended = found.first().and_then(ended);
        Ok(Look::from_option(ended, || pods::table(&found)))
    })
    .await?;
    delete(testbed, &["pod", "vm-greedy"]).await?;
    pods::until_gone(&testbed.client(), "of=greed", SLOW).await?;
    Ok(end)
}

fn ended(pod: &Pod) -> Option<(Option<String>, i32)> {
    let state = pods::containers(pod).first()?.state.as_ref()?;
    let ended = state.terminated.as_ref()?;
    Some((ended.reason.clone(), ended.exit_code))
}

async fn in_a_vm_a_restart_spares_pods_and_a_deleted_one_leaves_no_slice(world: &World) -> Result<()> {
    let (testbed, vm) = world.with_vm().await?;
    let before = run_one_of_each(testbed).await?;
    let tasks = tasks(vm, &before).await?;
    vm.shell("systemctl restart edgecore").await?;
    node_back(&testbed.client(), VM, SLOW).await?;
    let after = self::tasks(vm, &before).await?;
    ensure!(
        tasks == after,
        "processes before: {tasks:?}\nand after: {after:?}"
    );

    let gone = slice("burstable", &uid(&before, "vm-burstable")?);
    delete(testbed, &["pod", "vm-burstable"]).await?;
    pods::until_gone(&testbed.client(), "app=vm-burstable", SLOW).await?;
    until("no slice of the deleted pod", SLOW, || async {
        let unit = gone.rsplit('/').next().unwrap_or_default();
        let line = format!(
            "systemctl list-units --all --plain --no-legend '{unit}'; ls -d /sys/fs/cgroup/{gone} 2>&1"
        );
        let left = vm
            .shell(&format!("{line} | grep -v 'No such file' || true"))
            .await?;
        Ok(Look::when(left.trim().is_empty(), || left.clone()))
    })
    .await?;
    let others = vm
        .shell("systemctl list-units --plain --no-legend 'kubepods*.slice'")
        .await?;
    ensure!(
        others.lines().count() == 5,
        "slices that should be left: {others}"
    );
    Ok(())
}

/// The pods' containers with their processes; each of them must run.
async fn tasks(vm: &Vm, pods: &[Pod]) -> Result<Vec<String>> {
    let mut tasks = Vec::new();
    for pod in pods {
        let task = task(vm, pod.metadata.uid.as_deref().unwrap_or_default()).await?;
        ensure!(!task.is_empty(), "{} does not run", pods::name(pod));
        tasks.push(task);
    }
    Ok(tasks)
}

async fn in_a_vm_pods_run_again_after_a_power_cut_without_a_network(world: &World) -> Result<()> {
    let (testbed, vm) = world.with_vm().await?;
    let before = run_one_of_each(testbed).await?;
    vm.cut_power()?;
    vm.boot(Cable::Unplugged).await?;
    until("every pod's container running", SLOW, || async {
        tasks(vm, &before).await.map(Look::Done)
    })
    .await?;
    offline_status(vm).await?;

    vm.plug_in().await?;
    node_back(&testbed.client(), VM, SLOW).await?;
    let after = pods::until_ready(&testbed.client(), "of=vm", 3, SLOW).await?;
    for pod in &before {
        ensure!(
            uid(&after, pods::name(pod))? == pod.metadata.uid.clone().unwrap_or_default(),
            "{} was made anew",
            pods::name(pod)
        );
    }
    vm.cut_power()?;
    cloudcore::exec(testbed, &["node", "remove", VM]).await.map(drop)
}

/// edgecore answers without a link, and knows its pods.
async fn offline_status(vm: &Vm) -> Result<()> {
    let answers = until("edgecore status without a link", SLOW, || async {
        let status = vm.shell("edgecore status").await?;
        Ok(Look::when(status.contains("vm-guaranteed"), || status.clone()))
    })
    .await;
    if let Err(error) = answers {
        let journal = vm.shell("journalctl --no-pager -u edgecore | tail -n 30").await?;
        return Err(error.context(format!("its journal:\n{journal}")));
    }
    Ok(())
}
