//! Runs a test in a network namespace of its own, where it may do as it likes.

use std::process::Command;

/// Runs the ignored test `name` (its whole path in the crate) there, as root, with `lo` up.
pub(super) fn in_a_namespace(name: &str) {
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
