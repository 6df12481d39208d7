//! The program under the limits that a container runtime gives it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::ErrorKind,
    net::TcpListener,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

/// How often it is looked whether the replica asked, with a [`PAUSE`] between.
const LOOKS: u32 = 12_000;
const PAUSE: Duration = Duration::from_millis(5);

/// A replica, and its end with the test.
struct Replica(Child);

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_replica_may_open_as_many_files_as_its_pod_may() {
    // An API server that never answers holds the replica at its start.
    let api = TcpListener::bind("127.0.0.1:0").unwrap();
    api.set_nonblocking(true).unwrap();
    let kubeconfig = std::env::temp_dir().join(format!("cloudcore-files-{}.yaml", std::process::id()));
    fs::write(&kubeconfig, config(&api)).unwrap();
    let low = r#"ulimit -Sn 256 && exec "$0" run --kubeconfig "$1""#;
    let started = Command::new("sh")
        .args(["-c", low, env!("CARGO_BIN_EXE_cloudcore")])
        .arg(&kubeconfig)
        .stderr(Stdio::inherit())
        .spawn();
    let mut replica = Replica(started.unwrap());
    let asked = (0..LOOKS).find_map(|_| {
        sleep(PAUSE);
        assert!(replica.0.try_wait().unwrap().is_none(), "the replica ended");
        match api.accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            asked => Some(asked.unwrap()),
        }
    });
    let _asked = asked.expect("no question came");
    let limits = fs::read_to_string(format!("/proc/{}/limits", replica.0.id())).unwrap();
    fs::remove_file(&kubeconfig).unwrap();
    let files = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let [soft, hard, _] = files.unwrap().split_whitespace().collect::<Vec<_>>()[..] else {
        panic!("{limits}")
    };
    assert_eq!(soft, hard, "{limits}");
}

fn config(api: &TcpListener) -> String {
    let server = api.local_addr().unwrap();
    format!(
        r#"{{"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{{"name": "c", "cluster": {{"server": "http://{server}"}}}}],
            "users": [{{"name": "c", "user": {{}}}}],
            "contexts": [{{"name": "c", "context": {{"cluster": "c", "user": "c"}}}}]}}"#
    )
}
