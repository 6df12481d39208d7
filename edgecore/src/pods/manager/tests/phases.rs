//! `Succeeded` and `Failed` are told when nothing of a pod runs any more: whoever counts on them starts another one in
//! its place, which may want the same device.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use serde_json::{Value, json};

use super::{booted, pod};
use crate::pods::spec;
use crate::pods::status::is_terminal;
use crate::pods::testbed::Node;

/// A container that takes its time to end.
fn slow(name: &str) -> Value {
    json!({"name": name, "image": "app:1", "lifecycle": {"preStop": {"sleep": {"seconds": 20}}}})
}

fn runs(status: &PodStatus) -> bool {
    let running = |container: &ContainerStatus| {
        let state = container.state.as_ref();
        state.is_some_and(|state| state.running.is_some())
    };
    spec::container_statuses(status).iter().any(running)
}

/// The pod ends in this phase, which is told beside nothing that runs.
async fn ends(node: &Node, phase: &str) {
    node.until("Running", |node| runs(&node.status("u1"))).await;
    node.until("its end", |node| is_terminal(&node.status("u1")))
        .await;
    assert_eq!(
        (node.phase("u1").as_str(), node.runtime.running().len()),
        (phase, 0)
    );
    let told = node.told("u1");
    let early = told.iter().find(|status| is_terminal(status) && runs(status));
    assert_eq!(early, None);
    let ready = |status: &&PodStatus| {
        let mut all = status.conditions.iter().flatten();
        all.any(|c| c.type_ == "Ready" && c.status == "False" && !is_terminal(status))
    };
    assert!(
        told.iter().any(|status| runs(status) && ready(&status)),
        "{told:?}"
    );
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(node.phase("u1"), phase);
}

#[tokio::test(start_paused = true)]
async fn past_its_deadline() {
    let node = booted(&["app:1"]).await;
    node.want(&pod(
        "web",
        "u1",
        &json!({"activeDeadlineSeconds": 60, "containers": [slow("c")]}),
    ));
    ends(&node, "Failed").await;
    assert_eq!(node.status("u1").reason.as_deref(), Some("DeadlineExceeded"));
}

#[tokio::test(start_paused = true)]
async fn with_an_init_container_that_failed_beside_a_sidecar() {
    let node = booted(&["app:1"]).await;
    node.runtime.exits_at_once("i", 1);
    let mut sidecar = slow("side");
    sidecar["restartPolicy"] = json!("Always");
    let inits = [sidecar, json!({"name": "i", "image": "app:1"})];
    let main = json!({"name": "c", "image": "app:1"});
    let spec = json!({"restartPolicy": "Never", "initContainers": inits, "containers": [main]});
    node.want(&pod("web", "u1", &spec));
    ends(&node, "Failed").await;
}

#[tokio::test(start_paused = true)]
async fn with_its_work_done_beside_a_sidecar_and_an_agent_that_is_restarted_meanwhile() {
    let mut node = booted(&["app:1"]).await;
    let mut sidecar = slow("side");
    sidecar["restartPolicy"] = json!("Always");
    let main = json!({"name": "c", "image": "app:1"});
    let spec = json!({"restartPolicy": "OnFailure", "initContainers": [sidecar], "containers": [main]});
    node.want(&pod("web", "u1", &spec));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.runtime.end("c", 0);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(node.runtime.running(), ["side"]);
    node.kill().await;
    node.boot().await;
    ends(&node, "Succeeded").await;
    assert_eq!(node.runtime.count("CreateContainer"), 2, "neither ran again");
}

#[tokio::test(start_paused = true)]
async fn before_its_main_containers_had_their_turn() {
    let mut node = booted(&["app:1"]).await;
    node.runtime.ends_well_when_stopped();
    let (init, main) = (
        json!({"name": "i", "image": "app:1"}),
        json!({"name": "c", "image": "app:1"}),
    );
    let spec = json!({"activeDeadlineSeconds": 60, "initContainers": [init], "containers": [main]});
    node.want(&pod("web", "u1", &spec));
    node.until("its end", |node| is_terminal(&node.status("u1")))
        .await;
    for _ in 0..2 {
        let status = node.status("u1");
        let state = |all: Option<Vec<ContainerStatus>>| all.unwrap()[0].state.clone().unwrap();
        let init = state(status.init_container_statuses).terminated.unwrap();
        assert_eq!(init.exit_code, 0);
        let main = state(status.container_statuses).waiting.unwrap();
        assert_eq!(main.reason.as_deref(), Some("PodInitializing"));
        node.stop().await;
        node.boot().await;
        tokio::time::sleep(Duration::from_mins(2)).await;
    }
}
