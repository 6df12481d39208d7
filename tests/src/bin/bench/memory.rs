//! What the programs hold: resident memory without pods and with many, and their sizes on disk.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use tests::{Testbed, machine::Machine, pods};
use tokio::time::sleep;

use crate::{
    figures::{Figure, Unit},
    show::step,
    stage::{EDGE, PATIENCE, Stage},
    starts::pod,
};

/// The label of the pods that are only there.
const APP: &str = "bench-crowd";
/// How many of them each node has.
const CROWD: usize = 30;

pub(crate) async fn measure(stage: &Stage<'_>, settle: Duration) -> Result<Vec<Figure>> {
    let (edge, node) = (&stage.edge.machine, &stage.testbed.node.machine);
    rest("without pods", settle).await?;
    let idle = Figure {
        kubelet: Some(service(node, "kubelet").await?),
        ..Figure::ours("edgecore_rss.idle", Unit::Bytes, service(edge, "edgecore").await?)
    };
    let cloudcore = Figure::ours("cloudcore_rss.one_node", Unit::Bytes, cloudcore(node).await?);
    let what = format!("{CROWD} pods on each node");
    step(&what, crowd(stage)).await?;
    rest(&what, settle).await?;
    let crowded = Figure {
        kubelet: Some(service(node, "kubelet").await?),
        ..Figure::ours(
            "edgecore_rss.pods30",
            Unit::Bytes,
            service(edge, "edgecore").await?,
        )
    };
    step("those pods gone", disperse(stage)).await?;
    Ok(vec![idle, crowded, cloudcore])
}

/// The binaries under test, and the stock kubelet's.
pub(crate) fn binaries(testbed: &Testbed) -> Result<Vec<Figure>> {
    let programs = &testbed.programs;
    let edgecore = Figure::ours("edgecore_binary", Unit::Bytes, size(&programs.edgecore)?);
    let cloudcore = Figure::ours("cloudcore_binary", Unit::Bytes, size(&programs.cloudcore)?);
    let kubelet = Some(size(&testbed.cache.program("kubelet")?)?);
    Ok(vec![Figure { kubelet, ..edgecore }, cloudcore])
}

/// A span in which nothing is asked of anyone: memory that settles has no condition to wait for.
async fn rest(what: &str, settle: Duration) -> Result<()> {
    step(&format!("{settle:?} of rest, {what}"), async {
        sleep(settle).await;
        Ok(())
    })
    .await
}

async fn crowd(stage: &Stage<'_>) -> Result<()> {
    let client = stage.testbed.client();
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    for node in [EDGE, stage.testbed.node.machine.name()] {
        for index in 1..=CROWD {
            let pod = pod(&format!("crowd-{node}-{index}"), node, APP);
            api.create(&PostParams::default(), &serde_json::from_value(pod)?)
                .await?;
        }
    }
    pods::until_ready(&client, &format!("app={APP}"), 2 * CROWD, PATIENCE)
        .await
        .map(drop)
}

async fn disperse(stage: &Stage<'_>) -> Result<()> {
    let client = stage.testbed.client();
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    let selector = format!("app={APP}");
    let crowd = ListParams::default().labels(&selector);
    api.delete_collection(&DeleteParams::default(), &crowd).await?;
    pods::until_gone(&client, &selector, PATIENCE).await
}

/// The resident bytes of a machine's service.
async fn service(machine: &Machine, name: &str) -> Result<f64> {
    let pid = machine.service_pid(name)?;
    let status = machine.shell(&format!("cat /proc/{pid}/status")).await?;
    resident(&status).with_context(|| format!("{name} of {}", machine.name()))
}

/// The resident bytes of cloudcore, which is a container on the cluster's node.
async fn cloudcore(node: &Machine) -> Result<f64> {
    let status = node.shell("cat /proc/$(busybox pidof cloudcore)/status").await?;
    resident(&status).context("cloudcore")
}

fn resident(status: &str) -> Result<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes: u32 = line
        .and_then(|line| line.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse().ok())
        .context("no VmRSS in its /proc/.../status")?;
    Ok(f64::from(kilobytes) * 1024.0)
}

fn size(program: &Path) -> Result<f64> {
    let bytes = fs::metadata(program)?.len();
    Ok(f64::from(u32::try_from(bytes)?))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_bytes() {
        let status = "Name:\tedgecore\nVmHWM:\t  14000 kB\nVmRSS:\t   12000 kB\n";
        assert!((resident(status).unwrap() - 12_288_000.0).abs() < 0.5);
        assert!(resident("Name:\tkthreadd\n").is_err());
    }
}
