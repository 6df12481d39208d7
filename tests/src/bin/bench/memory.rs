//! What the programs hold: resident memory without pods and with many, and their sizes on disk.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tests::{Testbed, machine::Machine, pods};
use tokio::time::sleep;

use crate::{
    burst,
    figures::{Figure, Unit},
    follow::{Milestone, times},
    show::step,
    stage::{EDGE, PATIENCE, Stage},
};

/// The label of the pods that are only there.
const APP: &str = "bench-crowd";
/// How many of them each node has.
const CROWD: u16 = 30;
/// Pods that come and go together.
const BATCH: u16 = 20;

/// Right after a rest without pods.
pub(crate) async fn idle(stage: &Stage<'_>) -> Result<Vec<Figure>> {
    let node = &stage.testbed.node.machine;
    let cloudcore = Figure::ours("cloudcore_rss.one_node", Unit::Bytes, cloudcore(node).await?);
    Ok(vec![agents(stage, "edgecore_rss.idle").await?, cloudcore])
}

/// With many pods.
pub(crate) async fn crowded(stage: &Stage<'_>, settle: Duration) -> Result<Figure> {
    let what = format!("{CROWD} pods on each node");
    step(&what, crowd(stage)).await?;
    rest(&what, settle).await?;
    let crowded = agents(stage, "edgecore_rss.pods30").await?;
    step("those pods gone", disperse(stage)).await?;
    Ok(crowded)
}

/// After a hundred pods that came and went, and after all of them.
pub(crate) async fn cycled(stage: &Stage<'_>, pods: u16) -> Result<Vec<Figure>> {
    let api: Api<Pod> = Api::namespaced(stage.testbed.client(), "default");
    let mut figures = Vec::new();
    for (name, count) in [
        ("edgecore_rss.cycles100", 100),
        ("edgecore_rss.cycles_all", pods.saturating_sub(100)),
    ] {
        step(&format!("{count} pods that come and go"), async {
            for _ in 0..count / BATCH {
                times(
                    &api,
                    (APP, usize::from(BATCH)),
                    Milestone::Running,
                    burst::create(&api, EDGE, APP, BATCH),
                )
                .await?;
                burst::delete(&api, APP).await?;
                pods::until_gone(&stage.testbed.client(), &format!("app={APP}"), PATIENCE).await?;
            }
            Ok(())
        })
        .await?;
        let rss = service(&stage.edge.machine, "edgecore").await?;
        figures.push(Figure::ours(name, Unit::Bytes, rss));
    }
    Ok(figures)
}

/// The agents' resident bytes, beside each other.
async fn agents(stage: &Stage<'_>, name: &'static str) -> Result<Figure> {
    let ours = service(&stage.edge.machine, "edgecore").await?;
    Ok(Figure {
        kubelet: Some(service(&stage.testbed.node.machine, "kubelet").await?),
        ..Figure::ours(name, Unit::Bytes, ours)
    })
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
pub(crate) async fn rest(what: &str, settle: Duration) -> Result<()> {
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
        burst::create(&api, node, APP, CROWD).await?;
    }
    pods::until_ready(&client, &format!("app={APP}"), 2 * usize::from(CROWD), PATIENCE)
        .await
        .map(drop)
}

async fn disperse(stage: &Stage<'_>) -> Result<()> {
    let client = stage.testbed.client();
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    burst::delete(&api, APP).await?;
    pods::until_gone(&client, &format!("app={APP}"), PATIENCE).await
}

/// The resident bytes of a machine's service.
pub(crate) async fn service(machine: &Machine, name: &str) -> Result<f64> {
    let status = service_file(machine, name, "status").await?;
    resident(&status).with_context(|| format!("{name} of {}", machine.name()))
}

/// What the kernel says of a machine's service, in a file of its `/proc`.
pub(crate) async fn service_file(machine: &Machine, name: &str, file: &str) -> Result<String> {
    let pid = machine.service_pid(name)?;
    machine.shell(&format!("cat /proc/{pid}/{file}")).await
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
