//! `make demo`: what a user of the project does, on real parts, step by step.
//!
//! With `--once` it ends by itself; else everything stays up until Ctrl-C. Either way nothing is
//! left behind.

mod show;
mod steps;
mod thermostat;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tests::Testbed;

use crate::show::{note, tear_down};

/// Starts a cluster with an edge node, shows what it does, and tears everything down again.
#[derive(Debug, Parser)]
struct Args {
    /// End when everything was shown, instead of staying up until Ctrl-C
    #[arg(long)]
    once: bool,
}

fn main() -> ExitCode {
    tests::enter();
    let args = Args::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    match runtime.block_on(run(args.once)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("\ndemo: failed: {error:#}");
    ExitCode::FAILURE
}

async fn run(once: bool) -> Result<()> {
    let testbed = tokio::select! {
        testbed = steps::cluster() => testbed?,
        interrupted = tokio::signal::ctrl_c() => return interrupted.map_err(Into::into),
    };
    let outcome = tokio::select! {
        outcome = show(&testbed, once) => outcome,
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into),
    };
    tear_down(testbed, outcome.is_ok()).await?;
    outcome
}

async fn show(testbed: &Testbed, once: bool) -> Result<()> {
    let started = tokio::time::Instant::now();
    let edge = steps::join(testbed).await?;
    steps::hello(testbed, &edge).await?;
    steps::changes(testbed, &edge).await?;
    steps::neighbours(testbed).await?;
    thermostat::shown(testbed, &edge).await?;
    steps::cut(testbed, &edge).await?;
    thermostat::after_the_cut(testbed).await?;
    steps::power(testbed, &edge).await?;
    thermostat::after_the_power_cut(testbed).await?;
    steps::scale_down(testbed, &edge).await?;
    note(&format!("everything was shown in {:.0?}", started.elapsed()));
    if once {
        return Ok(());
    }
    note(&format!(
        "the cluster stays up; in another terminal:\n\n    export KUBECONFIG={}\n    export PATH={}:$PATH\n    kubectl get nodes -o wide\n    \
         kubectl scale deployment/hello --replicas=3\n    kubectl get pods -l app=hello -o wide\n\n  \
         the logs are in {}\n  Ctrl-C tears everything down",
        testbed.plane.admin_kubeconfig().display(),
        testbed.cache.path(),
        testbed.ground.logs().display()
    ));
    std::future::pending().await
}
