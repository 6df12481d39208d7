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

use super::api::{ApiEndpoint, changed};
use super::nat::{self, Jump, Nat};
use super::pod_cidr::PodCidr;

/// The program, which has to be there.
const PROGRAM: &str = "iptables";
const RESTORE: &str = "iptables-restore";
/// How often somebody may take the rules away without lasting harm; the kubelet looks as often at its own.
const LOOK: Duration = Duration::from_mins(1);
/// Another program may hold the lock of the tables for as long, in seconds.
const LOCK: &str = "5";
/// No run takes longer, the wait for the lock included.
const PATIENCE: Duration = Duration::from_secs(10);
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

/// Whether the programs are where programs are looked for.
pub fn is_installed() -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there = |program| env::split_paths(&path).any(|dir| dir.join(program).is_file());
    is_there(PROGRAM) && is_there(RESTORE)
}

/// Keeps the rules until `stop`: what `masquerade` says at each look, and the API server's address.
pub async fn keep(
    masquerade: impl Fn() -> Option<PodCidr>,
    mut api: watch::Receiver<Option<ApiEndpoint>>,
    stop: CancellationToken,
) {
    let mut held = Held::default();
    loop {
        let nat = Nat {
            masquerade: masquerade(),
            api: *api.borrow_and_update(),
        };
        held.hold(nat).await;
        let pause = async {
            let _ = timeout(LOOK, changed(&mut api)).await;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = pause => {}
        }
    }
}

/// What was written last, and what went wrong last: the same trouble is told once.
#[derive(Default)]
struct Held {
    written: Option<Nat>,
    trouble: Option<String>,
}

impl Held {
    async fn hold(&mut self, nat: Nat) {
        let trouble = match ensure(&nat).await {
            Ok(done) => {
                if self.written.replace(nat) == Some(nat) && done == Done::Written {
                    tracing::warn!("somebody took the address translation of pods away; it is put back");
                }
                None
            }
            Err(error) => {
                self.written = None;
                Some(error.to_string())
            }
        };
        if self.trouble != trouble {
            if let Some(error) = &trouble {
                tracing::error!(
                    error,
                    "the address translation of pods cannot be set up: they may not reach other machines"
                );
            } else {
                tracing::info!("the address translation of pods is set up again");
            }
            self.trouble = trouble;
        }
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
    for chain in nat::CHAINS {
        let _ = iptables(&["-F", chain]).await;
        let _ = iptables(&["-X", chain]).await;
    }
}

async fn iptables(args: &[&str]) -> Result<(), IptablesError> {
    let args = [&["-w", LOCK, "-t", "nat"], args].concat();
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
mod tests {
    use super::*;

    /// Runs in a network namespace of its own, started by the test below.
    #[tokio::test]
    #[ignore = "needs a network namespace of its own; the next test makes one and runs this in it"]
    async fn inside_a_namespace() {
        let address = "10.96.0.1".parse().unwrap();
        let nat = Nat {
            masquerade: Some(PodCidr::DEFAULT),
            api: Some(ApiEndpoint { address, port: 443 }),
        };
        let foreign = ["-A", "PREROUTING", "-d", "192.0.2.1", "-j", "RETURN"];
        iptables(&foreign).await.unwrap();
        assert_eq!(ensure(&nat).await.unwrap(), Done::Written);
        assert_eq!(
            rules("PREROUTING"),
            ["-j TOMBOLO-API", "-d 192.0.2.1/32 -j RETURN"]
        );
        assert_eq!(rules("OUTPUT"), ["-j TOMBOLO-API"]);
        assert_eq!(rules("POSTROUTING"), ["-j TOMBOLO-MASQ"]);

        // Nothing stands there twice, and what stands there is ours.
        iptables(&["-F", "TOMBOLO-API"]).await.unwrap();
        assert_eq!(ensure(&nat).await.unwrap(), Done::AsBefore);
        assert_eq!(rules("TOMBOLO-MASQ").len(), 2);
        assert_eq!(rules("TOMBOLO-API").len(), 1);
        assert_eq!(rules("POSTROUTING").len(), 1);

        // A firewall that begins anew.
        iptables(&["-F"]).await.unwrap();
        assert_eq!(ensure(&nat).await.unwrap(), Done::Written);
        assert_eq!(rules("TOMBOLO-MASQ").len(), 2);
        assert_eq!(rules("POSTROUTING").len(), 1);

        iptables(&["-A", "OUTPUT", "-j", "TOMBOLO-API"]).await.unwrap();
        iptables(&foreign).await.unwrap();
        remove().await;
        assert_eq!(rules("PREROUTING"), ["-d 192.0.2.1/32 -j RETURN"]);
        for chain in nat::CHAINS {
            assert!(iptables(&["-F", chain]).await.is_err(), "{chain} is gone");
        }
    }

    /// The rules of a chain, without its name.
    fn rules(chain: &str) -> Vec<String> {
        let args = ["-t", "nat", "-S", chain];
        let output = std::process::Command::new(PROGRAM).args(args).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let rule = |line: &str| Some(line.strip_prefix("-A ")?.split_once(' ')?.1.to_owned());
        text.lines().filter_map(rule).collect()
    }

    #[test]
    fn rules_come_once_come_back_and_go_and_nobody_elses_are_touched() {
        let script = "exec \"$0\" --exact network::iptables::tests::inside_a_namespace --ignored";
        let ran = std::process::Command::new("unshare")
            .args(["-rn", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && text.contains("1 passed"), "{text}");
    }
}
