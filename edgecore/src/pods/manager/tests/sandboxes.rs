//! What is left of a sandbox that died.

use serde_json::json;

use super::{booted, pod, web};

#[tokio::test(start_paused = true)]
async fn a_dead_sandbox_is_stopped_before_its_successor_is_made() {
    let mut node = booted(&["app:1"]).await;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.stop().await;
    node.runtime.reboot();
    node.boot().await;
    node.until("Running again", |node| node.runtime.running() == ["c"])
        .await;
    let calls = node.runtime.calls();
    let calls = calls.iter().filter_map(|call| call.split(' ').next());
    let of_sandboxes = calls.filter(|call| ["RunPodSandbox", "StopPodSandbox"].contains(call));
    let told: Vec<&str> = of_sandboxes.collect();
    assert_eq!(told, ["RunPodSandbox", "StopPodSandbox", "RunPodSandbox"]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_sandbox_that_cannot_be_stopped_does_not_keep_its_pod_down() {
    let mut node = booted(&["app:1"]).await;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.stop().await;
    node.runtime.reboot();
    for _ in 0..3 {
        node.runtime
            .fail_next("StopPodSandbox", "the network is not there");
    }
    node.boot().await;
    node.until("Running again", |node| node.runtime.running() == ["c"])
        .await;
    assert_eq!(node.runtime.count("StopPodSandbox"), 3);
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_sandbox_dies_is_not_done_because_it_ends_well_when_it_is_stopped() {
    let node = booted(&["app:1"]).await;
    let mut job = web("u1");
    job["spec"]["restartPolicy"] = json!("OnFailure");
    node.want(&job);
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.runtime.sandboxes_die();
    node.until("Running again", |node| {
        node.runtime.count("CreateContainer") == 2 && node.runtime.running() == ["c"]
    })
    .await;
    let over = node
        .told("u1")
        .into_iter()
        .find(|status| status.phase.as_deref() == Some("Succeeded"));
    assert_eq!(over, None);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_never_restarts_runs_again_where_its_sandbox_was_replaced() {
    let node = booted(&["app:1"]).await;
    let containers =
        json!([{"name": "a", "image": "app:1"}, {"name": "b", "image": "app:1", "restartPolicy": "Never"}]);
    node.want(&pod("web", "u1", &json!({"containers": containers})));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.runtime.sandboxes_die();
    node.until("Running again", |node| {
        node.runtime.count("CreateContainer") == 4 && node.runtime.running() == ["a", "b"]
    })
    .await;
    let mut phases = node.told("u1").into_iter().filter_map(|status| status.phase);
    assert!(phases.all(|phase| phase == "Pending" || phase == "Running"));
}
