//! `edgecore doctor`: looks at everything that a node needs, and says what is wrong and what mends it.
//!
//! ```text
//! look (machine, runtime, cloudcore, broker, daemon) ──► Facts ──► judge (pure) ──► Findings
//! ```
//!
//! Every look has a time of its own, and what hangs in the kernel is left behind.
//!
//! The store is not opened: opening repairs it, and a daemon that starts meanwhile would find it locked.
//! Damage never keeps it from opening; what does is what is looked at: rights, room, a file system that
//! is read-only, files that the disk does not give back.
//!
//! **Invariant:** it writes nothing, disturbs no running node, and shows no secret.

mod facts;
mod judge;
mod look;
mod render;

use std::borrow::Cow;
use std::io;
use std::thread;

use anyhow::{Context as _, bail};
use protocol::clock::Clock;
use serde::Serialize;
use tokio::sync::oneshot;

use super::{Output, Paths};
use facts::Facts;

/// The most characters of one line's text: what others say may be long.
const LONGEST: usize = 300;

/// How one thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// The node works, and somebody should know.
    Warning,
    /// The node does not work, or not for long.
    Failed,
    /// It could not be looked at.
    Unknown,
}

/// One check, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: String,
    level: Level,
    /// What was seen.
    seen: String,
    /// What mends it; empty where nothing is to be mended.
    remedy: String,
}

impl Finding {
    fn new(level: Level, check: &str, seen: impl AsRef<str>, remedy: &str) -> Self {
        Self {
            check: check.to_owned(),
            level,
            seen: one_line(seen.as_ref()),
            remedy: remedy.to_owned(),
        }
    }

    fn ok(check: &str, seen: impl AsRef<str>) -> Self {
        Self::new(Level::Ok, check, seen, "")
    }

    fn warning(check: &str, seen: impl AsRef<str>, remedy: &str) -> Self {
        Self::new(Level::Warning, check, seen, remedy)
    }

    fn failed(check: &str, seen: impl AsRef<str>, remedy: &str) -> Self {
        Self::new(Level::Failed, check, seen, remedy)
    }

    fn unknown(check: &str, seen: impl AsRef<str>, remedy: &str) -> Self {
        Self::new(Level::Unknown, check, seen, remedy)
    }
}

/// The text on one line, without passwords and what a terminal would obey, and cut where it is too long.
fn one_line(text: &str) -> String {
    let text = text.trim().replace('\n', "; ");
    let words: Vec<_> = text.split_whitespace().map(without_password).collect();
    let text: String = words.join(" ").chars().filter(|c| !c.is_control()).collect();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A word without the user and password that an address in it may have: what is wrong with a proxy's may be
/// shown as it stands in the configuration.
fn without_password(word: &str) -> Cow<'_, str> {
    let Some((before, host)) = word.rsplit_once('@') else {
        return Cow::Borrowed(word);
    };
    let scheme = before.find("://").map_or("", |at| &before[..at + "://".len()]);
    Cow::Owned(format!("{scheme}…@{host}"))
}

/// What is told, for programs. Fields only ever grow.
#[derive(Serialize)]
struct Report<'a> {
    version: &'static str,
    failed: usize,
    warnings: usize,
    unknown: usize,
    checks: &'a [Finding],
}

/// Prints what was found; fails when something must be mended.
pub(super) async fn run(output: Output, paths: &Paths, clock: &Clock) -> anyhow::Result<()> {
    let found = if super::join::must_be_root(paths).is_ok() {
        judge::judge(&seen(paths, clock).await?)
    } else {
        vec![Finding::failed(
            "root",
            "keys, sockets and the store are root's: nothing can be looked at",
            "sudo edgecore doctor",
        )]
    };
    let count = |level| found.iter().filter(|finding| finding.level == level).count();
    let failed = count(Level::Failed);
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        failed,
        warnings: count(Level::Warning),
        unknown: count(Level::Unknown),
        checks: &found,
    };
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Table => print!("{}", render::table(&report)),
    }
    match failed {
        0 => Ok(()),
        1 => bail!("one check failed"),
        failed => bail!("{failed} checks failed"),
    }
}

/// Looks, on a thread of its own: what hangs there (a file system, a name server) must not keep this
/// program from its end.
async fn seen(paths: &Paths, clock: &Clock) -> anyhow::Result<Facts> {
    let (tell, told) = oneshot::channel();
    let (paths, clock) = (paths.clone(), clock.clone());
    let looking = move || -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let facts = runtime.block_on(Box::pin(look::facts(&paths, &clock)));
        runtime.shutdown_background();
        // Whoever waited may be gone.
        let _ = tell.send(facts);
        Ok(())
    };
    thread::Builder::new().name("doctor".to_owned()).spawn(looking)?;
    told.await.context("the look around broke off")
}

#[cfg(test)]
mod tests;
