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
