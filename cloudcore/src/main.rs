//! `cloudcore`: see the library for what it does.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser;
use cloudcore::cli::{self, Cli};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    // What the client library logs as an error is told again, with the object, by those who asked.
    let quiet = "kube_client::client::builder=off";
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::new(format!("{quiet},{filter}"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match cli::main(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cloudcore: {error:#}");
            ExitCode::FAILURE
        }
    }
}
