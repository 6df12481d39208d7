//! Telling people what goes on.

use std::{future::Future, io::Write, time::Duration};

use anyhow::{Context, Result};
use tests::Testbed;
use tokio::time::{Instant, interval_at};

/// How often a long step says that it is still at it.
const REMIND: Duration = Duration::from_secs(10);

/// Carries out a step, telling what it is, that it still goes on, and how long it took.
pub(crate) async fn step<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let started = Instant::now();
    say(&format!("· {what} ..."));
    let mut reminders = interval_at(started + REMIND, REMIND);
    tokio::pin!(work);
    let outcome = loop {
        tokio::select! {
            outcome = &mut work => break outcome,
            _ = reminders.tick() => say(&format!("    still at it after {:.0?}", started.elapsed())),
        }
    };
    let outcome = outcome.with_context(|| format!("{what} (after {:.1?})", started.elapsed()))?;
    say(&format!("✓ {what}: {:.1?}", started.elapsed()));
    Ok(outcome)
}

/// Something worth knowing that is no step.
pub(crate) fn note(text: &str) {
    say(&format!("\n  {text}\n"));
}

/// What a command printed.
pub(crate) fn output(command: &str, printed: &str) {
    say(&format!("    $ {command}"));
    for line in printed.lines() {
        say(&format!("    {line}"));
    }
}

/// Takes everything down; where something went wrong, the logs stay.
pub(crate) async fn tear_down(testbed: Testbed, well: bool) -> Result<()> {
    if !well {
        testbed.ground.keep_logs();
        note(&format!(
            "the logs of all programs are kept in {}",
            testbed.ground.logs().display()
        ));
    }
    let ground = testbed.ground.clone();
    drop(testbed);
    step("tearing everything down", async { ground.leave() }).await
}

/// A line; a reader that is gone is no reason to stop.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
