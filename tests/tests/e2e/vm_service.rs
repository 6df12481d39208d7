//! `edgecore join` and `reset` with a real systemd: the service they install and remove, and what is left on the device.

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tests::{Testbed, cloudcore, pods, testbed::node_back, vm::Vm};

use crate::{
    told::mentions,
    vm::{SLOW, VM, boot, enrol, limited, rejoin},
    world::{World, apply, delete},
};

crate::tests![
    in_a_vm_a_joined_device_has_a_service_and_joining_again_finishes_what_is_left,
    in_a_vm_the_doctor_tells_a_program_that_the_service_does_not_start,
    in_a_vm_a_reset_leaves_nothing_and_what_joins_again_outlives_a_power_cut,
];

/// Where edgecore is installed.
const PROGRAM: &str = "/usr/local/bin/edgecore";

/// What must not be left of a node. A glob that fits nothing is no such file.
const OURS: &str = "/etc/tombolo /etc/kubeedge /var/lib/tombolo /run/tombolo /etc/systemd/system/edgecore.service \
    /etc/systemd/system/*.wants/edgecore.service /etc/cni/net.d/90-tombolo.conflist /var/lib/cni/networks/tombolo \
    /usr/lib/cni/tombolo /opt/cni/bin/tombolo /run/tombolo-addresses \
    /var/lib/kubelet/pods /var/log/pods/* /var/log/containers/* /sys/class/net/tombolo0 /sys/fs/cgroup/kubepods*";

/// Holds that the service is installed, enabled and active, and gives its process.
async fn service(vm: &Vm) -> Result<String> {
    let properties = "--property=ActiveState,SubState,UnitFileState,FragmentPath,NeedDaemonReload,MainPID";
    let shown = vm.shell(&format!("systemctl show {properties} edgecore")).await?;
    let expected = [
        "ActiveState=active",
        "SubState=running",
        "UnitFileState=enabled",
        "FragmentPath=/etc/systemd/system/edgecore.service",
        "NeedDaemonReload=no",
    ];
    mentions(&shown, &expected)?;
    let pid = shown.lines().find_map(|line| line.strip_prefix("MainPID="));
    let pid = pid.with_context(|| shown.clone())?;
    let exe = vm.shell(&format!("readlink /proc/{pid}/exe")).await?;
    ensure!(exe.trim() == PROGRAM, "the service runs {exe}");
    Ok(pid.to_owned())
}

async fn in_a_vm_a_joined_device_has_a_service_and_joining_again_finishes_what_is_left(
    world: &World,
) -> Result<()> {
    let (testbed, vm) = world.with_vm().await?;
    let pid = service(vm).await?;

    let said = rejoin(testbed, vm, "").await?;
    mentions(
        &said,
        &["already joined this cluster as vm1", "nothing is changed"],
    )?;
    ensure!(service(vm).await? == pid, "the service was restarted: {said}");

    let refused = rejoin(testbed, vm, "--node-name another").await;
    let Err(refused) = refused else {
        bail!("a joined device joined under another name")
    };
    let words = [
        "already joined a cluster as vm1",
        "--replace-cluster",
        "edgecore reset",
    ];
    mentions(&format!("{refused:#}"), &words)?;
    ensure!(
        service(vm).await? == pid,
        "the service was restarted: {refused:#}"
    );

    // As after a power cut behind the configuration.
    vm.shell("systemctl disable --now edgecore && rm /etc/systemd/system/edgecore.service")
        .await?;
    let said = rejoin(testbed, vm, "").await?;
    mentions(&said, &["the service edgecore is started"])?;
    service(vm).await.map(drop)
}

async fn in_a_vm_the_doctor_tells_a_program_that_the_service_does_not_start(world: &World) -> Result<()> {
    let (_, vm) = world.with_vm().await?;
    program(vm, PROGRAM, ["ok", &format!("{PROGRAM} everywhere"), ""]).await?;

    vm.shell(&format!("cp {PROGRAM} /opt/newer && echo >>/opt/newer"))
        .await?;
    let another = [
        "warning",
        "this doctor is /opt/newer, and the service starts",
        "install it there",
    ];
    program(vm, "/opt/newer", another).await?;

    vm.shell(&format!("mv /opt/newer {PROGRAM}")).await?;
    let replaced = [
        "warning",
        "was replaced, and the one from before still runs",
        "systemctl restart",
    ];
    program(vm, PROGRAM, replaced).await?;
    vm.shell("systemctl restart edgecore").await?;
    program(vm, PROGRAM, ["ok", "everywhere", ""]).await?;
    service(vm).await.map(drop)
}

/// Holds what the doctor says of the programs: how they are, in which words, and with which remedy.
async fn program(vm: &Vm, doctor: &str, [level, seen, remedy]: [&str; 3]) -> Result<()> {
    // It ends with 1 when something else has failed.
    let said = vm.shell(&format!("{doctor} doctor; test $? -le 1")).await?;
    let mut lines = said.lines().skip_while(|line| !line.contains(" program "));
    let line = lines
        .next()
        .with_context(|| format!("nothing of the program: {said}"))?;
    ensure!(line.starts_with(level), "not {level}: {line}");
    mentions(line, &[seen])?;
    mentions(lines.next().unwrap_or_default(), &[remedy])
}

async fn in_a_vm_a_reset_leaves_nothing_and_what_joins_again_outlives_a_power_cut(
    world: &World,
) -> Result<()> {
    let (testbed, vm) = world.with_vm().await?;
    run_a_pod(testbed).await?;
    let said = vm.shell("edgecore reset --yes").await?;
    mentions(
        &said,
        &["the service edgecore is stopped", "what join wrote is removed"],
    )?;
    nothing_is_left(vm).await?;
    let said = vm.shell("edgecore reset --yes").await?;
    mentions(&said, &["has not joined a cluster", "nothing is to be removed"])?;

    cloudcore::exec(testbed, &["node", "remove", VM]).await?;
    // Its pods would run again if it were back before anybody collects them.
    delete(testbed, &["pod", "vm-left", "--grace-period=0", "--force"]).await?;
    reboot(vm).await?;
    nothing_is_left(vm).await?;
    let said = enrol(testbed, vm).await?;
    mentions(&said, &["enrolled as vm1", "the service edgecore is started"])?;
    service(vm).await?;
    // It said that it will be at every boot.
    reboot(vm).await?;
    node_back(&testbed.client(), VM, SLOW).await?;
    service(vm).await.map(drop)
}

/// Takes the power away, and gives it back.
async fn reboot(vm: &Vm) -> Result<()> {
    vm.cut_power()?;
    boot(vm).await
}

/// A pod with a log and a volume.
async fn run_a_pod(testbed: &Testbed) -> Result<()> {
    let mut pod = limited("vm-left", json!({}));
    pod["metadata"]["labels"]["of"] = json!("reset");
    pod["spec"]["volumes"] = json!([{ "name": "room", "emptyDir": { "medium": "Memory" } }]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "room", "mountPath": "/room" }]);
    apply(testbed, &pod).await?;
    pods::until_ready(&testbed.client(), "of=reset", 1, SLOW)
        .await
        .map(drop)
}

async fn nothing_is_left(vm: &Vm) -> Result<()> {
    let files = format!("ls -d {OURS} 2>/dev/null");
    let looks = [
        files.as_str(),
        "ctr -n k8s.io containers list -q",
        "pgrep --list-full --exact edgecore",
        "grep -E 'tombolo|kubelet' /proc/mounts",
        "systemctl list-units --all --plain --no-legend 'edgecore*' 'kubepods*'",
    ];
    let left = vm.shell(&format!("{}; true", looks.join("; "))).await?;
    ensure!(left.trim().is_empty(), "it is left:\n{left}");
    Ok(())
}
