//! Control groups: one tree per testbed, one root per machine in it.
//!
//! The tree serves two ends: pods of different machines do not share a `kubepods`, and whoever
//! cleans up finds every process of a testbed without knowing any pid.
//!
//! On v1 each controller has a tree of its own and the root exists in all of them, with `cpuset`
//! filled in. On v2 there is one tree, and processes live in leaves only (`services`).
//!
//! **Invariant:** a process of a testbed is in the testbed's tree from before its first
//! instruction.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const MOUNT: &str = "/sys/fs/cgroup";
/// The v1 tree in which a testbed's processes are counted.
const TALLY: &str = "pids";
/// How often the killing of a tree is repeated before it is given up.
const ROUNDS: usize = 100;

/// The control group tree of one testbed or of one machine in it.
#[derive(Clone, Debug)]
pub struct Tree {
    /// As programs name it, such as `/tombolo-3/w1`.
    path: String,
}

impl Tree {
    /// The tree of that name; not made yet.
    pub fn named(name: &str) -> Self {
        Self {
            path: format!("/{name}"),
        }
    }

    /// A tree inside this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self {
            path: format!("{}/{name}", self.path),
        }
    }

    /// The path as kubelet's `cgroupRoot` and edgecore's `cgroup_root` take it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Makes the tree in every hierarchy of the host.
    pub fn create(&self) -> Result<()> {
        for root in roots()? {
            let at = root.join(&self.path[1..]);
            fs::create_dir_all(&at).with_context(|| format!("cannot make control group {}", at.display()))?;
            furnish(&root, &at)?;
        }
        Ok(())
    }

    /// A command that joins this tree and then becomes `program`.
    pub fn command(&self, program: &Path) -> Result<Command> {
        let leaf = self.leaf()?;
        fs::create_dir_all(&leaf)?;
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(leaf.join("cgroup.procs"))
            .arg(program);
        Ok(command)
    }

    /// The directory whose processes are the tree's own.
    fn leaf(&self) -> Result<PathBuf> {
        let tally = Path::new(MOUNT).join(TALLY);
        Ok(if unified()? {
            Path::new(MOUNT).join(&self.path[1..]).join("services")
        } else {
            tally.join(&self.path[1..])
        })
    }

    /// Kills every process in the tree and returns when the last one is gone.
    pub fn kill(&self) -> Result<()> {
        for _ in 0..ROUNDS {
            let pids = self.processes()?;
            if pids.is_empty() {
                return Ok(());
            }
            for pid in pids {
                // One that is gone already is what we want.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            sleep(Duration::from_millis(50));
        }
        let left = self.processes()?;
        ensure!(
            left.is_empty(),
            "processes of {} that do not die: {left:?}",
            self.path
        );
        Ok(())
    }

    /// Every process in the tree.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        for root in all_roots()? {
            walk(&root.join(&self.path[1..]), &mut |dir| {
                let listed = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
                // A zero is a process of another pid namespace that contains ours.
                pids.extend(
                    listed
                        .lines()
                        .filter_map(|line| line.parse::<i32>().ok())
                        .filter(|pid| *pid > 0),
                );
            });
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Removes the tree, which has no processes any more.
    pub fn remove(&self) -> Result<()> {
        for root in all_roots()? {
            let at = root.join(&self.path[1..]);
            let mut rounds = 0..ROUNDS;
            while let Err((dir, error)) = remove_tree(&at) {
                if rounds.next().is_none() {
                    return Err(error)
                        .with_context(|| format!("cannot remove control group {}", dir.display()));
                }
                sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }
}

/// Removes what can be removed; the last refusal otherwise.
fn remove_tree(at: &Path) -> Result<(), (PathBuf, std::io::Error)> {
    let mut outcome = Ok(());
    walk(at, &mut |dir| {
        if let Err(error) = fs::remove_dir(dir) {
            outcome = Err((dir.to_owned(), error));
        }
    });
    outcome
}

/// Visits a directory's directories, the deepest first.
fn walk(dir: &Path, visit: &mut impl FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), visit);
        }
    }
    visit(dir);
}

/// Whether the host has the one tree of v2 and no v1 controllers.
pub fn unified() -> Result<bool> {
    Ok(mounted(&["cgroup"])?.is_empty())
}

/// The hierarchies in which a tree is made: those that hold controllers.
fn roots() -> Result<Vec<PathBuf>> {
    mounted(if unified()? { &["cgroup2"] } else { &["cgroup"] })
}

/// All hierarchies: beside v1, runc also makes its groups in a v2 tree without controllers.
fn all_roots() -> Result<Vec<PathBuf>> {
    mounted(&["cgroup", "cgroup2"])
}

fn mounted(kinds: &[&str]) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the host's mounts")?;
    Ok(points(&mounts, kinds))
}

fn points(mounts: &str, kinds: &[&str]) -> Vec<PathBuf> {
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .filter(|f| f.len() > 2 && kinds.contains(&f[2]))
        .map(|f| PathBuf::from(f[1]))
        .collect()
}

/// What a fresh directory needs before processes may enter it or controllers work below it.
fn furnish(root: &Path, at: &Path) -> Result<()> {
    if root.join("cgroup.controllers").exists() {
        return delegate(root, at);
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if root.join(file).exists() {
            inherit(root, at, file)?;
        }
    }
    Ok(())
}

/// v1: a cpuset without cpus and memory nodes takes no process.
fn inherit(root: &Path, at: &Path, file: &str) -> Result<()> {
    let whole = fs::read_to_string(root.join(file))?;
    let steps: Vec<_> = at.ancestors().take_while(|dir| *dir != root).collect();
    for dir in steps.into_iter().rev() {
        if fs::read_to_string(dir.join(file))?.trim().is_empty() {
            fs::write(dir.join(file), whole.trim())?;
        }
    }
    Ok(())
}

/// v2: every directory above and including `at` hands its controllers down.
fn delegate(root: &Path, at: &Path) -> Result<()> {
    let enable: Vec<_> = fs::read_to_string(root.join("cgroup.controllers"))?
        .split_whitespace()
        .map(|controller| format!("+{controller}"))
        .collect();
    let steps: Vec<_> = at.ancestors().take_while(|dir| dir.starts_with(root)).collect();
    for dir in steps.into_iter().rev() {
        fs::write(dir.join("cgroup.subtree_control"), enable.join(" "))
            .with_context(|| format!("cannot hand controllers down from {}", dir.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_told_apart_by_their_kind() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(points(mounts, &["cgroup"]), [PathBuf::from("/sys/fs/cgroup/cpu")]);
        assert_eq!(points(mounts, &["cgroup", "cgroup2"]).len(), 2);
    }

    #[test]
    fn a_machine_lives_inside_its_testbed() {
        assert_eq!(Tree::named("tombolo-3").child("w1").path(), "/tombolo-3/w1");
    }
}
