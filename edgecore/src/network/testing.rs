//! Runs a test in a network namespace of its own, where it may do as it likes, and has others beside it.

use std::fs::File;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, setns};

/// Runs the ignored test `name` (its whole path in the crate) there, as root, with `lo` up.
pub(crate) fn in_a_namespace(name: &str) {
    in_a_namespace_with("", name);
}

/// The same, with the programs of the directory `programs` before all others.
pub(super) fn in_a_namespace_with(programs: &str, name: &str) {
    let script = "PATH=\"$2:$PATH\"; ip link set lo up && exec timeout 120 \"$0\" --exact \"$1\" --ignored";
    let ran = Command::new("unshare")
        .args(["-rn", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .args([name, programs])
        .output();
    let ran = ran.expect("unshare, of the package util-linux");
    let (said, complaint) = (
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr),
    );
    assert!(
        ran.status.success() && said.contains("1 passed"),
        "{said}\n{complaint}"
    );
}

/// A network namespace that lives as long as its process, and that as long as this one.
pub(super) struct Elsewhere(Child);

impl Elsewhere {
    pub(super) fn new() -> Self {
        let mut child = Command::new("unshare")
            .args(["-n", "sh", "-c", "echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It is there when its process speaks.
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Self(child)
    }

    /// The process that holds it.
    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(super) fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.id())
    }

    /// Does something there.
    pub(super) fn inside<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        let path = self.path();
        std::thread::scope(|scope| {
            let there = scope.spawn(move || {
                let namespace = File::open(path).unwrap();
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                what()
            });
            there.join().unwrap()
        })
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
