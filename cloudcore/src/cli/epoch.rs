//! `cloudcore epoch`: what edges must be told after etcd was restored from a backup.

use std::io::{Write, stdout};

use clap::Subcommand;

use crate::enroll::Authority;

/// When the commands are of use.
pub(super) const WHEN: &str = "\
A cluster that was restored is older than what its edges have seen of it: until the epoch is raised, an edge may keep \
what it has in place of what was restored. Once after each restore:

  kubectl -n tombolo-system exec deploy/cloudcore -- cloudcore epoch raise

Replicas see the new number and start again with it; edges come back by themselves. Pods run on.";

#[derive(Debug, Subcommand)]
pub(super) enum EpochCommand {
    /// Print the cluster's epoch
    Show,
    /// Raise the epoch: edges take what the cluster has now for the newest. Every replica restarts
    #[command(after_help = WHEN)]
    Raise {
        /// The number that it becomes; the time in seconds, or one more than it is, when left away.
        /// Needed where edges name a higher one
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=HIGHEST))]
        to: Option<u64>,
    },
}

/// Beyond this there would be no room to raise it.
const HIGHEST: u64 = 1 << 53;

pub(super) async fn main(command: EpochCommand, authority: &Authority) -> anyhow::Result<()> {
    match command {
        EpochCommand::Show => {
            writeln!(stdout(), "{}", authority.read_epoch().await?)?;
        }
        EpochCommand::Raise { to } => {
            let raised = authority.raise_epoch(to).await?;
            if raised.from == raised.to {
                eprintln!("the epoch is {} already: nothing is changed", raised.to);
            } else {
                eprintln!("the epoch was {} and is {}", raised.from, raised.to);
                eprintln!(
                    "every replica of cloudcore starts again with it within seconds, and edges come back to it"
                );
            }
        }
    }
    Ok(())
}
