//! `make bench`: what an edge node costs beside the stock kubelet, measured in one run.
//!
//! Judges nothing: it prints a table and writes `target/bench.json`. Like the demo it leaves nothing
//! behind, however it ends.

mod figures;
mod floor;
mod memory;
#[path = "../demo/show.rs"]
mod show;
mod stage;
mod starts;

use std::{fs, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Parser;
use tests::{Testbed, programs::workspace};

use crate::{
    figures::{Figure, Report},
    show::{note, tear_down},
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
}

const HELP: &str = "\
What is measured (w1 is a node with the stock kubelet, e1 an edge node):
  edgecore_rss.idle       VmRSS after --settle, with no pods
  edgecore_rss.pods30     VmRSS after --settle, with 30 sleeping pods on each node
  cloudcore_rss.one_node  VmRSS after --settle, with one edge node and no pods
  pod_start.p50, .p90     one pod, image present: from just before the create request
                          to the watch event with phase Running; w1 and e1 in turn, in
                          random order, with random pauses
  edgecore_binary, cloudcore_binary
                          sizes of the release binaries

Columns:
  ours
  kubelet  the stock kubelet's figure from the same run
  floor    the container runtime alone (run sandbox, create container, start container),
           measured in turn with the other two, on a device of its own

The table is printed, and written to target/bench.json in bytes and milliseconds, with null
where there is no such figure. Nothing else should run on the machine meanwhile. With the
defaults it takes about a quarter of an hour; with ARGS='--settle 30s' about a third of that,
but then memory is not what it settles at.";

fn span(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text
        .parse()
        .map_err(|error| format!("{error}; write 30s or 5m"))?;
    Duration::try_from(span).map_err(|_| String::from("must not be negative"))
}

fn main() -> ExitCode {
    tests::enter();
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
    let stage = stage::Stage::build(testbed).await?;
    // Memory first: the bar is about programs that have just started.
    let mut figures = memory::measure(&stage, args.settle).await?;
    figures.splice(0..0, starts::measure(&stage, args.pods).await?);
    figures.extend(memory::binaries(testbed)?);
    Ok(figures)
}

fn publish(args: &Args, figures: Vec<Figure>) -> Result<()> {
    let report = Report::new(args.pods, args.settle, figures)?;
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
