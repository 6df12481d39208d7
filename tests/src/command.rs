//! Running short commands and saying what went wrong with them.
//!
//! Not for services: those belong to a machine's init or to the control plane.

use std::{ffi::OsStr, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::time::timeout;

/// Runs a command that takes milliseconds and gives back what it printed.
pub fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Result<String> {
    let mut command = std::process::Command::new(program);
    command.args(args).stdin(Stdio::null());
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    outcome(&format!("{command:?}"), &output)
}

/// Runs `ip` with the words of `line`.
pub fn ip(line: &str) -> Result<String> {
    run("ip", line.split_whitespace())
}

/// Lets a process, and what it starts, have only the processor that nobody else wants, or its share again.
/// One that has ended meanwhile needs neither.
pub fn step_aside(pid: u32, aside: bool) -> Result<()> {
    let policy = if aside { "--idle" } else { "--other" };
    let pid = pid.to_string();
    let done = run("chrt", ["--all-tasks", policy, "--pid", "0", &pid]);
    if Path::new("/proc").join(&pid).exists() {
        done.map(drop)
    } else {
        Ok(())
    }
}

/// Runs a command that may take long; it is killed when `limit` has passed.
pub async fn run_within(limit: Duration, mut command: tokio::process::Command) -> Result<String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let shown = words(command.as_std());
    let Ok(output) = timeout(limit, command.output()).await else {
        bail!("{shown} did not end within {limit:?}");
    };
    outcome(&shown, &output.with_context(|| format!("cannot start {shown}"))?)
}

/// The command without its environment, which may hold secrets.
fn words(command: &std::process::Command) -> String {
    let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    format!("{} {}", command.get_program().to_string_lossy(), words.join(" "))
}

fn outcome(shown: &str, output: &std::process::Output) -> Result<String> {
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    bail!(
        "{shown} ended with {}: {printed}{}",
        output.status,
        complaint.trim()
    )
}
