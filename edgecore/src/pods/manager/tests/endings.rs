//! Pods that are deleted: in which order they are stopped, reported, said to be gone and erased.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::warnings::Warnings;
use super::{booted, deleted, pod, web};
use crate::pods::testbed::Node;

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_is_stopped_reported_and_gone_in_this_order() {
    let node = booted(&["app:1"]).await;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.want(&deleted(web("u1"), 7));
    node.until("gone", |node| node.gone() == ["u1"]).await;
    assert!(
        node.runtime
            .calls()
            .iter()
            .any(|call| call.starts_with("StopContainer") && call.ends_with(" 7"))
    );
    let last = node.status("u1");
    assert_eq!(last.phase.as_deref(), Some("Failed"));
    assert!(
        last.container_statuses.unwrap()[0]
            .state
            .clone()
            .unwrap()
            .terminated
            .is_some()
    );
    assert_eq!((node.runtime.containers(), node.runtime.sandboxes()), (0, 0));
    node.forget("u1");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(node.gone().len(), 1);
    node.until("forgotten", |node| node.forgotten() == ["u1"]).await;
}

/// The pod `u1` runs, and beside it one that takes so many seconds to end.
async fn beside_a_slow_one(seconds: u32) -> (Node, Value) {
    let node = booted(&["app:1"]).await;
    let slow = json!({"containers": [{"name": "s", "image": "app:1",
        "lifecycle": {"preStop": {"sleep": {"seconds": seconds}}}}]});
    let slow = pod("slow", "u2", &slow);
    node.want(&web("u1"));
    node.want(&slow);
    node.until("both Running", |node| {
        node.phase("u1") == "Running" && node.phase("u2") == "Running"
    })
    .await;
    (node, slow)
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_pod_is_erased_when_the_others_have_stopped() {
    let (node, slow) = beside_a_slow_one(5).await;
    node.want(&deleted(web("u1"), 30));
    node.want(&deleted(slow, 30));
    node.until("the first gone", |node| node.gone() == ["u1"]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(node.runtime.count("RemovePodSandbox"), 0);
    node.until("both gone and erased", |node| {
        node.gone().len() == 2 && node.runtime.sandboxes() == 0
    })
    .await;
}

/// Ends the pod `u1` and wants another one of its name; says how long that takes to run.
async fn replaced(node: &Node) -> Duration {
    node.want(&deleted(web("u1"), 1));
    node.until("gone", |node| node.gone().contains(&"u1".to_owned()))
        .await;
    node.forget("u1");
    node.want(&web("u3"));
    let began = Instant::now();
    node.until("the new one", |node| node.phase("u3") == "Running")
        .await;
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_the_same_name_does_not_wait_for_others_that_end_slowly() {
    let (node, slow) = beside_a_slow_one(50).await;
    node.want(&deleted(slow, 60));
    let took = replaced(&node).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_the_same_name_does_not_wait_for_an_erasing_that_hangs() {
    let node = booted(&["app:1"]).await;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.runtime.removals_hang(true);
    let took = replaced(&node).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(node.runtime.sandboxes(), 2);
    node.runtime.removals_hang(false);
    let began = Instant::now();
    node.until("the old one is erased all the same", |node| {
        node.runtime.sandboxes() == 1 || began.elapsed() > Duration::from_mins(5)
    })
    .await;
    assert_eq!(
        (node.runtime.sandboxes(), node.runtime.running()),
        (1, vec!["c".to_owned()])
    );
}

#[tokio::test(start_paused = true)]
async fn the_dead_remains_of_an_orphan_hold_no_name() {
    let mut node = booted(&["app:1"]).await;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.stop().await;
    node.runtime.reboot();
    node.runtime.stops_hang(true);
    node.forget("u1");
    node.boot().await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    node.want(&web("u2"));
    let wanted = Instant::now();
    node.until("the successor", |node| node.phase("u2") == "Running")
        .await;
    assert!(
        wanted.elapsed() < Duration::from_secs(2),
        "{:?}",
        wanted.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn an_orphan_that_still_runs_holds_its_name() {
    let mut node = booted(&["app:1"]).await;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.stop().await;
    node.runtime.stops_hang(true);
    node.forget("u1");
    node.boot().await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    node.want(&web("u2"));
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(node.phase("u2"), "");
    node.runtime.stops_hang(false);
    node.until("the successor", |node| node.phase("u2") == "Running")
        .await;
}

/// What it ends with stands in its annotations, and is longer than the order to end gives.
#[tokio::test(start_paused = true)]
async fn an_orphan_with_a_long_grace_is_stopped_once_and_its_hook_run() {
    for (lifecycle, given) in [
        (json!({}), " 60"),
        (json!({"preStop": {"sleep": {"seconds": 5}}}), " 55"),
    ] {
        let mut node = booted(&["app:1"]).await;
        let container = json!({"name": "c", "image": "app:1", "lifecycle": lifecycle});
        let spec = json!({"terminationGracePeriodSeconds": 60, "containers": [container]});
        node.want(&pod("web", "u1", &spec));
        node.until("Running", |node| node.phase("u1") == "Running").await;
        node.stop().await;
        node.forget("u1");
        node.boot().await;
        let before = node.runtime.count("ListContainers");
        // The clock is pushed on: a worker that never rests would keep it from moving by itself.
        for _ in 0..4000 {
            tokio::time::advance(Duration::from_millis(10)).await;
            tokio::task::yield_now().await;
            std::thread::sleep(Duration::from_micros(50));
            let looks = node.runtime.count("ListContainers") - before;
            assert!(looks < 100, "{looks} looks");
        }
        assert_eq!((node.runtime.running().len(), node.runtime.sandboxes()), (0, 0));
        let calls = node.runtime.calls();
        let stops: Vec<_> = calls
            .iter()
            .filter(|call| call.starts_with("StopContainer"))
            .collect();
        assert!(stops.len() == 1 && stops[0].ends_with(given), "{stops:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn remains_that_resist_are_warned_of_once_with_the_pods_name() {
    let (warnings, _guard) = Warnings::heard();
    let node = booted(&["app:1"]).await;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.runtime.removals_hang(true);
    node.want(&deleted(web("u1"), 1));
    tokio::time::sleep(Duration::from_mins(20)).await;
    let told = warnings.with("cannot be erased");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("pod=\"web\"") && told[0].contains("sandbox"),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_came_and_went_before_anybody_worked_on_it_is_forgotten() {
    let node = booted(&["app:1"]).await;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.report
        .unforgotten
        .lock()
        .extend(["u1".to_owned(), "u2".to_owned()]);
    node.until("forgotten", |node| !node.forgotten().is_empty()).await;
    assert_eq!(node.forgotten()[0], "u2");
    assert!(!node.forgotten().contains(&"u1".to_owned()), "it runs");
}
