//! `make bench`: what an edge node costs beside the stock kubelet, measured in one run.
//!
//! Judges nothing: it prints a table and writes `target/bench.json`. Like the demo it leaves nothing
//! behind, however it ends.

mod burst;
mod devices;
mod figures;
mod floor;
mod follow;
mod memory;
#[path = "../demo/show.rs"]
mod show;
mod stage;
mod starts;
mod stolen;
mod wire;
mod workload;

use std::{fs, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use tests::{Testbed, programs::workspace};

use crate::{
    figures::{Figure, Report, Unit},
    show::{note, tear_down},
    wire::Reading,
};

/// Where the figures are written, below the workspace.
const REPORT: &str = "target/bench.json";

/// Measures an edge node beside the stock kubelet, on one testbed of this machine.
#[derive(Debug, Parser)]
#[command(after_long_help = HELP)]
struct Args {
    /// How long the programs are left alone before their memory is read, without pods and again
    /// with pods; such as 30s for a quick look
    #[arg(long, default_value = "5m", value_parser = span)]
    settle: Duration,

    /// How many single pods are started on each node
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    pods: u16,

    /// How many pods come and go, twenty at a time, before edgecore's memory is read once more;
    /// such as 1000, which takes several minutes
    #[arg(long, value_parser = clap::value_parser!(u16).range(200..))]
    cycles: Option<u16>,

    /// Measure one group alone, and write nothing down
    #[arg(long)]
    only: Option<Group>,
}

/// Figures that are measured together, without a rest before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    /// `pod_start`
    Starts,
    /// `burst60`
    Burst,
    /// `deployment10` and `configmap_to_file`
    Workload,
    /// Memory and bytes at rest, with --settle as each of the rests
    Rest,
    /// What devices cost, with --settle as the rest before it
    Devices,
}

const HELP: &str = "\
What is measured (w1 is a node with the stock kubelet, e1 an edge node):
  pod_start.p50, .p90     one pod, image present: from just before the create request
                          to the watch event with phase Running; w1 and e1 in turn, in
                          random order, with random pauses
  burst60.median, .last   60 pods at once: until half of them run, and all; the median of
                          five rounds, in each of which all take turns in random order
  burst60.deleted         their deletion by one request, until the last is gone; likewise
  deployment10.running    a Deployment of 10 with a ConfigMap volume and the default
                          token, sent by the scheduler: until all run
  configmap_to_file.p50   a changed ConfigMap: from the patch request to the file
  edgecore_rss.idle       VmRSS after --settle, with no pods
  edgecore_rss.pods30     VmRSS after --settle, with 30 sleeping pods on each node
  edgecore_rss.cycles100, .cycles_all
                          with --cycles: VmRSS after 100 pods that came and went, and
                          after all of them
  cloudcore_rss.one_node  VmRSS after --settle, with one edge node and no pods
  edgecore_binary, cloudcore_binary
                          sizes of the release binaries
  idle_bytes_day.quic, .websocket
                          what a node without pods receives and sends at the IP layer
                          during --settle, as bytes a day
  token_bytes_day_pod     what a pod with the default token adds to that: its share of
                          what ten pods add at rest, and one fetch of the token, which
                          edgecore renews once a day
  flash_bytes_day.pods10  what the agent has the kernel write to the disk during --settle
                          with ten pods, as bytes a day
  twin_updates_per_s      accepted updates of 100 devices with 10 properties, 200 bytes
                          each: those whose result has come to their sender
  twin_latency_1000.p99   at 1000 updates a second, from the publish to the document at
                          a listener on the node
  twin_report_to_cr.p50   10 devices at 1/s: from the publish to the DeviceStatus
  edgecore_rss.devices100 VmRSS after --settle, with those devices and no pods
  flash_bytes_day.devices100
                          100 counters at 1/s: what edgecore has the kernel write to the
                          disk during --settle, as bytes a day

Columns:
  ours
  kubelet  the stock kubelet's figure from the same run
  floor    the container runtime alone (run sandbox, create container, start container),
           measured in turn with the other two, on a device of its own; with devices
           the same load with a stub in edgecore's place that answers and keeps nothing

The control plane is on the same machine. While pods are started one by one, and while updates of
devices are timed and counted, it gets only the processor that the nodes leave (SCHED_IDLE), as
if it ran somewhere else, and so does w1 with cloudcore where only devices are concerned; with the
rest they compete. What the machine beneath a virtual one took meanwhile is told: no latency of
some milliseconds can be better than that.

The table is printed, and written to target/bench.json in bytes and milliseconds, with null
where there is no such figure. Nothing else should run on the machine meanwhile. With the
defaults it takes about half an hour; with ARGS='--settle 30s' about a third of that, but then
memory is not what it settles at, and a day is extrapolated from little.";

fn span(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text
        .parse()
        .map_err(|error| format!("{error}; write 30s or 5m"))?;
    Duration::try_from(span).map_err(|_| String::from("must not be negative"))
}

fn main() -> ExitCode {
    tests::enter();
    devices::enter();
    let args = Args::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    match runtime.block_on(run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("\nbench: failed: {error:#}");
    ExitCode::FAILURE
}

async fn run(args: &Args) -> Result<()> {
    let testbed = tokio::select! {
        testbed = stage::cluster() => testbed?,
        interrupted = tokio::signal::ctrl_c() => return interrupted.map_err(Into::into),
    };
    let outcome = tokio::select! {
        figures = measure(&testbed, args) => figures.map(Some),
        interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| None).map_err(Into::into),
    };
    tear_down(testbed, outcome.is_ok()).await?;
    outcome?.map_or(Ok(()), |figures| publish(args, figures))
}

async fn measure(testbed: &Testbed, args: &Args) -> Result<Vec<Figure>> {
    stage::cloudcore(testbed).await?;
    if args.only == Some(Group::Devices) {
        return Box::pin(devices::measure(testbed, args.settle)).await;
    }
    let stage = stage::Stage::build(testbed).await?;
    match args.only {
        Some(Group::Starts) => return starts::measure(&stage, args.pods).await,
        Some(Group::Burst) => return burst::measure(&stage).await,
        Some(Group::Workload) => return Box::pin(workload::measure(&stage)).await,
        Some(Group::Rest | Group::Devices) | None => {}
    }
    // Memory first: the bar is about programs that have just started.
    let mut held = at_rest(&stage, args.settle).await?;
    if args.only == Some(Group::Rest) {
        held.extend(cycled(&stage, args).await?);
        held.push(wire::websocket(&stage, args.settle).await?);
        return Ok(held);
    }
    let mut figures = starts::measure(&stage, args.pods).await?;
    figures.extend(burst::measure(&stage).await?);
    figures.extend(Box::pin(workload::measure(&stage)).await?);
    figures.append(&mut held);
    figures.extend(cycled(&stage, args).await?);
    figures.extend(memory::binaries(testbed)?);
    figures.push(wire::websocket(&stage, args.settle).await?);
    drop(stage);
    figures.extend(Box::pin(devices::measure(testbed, args.settle)).await?);
    Ok(figures)
}

/// What programs hold, send and write while nothing happens.
async fn at_rest(stage: &stage::Stage<'_>, settle: Duration) -> Result<Vec<Figure>> {
    memory::rest("after the join", wire::CALM).await?;
    let before = Reading::of_wire(&stage.edge.machine).await?;
    memory::rest("without pods", settle).await?;
    let idle = Reading::of_wire(&stage.edge.machine).await?.a_day_since(&before);
    let mut held = memory::idle(stage).await?;
    held.push(memory::crowded(stage, settle).await?);
    let bytes = wire::ten_pods(stage, (settle, idle)).await?;
    held.push(Figure::ours("idle_bytes_day.quic", Unit::Bytes, idle));
    held.extend(bytes);
    Ok(held)
}

async fn cycled(stage: &stage::Stage<'_>, args: &Args) -> Result<Vec<Figure>> {
    match args.cycles {
        Some(cycles) => memory::cycled(stage, cycles).await,
        None => Ok(Vec::new()),
    }
}

fn publish(args: &Args, figures: Vec<Figure>) -> Result<()> {
    let report = Report::new(args.pods, args.settle, figures)?;
    if args.only.is_some() {
        note(&report.to_string());
        return Ok(());
    }
    let path = workspace().join(REPORT);
    fs::write(&path, serde_json::to_vec_pretty(&report)?)?;
    note(&format!("{report}\n  written to {}", path.display()));
    Ok(())
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_span_is_written_as_people_write_it() {
        assert_eq!(span("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(span("5m"), Ok(Duration::from_mins(5)));
        assert!(span("-5m").is_err());
        assert!(span("soon").unwrap_err().contains("30s or 5m"));
    }
}
