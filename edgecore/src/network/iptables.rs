//! Has the kernel hold the rules of [`Nat`], through the iptables(8) that the network plugins use themselves.
//!
//! A firewall that reloads takes foreign rules away, or brings old ones back: every minute they are put right.
//! Nothing is taken away when the agent ends, for pods outlive it; [`remove`] is for `edgecore reset`.
//!
//! **Invariant:** only chains of ours, and jumps to them, are ever written.

use std::env;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::api::changed;
use super::nat::{self, Door, Jump, Nat, Translation};

/// The program, which has to be there.
const PROGRAM: &str = "iptables";
const RESTORE: &str = "iptables-restore";
/// How often somebody may take the rules away without lasting harm; the kubelet looks as often at its own.
const LOOK: Duration = Duration::from_mins(1);
/// How soon it is tried again: the lock of the tables may be held for long while a device boots.
const AGAIN: Duration = Duration::from_secs(10);
/// Another program may hold the lock of the tables for as long, in seconds.
const LOCK: &str = "5";
/// No run takes longer, the wait for the lock included.
const PATIENCE: Duration = Duration::from_secs(10);
/// The exit code where the kernel lacks the tables.
const NO_TABLE: i32 = 3;
/// A jump stands there once; a saved table that was restored beside it may have it again.
const MOST_JUMPS: usize = 8;

/// Why the kernel does not hold a rule.
#[derive(Debug, Error)]
pub enum IptablesError {
    /// It is not installed, or may not be run.
    #[error("cannot run {0} (apt install iptables): {1}")]
    Run(&'static str, io::Error),
    /// It ran, and refused: what, with which code, in which words.
    #[error("{0}: {2} (exit code {1:?})")]
    Refused(String, Option<i32>, String),
    /// It hangs.
    #[error("{0} does not end")]
    Hangs(&'static str),
}

impl IptablesError {
    /// Whether it says that there is no iptables here at all: no program, or nothing for it in the kernel.
    fn is_lasting(&self) -> bool {
        match self {
            Self::Run(_, error) => {
                matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
                )
            }
            Self::Refused(_, code, _) => *code == Some(NO_TABLE),
            Self::Hangs(_) => false,
        }
    }
}

/// Whether the programs are where programs are looked for.
pub fn is_installed() -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there = |program| env::split_paths(&path).any(|dir| dir.join(program).is_file());
    is_there(PROGRAM) && is_there(RESTORE)
}

/// Keeps the rules until `stop`: what `ranges` says at each look, and the way to the newest `door`. Tells by
/// `translation` whether connections come to that door's own port.
pub async fn keep(
    ranges: impl Fn() -> Nat,
    mut door: watch::Receiver<Option<Door>>,
    translation: watch::Sender<Translation>,
    stop: CancellationToken,
) {
    let mut held = Held::default();
    loop {
        let nat = Nat {
            door: *door.borrow_and_update(),
            ..ranges()
        };
        let told = held.hold(nat).await;
        translation.send_if_modified(|before| std::mem::replace(before, told) != told);
        let look = if held.failures > 0 { AGAIN } else { LOOK };
        let pause = async {
            let _ = timeout(look, changed(&mut door)).await;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = pause => {}
        }
    }
}

/// What was written last, what was said of it, and what went wrong last: the same trouble is told once.
#[derive(Default)]
struct Held {
    written: Option<Nat>,
    told: Translation,
    /// In a row.
    failures: u32,
    trouble: Option<Trouble>,
}

/// What the kernel does not do.
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    /// Nothing of it.
    All(String),
    /// It sends no connections to a port of ours.
    OwnPort(String),
}

impl Held {
    async fn hold(&mut self, nat: Nat) -> Translation {
        if nat.door.is_some() && self.written.as_ref() != Some(&nat) {
            // Its place is the head, and one that stands elsewhere, or is not wanted any more, would stay.
            let _ = iptables(&nat::pass().remove()).await;
        }
        let (has_door, has_own_port) = (nat.door.is_some(), nat.has_own_port());
        let translation = match ensure(&nat).await {
            Ok(done) => {
                self.holds(nat, done);
                Translation::Holds
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                if self.may_pass(&error) {
                    tracing::debug!(%error, "the address translation of pods is tried again");
                    self.told
                } else {
                    self.without_own_port(nat, &error).await;
                    Translation::Fails
                }
            }
        };
        self.told = match (has_door, has_own_port) {
            (false, _) => Translation::Untold,
            (true, false) => Translation::Fails,
            (true, true) => translation,
        };
        self.told
    }

    fn holds(&mut self, nat: Nat, done: Done) {
        if self.written.as_ref() == Some(&nat) && done == Done::Written {
            tracing::warn!("somebody took the address translation of pods away; it is put back");
        }
        self.written = (!nat.is_empty()).then_some(nat);
        self.failures = 0;
        self.tell(None);
    }

    /// Whether a failure may be gone at the next look: another program holds the lock, or the device is busy. What
    /// was written stands until then, for without a port of ours pods would reach a web server of the device.
    fn may_pass(&self, error: &IptablesError) -> bool {
        self.failures < 2 && !(self.written.is_none() && error.is_lasting())
    }

    /// The rest holds at least, where that can be.
    async fn without_own_port(&mut self, nat: Nat, error: &IptablesError) {
        let (rest, error) = (nat.without_own_port(), error.to_string());
        let (written, trouble) = match ensure(&rest).await {
            Ok(_) => (Some(rest), Trouble::OwnPort(error)),
            Err(_) => (None, Trouble::All(error)),
        };
        self.written = written;
        self.tell(Some(trouble));
    }

    fn tell(&mut self, trouble: Option<Trouble>) {
        if self.trouble == trouble {
            return;
        }
        match &trouble {
            Some(Trouble::All(error)) => tracing::error!(
                error,
                "the address translation of pods cannot be set up: they may not reach other machines"
            ),
            Some(Trouble::OwnPort(error)) => tracing::warn!(
                error,
                "pods' connections to the API server cannot be sent to a port of edgecore's own: it listens on the \
                 Service's port, which nothing else on this device can have then"
            ),
            None => tracing::info!("the address translation of pods is set up again"),
        }
        self.trouble = trouble;
    }
}

/// What it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    AsBefore,
    Written,
}

/// Writes the chains anew, whatever somebody else has restored into them, and the jumps that are missing.
async fn ensure(nat: &Nat) -> Result<Done, IptablesError> {
    if nat.is_empty() {
        return Ok(Done::AsBefore);
    }
    restore(&nat.restore()).await?;
    let mut done = Done::AsBefore;
    for jump in nat.jumps() {
        if !is_there(&jump).await? {
            iptables(&jump.add()).await?;
            done = Done::Written;
        }
    }
    Ok(done)
}

/// A look that fails says nothing: a jump that was added once more at each would stay for good.
async fn is_there(jump: &Jump) -> Result<bool, IptablesError> {
    match iptables(&jump.check()).await {
        Ok(()) => Ok(true),
        // There is no such rule, or no such chain.
        Err(IptablesError::Refused(_, Some(1 | 2), _)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes away all of ours; what is not there is fine.
pub async fn remove() {
    for jump in nat::jumps() {
        for _ in 0..MOST_JUMPS {
            if iptables(&jump.remove()).await.is_err() {
                break;
            }
        }
    }
    for (table, chain) in nat::CHAINS {
        let _ = iptables(&["-t", table, "-F", chain]).await;
        let _ = iptables(&["-t", table, "-X", chain]).await;
    }
}

async fn iptables(args: &[&str]) -> Result<(), IptablesError> {
    let args = [&["-w", LOCK], args].concat();
    run(PROGRAM, &args, "").await
}

async fn restore(text: &str) -> Result<(), IptablesError> {
    run(RESTORE, &["--noflush", "-w", LOCK], text).await
}

async fn run(program: &'static str, args: &[&str], input: &str) -> Result<(), IptablesError> {
    let cannot = |error| IptablesError::Run(program, error);
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(cannot)?;
    let mut stdin = child.stdin.take();
    let ran = async {
        if let Some(stdin) = stdin.as_mut() {
            // One that ends without reading says why in its own words.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        drop(stdin);
        child.wait_with_output().await
    };
    let output = timeout(PATIENCE, ran)
        .await
        .map_err(|_| IptablesError::Hangs(program))?
        .map_err(cannot)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let what = format!("{program} {}", args.join(" "));
    Err(IptablesError::Refused(what, output.status.code(), said))
}

#[cfg(test)]
mod tests;
