//! `cloudcore`: see the library for what it does.

use std::process::ExitCode;

use clap::Parser;
use cloudcore::cli::{self, Cli};

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    cli::log::show();
    match cli::main(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cloudcore: {error:#}");
            ExitCode::FAILURE
        }
    }
}
