//! `edgecore`: see the library for what it does.

use std::process::ExitCode;

use clap::Parser as _;
use edgecore::cli::{self, Cli};
use edgecore::network::plugin;
use edgecore::run;
use protocol::clock::Clock;

// The C library's heap grows with the holes that pods leave which come and go, though what is in use does not. Elsewhere
// it stays, as jemalloc has the size of a page built in, and devices on ARM differ in theirs.
#[cfg(target_arch = "x86_64")]
#[global_allocator]
static HEAP: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // It enters a pod's namespace, which only a process of one thread can do as a whole.
    if plugin::is_called() {
        plugin::run()
    } else {
        agent()
    }
}

// Two workers: one may encode while the other talks to the runtime; more only cost memory.
#[tokio::main(worker_threads = 2)]
async fn agent() -> ExitCode {
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
    // On the heap: the stack keeps each page that a future of this size once passed through.
    match Box::pin(cli::dispatch(cli, &clock)).await? {
        Some(paths) => Box::pin(run::run(paths, clock)).await,
        None => Ok(()),
    }
}
