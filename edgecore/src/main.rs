//! `edgecore`: see the library for what it does.

use std::process::ExitCode;

use clap::Parser as _;
use edgecore::cli::{self, Cli};
use edgecore::run;
use protocol::clock::Clock;

// Two workers: one may encode while the other talks to the runtime; more only cost memory.
#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    cli::log::show();
    match edgecore(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", cli::complaint(&error));
            ExitCode::FAILURE
        }
    }
}

async fn edgecore(cli: Cli) -> anyhow::Result<()> {
    let clock = Clock::from_env()?;
    match cli::dispatch(cli, &clock).await? {
        Some(paths) => run::run(paths, clock).await,
        None => Ok(()),
    }
}
