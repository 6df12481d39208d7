//! Pods that get another size while they run.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition};
use serde_json::{Value, json};

use super::{booted, deleted, pod};
use crate::pods::testbed::Node;

const MI: i64 = 1 << 20;

/// A pod whose container requests `cpu` thousandths and is limited to `memory` Mi.
fn sized(name: &str, (cpu, memory): (u32, u32), generation: i64) -> Value {
    let resources = json!({"requests": {"cpu": format!("{cpu}m"), "memory": "16Mi"},
        "limits": {"memory": format!("{memory}Mi")}});
    let container = json!({"name": name, "image": "app:1", "resources": resources});
    let mut pod = pod(name, name, &json!({"containers": [container]}));
    pod["metadata"]["generation"] = json!(generation);
    pod
}

fn container(node: &Node, uid: &str) -> ContainerStatus {
    node.status(uid).container_statuses.unwrap().remove(0)
}

fn limit(node: &Node, uid: &str) -> String {
    container(node, uid).resources.unwrap().limits.unwrap()["memory"]
        .0
        .clone()
}

fn condition(node: &Node, uid: &str, kind: &str) -> Option<PodCondition> {
    let conditions = node.status(uid).conditions.unwrap_or_default();
    conditions.into_iter().find(|c| c.type_ == kind)
}

async fn runs(node: &Node, uid: &str) {
    node.until("Running", |node| node.phase(uid) == "Running").await;
}

#[tokio::test(start_paused = true)]
async fn a_running_container_gets_its_new_size_without_a_restart() {
    let node = booted(&["app:1"]).await;
    node.want(&sized("web", (100, 64), 1));
    runs(&node, "web").await;
    assert_eq!(node.runtime.memory_limits(), [64 * MI]);
    let id = container(&node, "web").container_id;
    node.want(&sized("web", (200, 128), 2));
    node.until("the new size", |node| limit(node, "web") == "128Mi")
        .await;
    assert_eq!(node.runtime.memory_limits(), [128 * MI]);
    let done = |node: &Node| condition(node, "web", "PodResizeInProgress").is_none();
    node.until("the end of it", done).await;
    let status = container(&node, "web");
    assert_eq!((status.container_id, status.restart_count), (id, 0));
    assert_eq!(status.allocated_resources.unwrap()["cpu"].0, "200m");
    assert!(condition(&node, "web", "PodResizePending").is_none());
    node.hear("ResizeStarted: Pod resize started: {\"containers\"")
        .await;
    node.hear("ResizeCompleted: Pod resize completed: ").await;
    let updates = node.runtime.count("UpdateContainerResources");
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!((updates, node.runtime.count("UpdateContainerResources")), (1, 1));
    let told: Vec<_> = node.told("web");
    let in_progress =
        |c: &&PodCondition| c.type_ == "PodResizeInProgress" && c.observed_generation == Some(2);
    assert!(
        told.iter()
            .any(|status| status.conditions.iter().flatten().any(|c| in_progress(&c))),
        "it was told to be under way"
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_node_cannot_give_now_waits_until_another_pod_ends() {
    let node = booted(&["app:1"]).await;
    node.want(&sized("big", (3000, 64), 1));
    runs(&node, "big").await;
    node.want(&sized("web", (100, 64), 1));
    runs(&node, "web").await;
    node.want(&sized("web", (2000, 128), 2));
    let deferred = |node: &Node| {
        condition(node, "web", "PodResizePending").is_some_and(|c| c.reason.as_deref() == Some("Deferred"))
    };
    node.until("Deferred", deferred).await;
    let told = condition(&node, "web", "PodResizePending").unwrap();
    assert_eq!(told.observed_generation, Some(2));
    assert_eq!(
        told.message.as_deref(),
        Some("Node didn't have enough resource: cpu, requested: 2000, used: 3000, capacity: 4000")
    );
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(limit(&node, "web"), "64Mi", "what is told is what is set");
    assert_eq!(
        container(&node, "web").allocated_resources.unwrap()["cpu"].0,
        "100m"
    );
    assert_eq!(node.runtime.count("UpdateContainerResources"), 0);
    node.want(&deleted(sized("big", (3000, 64), 1), 1));
    node.until("the new size", |node| limit(node, "web") == "128Mi")
        .await;
    let gone = |node: &Node| condition(node, "web", "PodResizePending").is_none();
    node.until("no wait any more", gone).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_node_can_never_give_is_infeasible_and_outlives_a_restart_of_edgecore() {
    let mut node = booted(&["app:1"]).await;
    node.want(&sized("web", (100, 64), 1));
    runs(&node, "web").await;
    node.want(&sized("web", (5000, 128), 2));
    let infeasible = |node: &Node| {
        condition(node, "web", "PodResizePending").is_some_and(|c| c.reason.as_deref() == Some("Infeasible"))
    };
    node.until("Infeasible", infeasible).await;
    node.kill().await;
    node.boot().await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(infeasible(&node));
    assert_eq!(limit(&node, "web"), "64Mi");
    node.runtime.end("web", 1);
    node.until("the restart", |node| container(node, "web").restart_count == 1)
        .await;
    assert_eq!(
        node.runtime.memory_limits(),
        [64 * MI],
        "it starts with what it was given"
    );
    node.want(&sized("web", (100, 64), 3));
    let taken_back = |node: &Node| condition(node, "web", "PodResizePending").is_none();
    node.until("the wish is taken back", taken_back).await;
    assert_eq!(node.runtime.count("UpdateContainerResources"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_resize_that_fails_says_why_and_is_tried_again_also_after_a_restart() {
    let mut node = booted(&["app:1"]).await;
    node.want(&sized("web", (100, 64), 1));
    runs(&node, "web").await;
    for _ in 0..2 {
        node.runtime
            .fail_next("UpdateContainerResources", "no such cgroup");
    }
    node.want(&sized("web", (100, 128), 2));
    let failed = |node: &Node| {
        condition(node, "web", "PodResizeInProgress").is_some_and(|c| c.reason.as_deref() == Some("Error"))
    };
    node.until("the error", failed).await;
    let told = condition(&node, "web", "PodResizeInProgress").unwrap();
    assert!(told.message.unwrap().contains("no such cgroup"));
    assert_eq!(limit(&node, "web"), "64Mi");
    node.hear("ResizeError: Pod resize error: ").await;
    node.kill().await;
    node.boot().await;
    node.until("the new size", |node| limit(node, "web") == "128Mi")
        .await;
    assert_eq!(node.runtime.memory_limits(), [128 * MI]);
    let done = |node: &Node| condition(node, "web", "PodResizeInProgress").is_none();
    node.until("the end of it", done).await;
}

#[tokio::test(start_paused = true)]
async fn a_size_that_was_only_told_by_an_older_edgecore_is_set() {
    let mut node = booted(&["app:1"]).await;
    node.want(&sized("web", (100, 64), 1));
    runs(&node, "web").await;
    node.kill().await;
    let mut status = node.status("web");
    let told = &mut status.container_statuses.as_mut().unwrap()[0];
    let limits = told.resources.as_mut().unwrap().limits.as_mut().unwrap();
    limits.get_mut("memory").unwrap().0 = "128Mi".to_owned();
    node.tell("web", status);
    node.want(&sized("web", (100, 128), 2));
    node.boot().await;
    node.until("the size", |node| node.runtime.memory_limits() == [128 * MI])
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_container_whose_policy_says_so_starts_anew() {
    let node = booted(&["app:1"]).await;
    let policed = |memory: u32, generation: i64| {
        let mut pod = sized("web", (100, memory), generation);
        pod["spec"]["containers"][0]["resizePolicy"] =
            json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        pod
    };
    node.want(&policed(64, 1));
    runs(&node, "web").await;
    node.want(&policed(128, 2));
    node.until("the restart", |node| container(node, "web").restart_count == 1)
        .await;
    assert_eq!(node.runtime.memory_limits(), [128 * MI]);
    assert_eq!(limit(&node, "web"), "128Mi");
    node.hear("Killing: Container web resize requires restart").await;
    let done = |node: &Node| condition(node, "web", "PodResizeInProgress").is_none();
    node.until("the end of it", done).await;
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(container(&node, "web").restart_count, 1);
    assert_eq!(node.runtime.count("UpdateContainerResources"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_shows_other_numbers_than_it_was_told_starts_nothing_anew() {
    let mut node = booted(&["app:1"]).await;
    let mut policed = sized("web", (100, 64), 1);
    policed["spec"]["containers"][0]["resizePolicy"] =
        json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    node.runtime.shows_memory_limit(48 * MI);
    node.want(&policed);
    runs(&node, "web").await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    node.kill().await;
    node.boot().await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(container(&node, "web").restart_count, 0);
    assert!(node.runtime.count("UpdateContainerResources") <= 1);
}
