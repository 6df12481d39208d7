//! What probes say while the worker works.

use std::time::Duration;

use super::*;

/// A pod of one container with a liveness and a readiness probe, which takes a minute to stop.
fn probed() -> Value {
    let probe =
        |command: &str| json!({"exec": {"command": [command]}, "periodSeconds": 2, "failureThreshold": 1});
    pod(
        &json!({"terminationGracePeriodSeconds": 90, "containers": [{"name": "c", "image": "app:1",
        "livenessProbe": probe("alive"), "readinessProbe": probe("ready"),
        "lifecycle": {"preStop": {"sleep": {"seconds": 60}}}}]}),
    )
}

fn is_ready(node: &Node, ready: &str) -> bool {
    let conditions = node.status("u1").conditions.unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == ready)
}

fn asked(node: &Node, command: &str) -> usize {
    let calls = node.runtime.calls();
    calls
        .iter()
        .filter(|call| **call == format!("ExecSync {command}"))
        .count()
}

async fn ready() -> Node {
    let node = wanting(&probed(), |_| ()).await;
    node.until("Ready", |node| is_ready(node, "True")).await;
    node
}

#[tokio::test(start_paused = true)]
async fn a_container_that_hangs_is_not_ready_while_it_is_killed() {
    let node = ready().await;
    node.runtime.commands("alive", 1, Duration::ZERO);
    node.hear("Killing: Container c failed liveness probe").await;
    assert!(is_ready(&node, "True"));
    node.runtime.commands("ready", 1, Duration::ZERO);
    node.until("Ready=False", |node| is_ready(node, "False")).await;
    assert_eq!(graces(&node), [""; 0], "the kill still goes on");
    node.runtime.commands("ready", 0, Duration::ZERO);
    node.until("Ready again", |node| is_ready(node, "True")).await;
    assert_eq!(graces(&node), [""; 0], "the kill still goes on");
    assert_eq!(node.runtime.running(), ["c"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_ends_is_asked_whether_it_is_ready_and_no_longer_whether_it_lives() {
    let node = ready().await;
    node.want(&deleted(probed(), 90));
    node.hear("Killing").await;
    let before = (asked(&node, "alive"), asked(&node, "ready"));
    for command in ["alive", "ready"] {
        node.runtime.commands(command, 1, Duration::ZERO);
    }
    node.until("Ready=False", |node| is_ready(node, "False")).await;
    assert_eq!(graces(&node), [""; 0], "it still ends");
    node.until("gone", |node| node.gone() == ["u1"]).await;
    assert!(asked(&node, "ready") > before.1 + 10);
    assert_eq!(asked(&node, "alive"), before.0);
}

#[tokio::test(start_paused = true)]
async fn what_a_probe_finds_is_told_while_the_worker_works() {
    let node = ready().await;
    node.want(&deleted(probed(), 90));
    node.hear("Killing").await;
    node.runtime.commands("ready", 1, Duration::ZERO);
    node.hear("Unhealthy: Readiness probe failed").await;
    assert_eq!(graces(&node), [""; 0], "it still ends");
}
