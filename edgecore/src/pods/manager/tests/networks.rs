//! Pods whose networks do not answer: their sandboxes are asked for, and do not come.

use std::time::Duration;

use serde_json::json;

use super::{booted, deleted, pod, web};
use crate::pods::testbed::Node;

/// How many pods a node of these tests starts side by side.
const SIDE_BY_SIDE: usize = 4;
/// Until the runtime gives up.
const HANGS: Duration = Duration::from_mins(4);

/// So many pods that hang as start side by side: nobody else has a turn now.
async fn hang(node: &Node) {
    node.runtime.takes("RunPodSandbox", HANGS);
    let before = node.runtime.begun("RunPodSandbox");
    for n in 0..SIDE_BY_SIDE {
        let name = format!("hangs-{n}");
        let spec = json!({"containers": [{"name": &name, "image": "app:1"}]});
        node.want(&pod(&name, &name, &spec));
    }
    let all = |node: &Node| node.runtime.begun("RunPodSandbox") == before + SIDE_BY_SIDE;
    node.until("their sandboxes are asked for", all).await;
    node.runtime.takes("RunPodSandbox", Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn they_keep_no_other_from_starting_and_come_up_when_the_network_answers() {
    let node = booted(&["app:1"]).await;
    hang(&node).await;
    node.want(&web("u1"));
    node.until("the other one", |node| node.runtime.running() == ["c"])
        .await;
    assert_eq!(node.runtime.sandboxes(), 1, "it was not waited for");
    let all = |node: &Node| node.runtime.running().len() == SIDE_BY_SIDE + 1;
    node.until("all of them", all).await;
    assert_eq!(node.runtime.begun("RunPodSandbox"), SIDE_BY_SIDE + 1, "once each");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_deleted_does_not_wait_for_its_turn_to_make_a_sandbox() {
    let node = booted(&["app:1"]).await;
    hang(&node).await;
    node.want(&web("u1"));
    node.until("it waits", |node| node.phase("u1") == "Pending").await;
    node.want(&deleted(web("u1"), 30));
    node.until("gone", |node| node.gone() == ["u1"]).await;
    assert_eq!(node.runtime.begun("RunPodSandbox"), SIDE_BY_SIDE);
}

#[tokio::test(start_paused = true)]
async fn nor_for_its_turn_to_start_a_container() {
    let node = booted(&["app:1"]).await;
    node.runtime.publish("late:1");
    node.runtime.pulls_take(Duration::from_secs(5));
    let late = pod(
        "web",
        "u1",
        &json!({"containers": [{"name": "c", "image": "late:1"}]}),
    );
    node.want(&late);
    node.until("its sandbox", |node| node.runtime.sandboxes() == 1)
        .await;
    hang(&node).await;
    node.until("its image", |node| node.runtime.count("PullImage") == 1)
        .await;
    node.want(&deleted(late, 30));
    node.until("gone", |node| node.gone() == ["u1"]).await;
    assert_eq!(node.runtime.count("CreateContainer"), 0);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!node.events().iter().any(|told| told.starts_with("Failed")));
}

/// A node with a pod whose sandbox takes so long, which is deleted as soon as it was asked for.
async fn deleted_early(takes: Duration, prepare: impl FnOnce(&Node)) -> Node {
    let node = booted(&["app:1"]).await;
    prepare(&node);
    node.runtime.takes("RunPodSandbox", takes);
    node.want(&web("u1"));
    node.until("it is asked for", |node| node.runtime.begun("RunPodSandbox") == 1)
        .await;
    node.want(&deleted(web("u1"), 30));
    node.until("gone", |node| node.gone() == ["u1"]).await;
    node
}

#[tokio::test(start_paused = true)]
async fn nor_for_its_own_sandbox() {
    let node = deleted_early(Duration::from_hours(1), |_| {}).await;
    assert_eq!(node.runtime.count("RunPodSandbox"), 0, "it was not waited for");
    node.forget("u1");
    node.until("forgotten", |node| node.forgotten() == ["u1"]).await;
    // And the node has its turns for others.
    node.runtime.takes("RunPodSandbox", Duration::ZERO);
    node.want(&web("u2"));
    node.until("Running", |node| node.phase("u2") == "Running").await;
}

#[tokio::test(start_paused = true)]
async fn what_the_runtime_makes_of_a_deleted_pod_all_the_same_is_removed() {
    for forgotten in [false, true] {
        let regardless = |node: &Node| node.runtime.goes_on_regardless();
        let node = deleted_early(Duration::from_mins(2), regardless).await;
        assert_eq!(node.runtime.count("RunPodSandbox"), 0, "it was not waited for");
        if forgotten {
            node.forget("u1");
            node.until("forgotten", |node| node.forgotten() == ["u1"]).await;
        }
        node.until("it is made", |node| node.runtime.count("RunPodSandbox") == 1)
            .await;
        node.until("it is removed", |node| node.runtime.sandboxes() == 0)
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_comes_soon_is_not_given_up() {
    let node = deleted_early(Duration::from_secs(5), |_| {}).await;
    assert_eq!(node.runtime.count("RunPodSandbox"), 1);
    node.until("it is removed", |node| node.runtime.sandboxes() == 0)
        .await;
}
