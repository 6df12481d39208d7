//! `make oracle`: the same manifests on an edge node and on the stock kubelet, side by side.
//!
//! Every file of `tests/oracle/` is a case: one pod, and the objects that it needs. It is applied twice,
//! in two namespaces, bound to the ordinary node and to the edge node. What the two agents made of it is
//! gathered as [`evidence`], freed of what differs by nature ([`plain`]), and compared ([`compare`]):
//!
//! - the pod's status before and at its end, and what it went through meanwhile;
//! - its events;
//! - what the agent asked of the container runtime, recorded on the runtime's socket;
//! - what its containers printed: most print files of volumes and `/proc` from inside.
//!
//! Two nodes on one machine are never quite in step: a case that differs is carried out again, alone, and
//! what is really different differs each time. One that did not is shown as `same`, with what it was at first.
//!
//! Prints a line a case (`same`, `documented`, `not supported yet`, `BUG`), writes the details below
//! `target/oracle/`, and fails when there is a difference that nobody explained.

mod case;
mod compare;
mod cri;
mod documented;
mod evidence;
mod plain;
#[path = "../demo/show.rs"]
mod show;
mod side;
mod stage;
mod table;
mod trail;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use futures::{StreamExt, stream};
use tests::Testbed;

use crate::{
    case::Case,
    show::{note, step, tear_down},
    stage::Stage,
    table::{Line, Table},
};

/// How often a case is carried out that differs each time.
const LOOKS: usize = 3;

/// Compares an edge node with the stock kubelet, on one testbed of this machine.
#[derive(Debug, Parser)]
struct Args {
    /// Only the cases whose name contains this
    #[arg(default_value = "")]
    name: String,

    /// How many cases run at the same time
    #[arg(long, default_value_t = 6)]
    at_once: usize,

    /// List the cases and end
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    tests::enter();
    let args = Args::parse();
    let outcome = tokio::runtime::Runtime::new()
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(run(&args)));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\noracle: failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every difference is explained.
async fn run(args: &Args) -> Result<bool> {
    let cases = case::load(&args.name)?;
    ensure!(!cases.is_empty(), "no case has {:?} in its name", args.name);
    if args.list {
        note(&cases.iter().map(Case::title).collect::<Vec<_>>().join("\n  "));
        return Ok(true);
    }
    let testbed = tokio::select! {
        testbed = stage::cluster() => testbed?,
        interrupted = tokio::signal::ctrl_c() => return interrupted.map(|()| false).map_err(Into::into),
    };
    let outcome = tokio::select! {
        outcome = judge(&testbed, args, &cases) => outcome,
        interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| false).map_err(Into::into),
    };
    tear_down(testbed, matches!(outcome, Ok(true))).await?;
    outcome
}

async fn judge(testbed: &Testbed, args: &Args, cases: &[Case]) -> Result<bool> {
    let stage = Stage::build(testbed).await?;
    let what = format!("{} cases on both nodes", cases.len());
    let mut lines: Vec<Line> = step(&what, async {
        let all = stream::iter(cases).map(|case| Box::pin(one(&stage, case, 1)));
        Ok(all.buffer_unordered(args.at_once.max(1)).collect().await)
    })
    .await?;
    for line in lines.iter_mut().filter(|line| line.is_bad()) {
        let case = cases.iter().find(|case| case.name == line.case);
        look_again(&stage, case.context("a line without a case")?, line).await?;
    }
    lines.sort_by(|a, b| a.case.cmp(&b.case));
    stage.save_calls()?;
    let table = Table(lines);
    note(&table.to_string());
    Ok(table.is_clean())
}

/// Carries a case out again that differed, until it does not, or always did.
async fn look_again(stage: &Stage<'_>, case: &Case, line: &mut Line) -> Result<()> {
    for look in 2..=LOOKS {
        let again = step(&format!("{} once more", case.name), async {
            Ok(Box::pin(one(stage, case, look)).await)
        })
        .await?;
        if !again.is_bad() {
            *line = again.after(line);
            return Ok(());
        }
    }
    Ok(())
}

/// A case that cannot be carried out is no reason to leave the others out.
async fn one(stage: &Stage<'_>, case: &Case, look: usize) -> Line {
    let (kubelet, edge) = (stage.kubelet(), stage.edge());
    let both = tokio::join!(
        side::observe(&kubelet, case, look),
        side::observe(&edge, case, look)
    );
    match both {
        (Ok(kubelet), Ok(edge)) => table::judge(case, &kubelet, &edge),
        (Err(error), _) | (_, Err(error)) => Line::broken(case, &format!("{error:#}")),
    }
}
