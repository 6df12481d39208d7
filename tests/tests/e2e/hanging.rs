//! Pods whose network plugin, or whose OCI runtime, hangs for ever.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tests::{
    EdgeMachine, Testbed, pods,
    wait::{Look, until},
};

use crate::world::{EDGE, PATIENCE, World, apply, delete, pod, sleeping, until_pod};

crate::tests![
    a_pod_whose_network_plugin_hangs_can_be_deleted_and_keeps_no_other_from_starting,
    a_pod_whose_container_hangs_as_it_starts_can_be_deleted_and_keeps_no_other_from_starting,
];

/// Of what is deleted: nothing of it runs, so nothing waits for its end.
const GRACE: i64 = 300;
/// How long such a deletion may take: much longer than ten seconds, and less than what the call may, two minutes or four.
const SOON: Duration = Duration::from_mins(1);

async fn a_pod_whose_network_plugin_hangs_can_be_deleted_and_keeps_no_other_from_starting(
    world: &World,
) -> Result<()> {
    let (testbed, edge) = world.with_edge().await?;
    let loopback = testbed.cache.cni()?.join("loopback");
    let name = world.name("hangs");
    let of_it = format!(r#"case "$CNI_COMMAND$CNI_ARGS" in ADD*K8S_POD_NAME={name}*)"#);
    let before = networks(edge).await?;
    hangs_and_heals(world, &name, (&loopback, &of_it)).await?;
    let after = networks(edge).await?;
    ensure!(after.is_subset(&before), "{before:?} became {after:?}");
    Ok(())
}

/// The network namespaces of pods, and who has an address.
async fn networks(edge: &EdgeMachine) -> Result<BTreeSet<String>> {
    let look = "ls /run/netns; cd /run/tombolo-addresses && readlink [0-9]*; true";
    let list = edge.machine.shell(look).await?;
    Ok(list.lines().map(str::to_owned).collect())
}

async fn a_pod_whose_container_hangs_as_it_starts_can_be_deleted_and_keeps_no_other_from_starting(
    world: &World,
) -> Result<()> {
    let testbed = world.with_cloudcore().await?;
    let runc = testbed.cache.program("runc")?;
    let name = world.name("hangs");
    // The sandbox's own container is made, the pod's is not.
    let of_it = format!(
        r#"bundle=$(echo "$*" | grep -o 'create --bundle [^ ]*' | cut -d ' ' -f 3)
        grep -q '"io.kubernetes.cri.sandbox-name":"{name}"' "$bundle/config.json" 2>/dev/null &&
        grep -q '"io.kubernetes.cri.container-type":"container"' "$bundle/config.json"
        case $? in 0)"#
    );
    hangs_and_heals(world, &name, (&runc, &of_it)).await
}

/// Deletes a pod for which a program hangs while others start; then the program is as it was, and the pod's name can be
/// used again.
async fn hangs_and_heals(world: &World, name: &str, hanging: (&Path, &str)) -> Result<()> {
    let (testbed, edge) = world.with_edge().await?;
    let hang = Hang::begin(edge, hanging).await?;
    let deleted = delete_while_it_hangs(world, name, &hang).await;
    hang.end().await?;
    let uid = deleted?;
    until("nothing left of it in the runtime", PATIENCE, || async {
        let left = edge.of_pod(&uid).await?;
        Ok(Look::when(left.is_empty(), || format!("{left:?}")))
    })
    .await?;
    let again = pod(name, EDGE, sleeping());
    apply(testbed, &again).await?;
    until_pod(testbed, name, pods::is_ready).await?;
    end(testbed, name).await
}

/// The UID of the pod.
async fn delete_while_it_hangs(world: &World, name: &str, hang: &Hang<'_>) -> Result<String> {
    let testbed = world.testbed().await?;
    let mut wanted = pod(name, EDGE, sleeping());
    wanted["spec"]["terminationGracePeriodSeconds"] = json!(GRACE);
    apply(testbed, &wanted).await?;
    hang.until_it_hangs().await?;
    let uid = |pod: Pod| pod.metadata.uid.context("no uid");
    let uid = uid(until_pod(testbed, name, |_| true).await?)?;
    let other = world.name("other");
    apply(testbed, &pod(&other, EDGE, sleeping())).await?;
    until_pod(testbed, &other, pods::is_ready).await?;
    delete(testbed, &["pod", name]).await?;
    pods::until_gone(&testbed.client(), &format!("app={name}"), SOON).await?;
    // And after that too.
    end(testbed, &other).await?;
    apply(testbed, &pod(&other, EDGE, sleeping())).await?;
    until_pod(testbed, &other, pods::is_ready).await?;
    end(testbed, &other).await?;
    Ok(uid)
}

async fn end(testbed: &Testbed, name: &str) -> Result<()> {
    delete(testbed, &["pod", name]).await?;
    pods::until_gone(&testbed.client(), &format!("app={name}"), PATIENCE).await
}

/// A program of the device that hangs where a condition holds, until this is ended.
struct Hang<'a> {
    edge: &'a EdgeMachine,
    program: String,
}

impl<'a> Hang<'a> {
    /// Puts another program over this one, in the machine alone; it hangs after `case`, the head of a shell's case.
    async fn begin(edge: &'a EdgeMachine, (program, case): (&Path, &str)) -> Result<Self> {
        let program = program.display().to_string();
        let script = format!(
            "#!/bin/sh\n{case} echo $$ > {DIR}/hangs; exec sleep 1000000;; esac\nexec {DIR}/as-it-was \"$@\"\n"
        );
        let file = edge.machine.file(&format!("{DIR}/hanging"));
        std::fs::create_dir_all(file.parent().context("no directory")?)?;
        std::fs::write(file, script)?;
        edge.machine
            .shell(&format!(
                "cd {DIR} && rm -f hangs && cp {program} as-it-was && chmod +x hanging && mount --bind hanging {program}"
            ))
            .await?;
        Ok(Self { edge, program })
    }

    async fn until_it_hangs(&self) -> Result<()> {
        until("the program to hang", PATIENCE, || async {
            let hangs = self
                .edge
                .machine
                .shell(&format!("kill -0 $(cat {DIR}/hangs)"))
                .await;
            Ok(Look::when(hangs.is_ok(), || format!("{hangs:?}")))
        })
        .await
    }

    async fn end(self) -> Result<()> {
        let words = format!("umount {}", self.program);
        self.edge.machine.shell(&words).await.map(drop)
    }
}

/// Of the programs, on the device.
const DIR: &str = "/var/tmp/hang";
