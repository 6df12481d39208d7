//! Pods that are not admitted.

use serde_json::{Value, json};

use super::pod;
use crate::pods::testbed::Node;

fn with_host_port(name: &str, uid: &str, created: &str) -> Value {
    let containers =
        json!([{"name": "c", "image": "app:1", "ports": [{"containerPort": 80, "hostPort": 8080}]}]);
    let mut pod = pod(name, uid, &json!({ "containers": containers }));
    pod["metadata"]["creationTimestamp"] = json!(created);
    pod
}

#[tokio::test(start_paused = true)]
async fn of_two_pods_with_one_host_port_the_older_runs_and_the_other_fails_as_under_the_kubelet() {
    let mut node = Node::new(&["app:1"]);
    node.want(&with_host_port("a-younger", "u1", "2026-01-02T00:00:00Z"));
    node.want(&with_host_port("b-older", "u2", "2026-01-01T00:00:00Z"));
    node.sync();
    node.boot().await;
    node.until("Running", |node| node.phase("u2") == "Running").await;
    node.until("Failed", |node| node.phase("u1") == "Failed").await;
    let status = node.status("u1");
    assert_eq!(status.reason.as_deref(), Some("NodePorts"));
    let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    assert_eq!(status.message.unwrap(), format!("Pod was rejected: {message}"));
    assert_eq!((status.container_statuses, status.conditions), (None, None));
    node.hear(&format!("NodePorts: {message}")).await;
    assert_eq!(node.runtime.count("RunPodSandbox"), 1);

    // Restarted, it still fails; and once the first has gone, the port is free for another.
    node.stop().await;
    node.boot().await;
    node.forget("u2");
    node.until("forgotten", |node| node.forgotten().contains(&"u2".to_owned()))
        .await;
    node.want(&with_host_port("c-youngest", "u3", "2026-01-03T00:00:00Z"));
    node.until("Running", |node| node.phase("u3") == "Running").await;
    assert_eq!(node.phase("u1"), "Failed");
}
