//! The ground a testbed stands on: its number, its directory, and the promise to leave nothing.
//!
//! All names follow from the number: directory, bridge, addresses, control groups. A *keeper*
//! (this executable, started again) holds the number's lock and waits for the end of the pipe
//! from the testbed. Whatever ends the testbed, panic, Ctrl-C or `kill -9`, closes that pipe; the
//! keeper tears down and only then lets go of the lock. If the keeper itself was killed, the next
//! testbed that takes the number cleans first.
//!
//! **Invariant:** a number is in use exactly as long as its lock is held.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io::{self, Read},
    net::Ipv4Addr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio, exit},
};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, umount2};
use parking_lot::Mutex;

use crate::{
    cgroup::Tree,
    command::{ip, run},
};

/// The first argument of a keeper.
pub const KEEPER_ROLE: &str = "testbed-keeper";
/// Blocks of 4096 addresses in 198.18.0.0/15: as many testbeds fit on a host.
const NUMBERS: u8 = 32;
/// Where the lock of each number in use is held.
const LOCKS: &str = "/run/lock/tombolo";
/// Says to the keeper that the logs shall outlive the testbed.
const KEEP_LOGS: &str = "keep-logs";

/// A testbed's number, held until this value is dropped.
#[derive(Debug)]
pub struct Ground {
    number: u8,
    dir: PathBuf,
    keeper: Mutex<Option<Child>>,
}

impl Ground {
    /// Takes a free number, cleans what a dead testbed left under it and starts the keeper.
    ///
    /// The locks lie in one place whatever `TMPDIR` says: bridges, addresses and control groups are the host's.
    pub fn take() -> Result<Self> {
        let locks = Path::new(LOCKS);
        fs::create_dir_all(locks)?;
        fs::create_dir_all(base()?)?;
        for number in 0..NUMBERS {
            let lock = File::create(locks.join(format!("{number}.lock")))?;
            if lock.try_lock().is_ok() {
                return Self::settle(number, lock);
            }
        }
        bail!(
            "all {NUMBERS} places for testbeds are taken (locks in {})",
            locks.display()
        )
    }

    fn settle(number: u8, lock: File) -> Result<Self> {
        clean(number, Logs::Remove).context("cannot clean what an earlier testbed left")?;
        let ground = Self {
            number,
            dir: dir_of(number)?,
            keeper: Mutex::new(Some(start_keeper(number, lock)?)),
        };
        fs::create_dir_all(ground.logs())?;
        ground.cgroup().create()?;
        Ok(ground)
    }

    /// The testbed's number.
    pub const fn number(&self) -> u8 {
        self.number
    }

    /// The testbed's own directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where every program of the testbed logs.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The log of one program.
    pub fn log(&self, program: &str) -> PathBuf {
        self.logs().join(format!("{program}.log"))
    }

    /// The control group of everything in this testbed.
    pub fn cgroup(&self) -> Tree {
        tree_of(self.number)
    }

    /// The bridge that machines hang on.
    pub fn bridge(&self) -> String {
        bridge_of(self.number)
    }

    /// The `host`-th address of the `block`-th /24 of this testbed.
    pub fn address(&self, block: u8, host: u8) -> Ipv4Addr {
        let third = u16::from(self.number) * 16 + u16::from(block);
        let [high, low] = third.to_be_bytes();
        Ipv4Addr::new(198, 18 + high, low, host)
    }

    /// Lets the logs outlive the testbed.
    pub fn keep_logs(&self) {
        let _ = fs::write(self.dir.join(KEEP_LOGS), "");
    }

    /// Tears everything down and tells what could not be.
    pub fn leave(&self) -> Result<()> {
        let Some(mut keeper) = self.keeper.lock().take() else {
            return Ok(());
        };
        drop(keeper.stdin.take());
        let output = keeper.wait_with_output()?;
        ensure!(
            output.status.success(),
            "tearing down failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Err(error) = self.leave() {
            eprintln!("testbed {}: {error:#}", self.number);
        }
    }
}

/// The lock travels as the keeper's stdout, so that it is held exactly as long as the keeper lives.
fn start_keeper(number: u8, lock: File) -> Result<Child> {
    Command::new(env::current_exe()?)
        .args([KEEPER_ROLE, &number.to_string()])
        .stdin(Stdio::piped())
        .stdout(lock)
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("cannot start the testbed's keeper")
}

/// The keeper's whole life: wait for the testbed's end, then tear down.
pub fn keep(number: Option<OsString>) {
    let number = number.and_then(|text| text.to_str()?.parse().ok());
    let Some(number) = number else { exit(2) };
    let _ = io::stdin().read_to_end(&mut Vec::new());
    if let Err(error) = clean(number, Logs::AsMarked) {
        eprintln!("{error:#}");
        exit(1);
    }
    exit(0)
}

/// What becomes of the logs when a testbed is cleaned up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Logs {
    Remove,
    AsMarked,
}

/// Removes everything that follows from a number. Does nothing when there is nothing.
fn clean(number: u8, logs: Logs) -> Result<()> {
    let tree = tree_of(number);
    tree.kill()?;
    remove_links(number)?;
    let dir = dir_of(number)?;
    unmount_below(&dir)?;
    tree.remove()?;
    remove_dir(&dir, logs)
}

fn remove_links(number: u8) -> Result<()> {
    let bridge = bridge_of(number);
    for entry in fs::read_dir("/sys/class/net")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == bridge || name.starts_with(&format!("{bridge}-")) {
            // Namespaces that just died take their devices with them while we look.
            if let Err(error) = ip(&format!("link del {name}"))
                && entry.path().exists()
            {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Whatever is still mounted below the directory, the innermost first.
pub(crate) fn unmount_below(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let points: Vec<_> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .collect();
    for point in points.iter().rev().filter(|point| point.starts_with(dir)) {
        umount2(point, MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", point.display()))?;
    }
    Ok(())
}

fn remove_dir(dir: &Path, logs: Logs) -> Result<()> {
    if logs == Logs::AsMarked && dir.join(KEEP_LOGS).exists() {
        for entry in fs::read_dir(dir)?
            .flatten()
            .filter(|entry| entry.file_name() != "log")
        {
            run("rm", [OsString::from("-rf"), entry.path().into()])?;
        }
        return Ok(());
    }
    run("rm", [OsString::from("-rf"), dir.into()]).map(drop)
}

/// The directory of all testbeds of this host.
fn base() -> Result<PathBuf> {
    let base = env::temp_dir().join("tombolo");
    // A machine has an /etc, /var and /run of its own, so it could not see its directory there.
    let hidden = ["/etc", "/var", "/run"].iter().any(|dir| base.starts_with(dir));
    ensure!(
        !hidden,
        "TMPDIR must not lie in /etc, /var or /run: {}",
        base.display()
    );
    Ok(base)
}

fn dir_of(number: u8) -> Result<PathBuf> {
    Ok(base()?.join(number.to_string()))
}

fn tree_of(number: u8) -> Tree {
    Tree::named(&format!("tombolo-{number}"))
}

fn bridge_of(number: u8) -> String {
    format!("tmb{number}")
}
