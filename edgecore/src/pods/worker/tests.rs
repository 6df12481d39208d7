//! Workers against the runtime in memory.

mod beside;
mod haste;
mod hooks;
mod late;
mod probes;
mod pulls;
mod sidecars;

use serde_json::{Value, json};

use crate::pods::testbed::Node;

fn pod(spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "ns", "uid": "u1"}, "spec": spec})
}

fn deleted(mut pod: Value, grace: i64) -> Value {
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    pod
}

/// A node that has this pod's image, with the pod wanted.
async fn wanting(pod: &Value, prepare: impl FnOnce(&Node)) -> Node {
    let mut node = Node::new(&["app:1"]);
    prepare(&node);
    node.boot().await;
    node.sync();
    tokio::task::yield_now().await;
    node.want(pod);
    node
}

fn told(node: &Node, event: &str) -> usize {
    node.events().iter().filter(|told| *told == event).count()
}

/// What the runtime was told to stop, `seconds of grace` in the order of the calls.
fn graces(node: &Node) -> Vec<String> {
    let calls = node.runtime.calls().into_iter();
    calls
        .filter(|call| call.starts_with("StopContainer"))
        .filter_map(|call| call.rsplit(' ').next().map(str::to_owned))
        .collect()
}
