//! The testbed itself: the stock kubelet runs what an edge node is compared with.

use anyhow::{Result, ensure};
use tests::pods;

use crate::world::{PATIENCE, World, apply, delete, pod, sleepers, sleeping};

crate::tests![
    an_ordinary_node_runs_a_deployment,
    kubectl_exec_reaches_a_pod_of_an_ordinary_node,
    a_machine_without_power_leaves_nothing_but_its_disk,
];

async fn an_ordinary_node_runs_a_deployment(world: &World) -> Result<()> {
    let testbed = world.testbed().await?;
    let name = world.name("sleepers");
    apply(testbed, &sleepers(&name, "w1", 3)).await?;
    let selector = format!("app={name}");
    pods::until_ready(&testbed.client(), &selector, 3, PATIENCE).await?;
    delete(testbed, &["deployment", &name]).await?;
    pods::until_gone(&testbed.client(), &selector, PATIENCE).await
}

async fn kubectl_exec_reaches_a_pod_of_an_ordinary_node(world: &World) -> Result<()> {
    let testbed = world.testbed().await?;
    let name = world.name("pod");
    apply(testbed, &pod(&name, "w1", sleeping())).await?;
    pods::until_ready(&testbed.client(), &format!("app={name}"), 1, PATIENCE).await?;
    let said = testbed
        .kubectl(["exec", &name, "--", "busybox", "hostname"])
        .await?;
    ensure!(said.trim() == name, "the pod's host name is {said:?}");
    delete(testbed, &["pod", &name]).await
}

async fn a_machine_without_power_leaves_nothing_but_its_disk(world: &World) -> Result<()> {
    use tests::machine::{Cable, Machine};
    let testbed = world.testbed().await?;
    let machine = Machine::build(&world.name("m"), &testbed.ground, &testbed.network)?;
    machine.boot(Cable::Plugged).await?;
    machine
        .shell("echo kept > /var/lib/tombolo/note && nohup busybox sleep 1000 >/dev/null 2>&1 &")
        .await?;
    machine.power_off()?;
    ensure!(machine.cgroup().processes()?.is_empty(), "processes are left");
    machine.boot(Cable::Unplugged).await?;
    ensure!(
        machine.shell("cat /var/lib/tombolo/note").await?.trim() == "kept",
        "the disk lost a file"
    );
    ensure!(
        machine.shell("ip link show eth0").await.is_err(),
        "there is a cable"
    );
    machine.power_off()
}
