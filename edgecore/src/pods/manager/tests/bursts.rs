//! More pods at once than the node starts side by side.

use std::time::Duration;

use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{booted, pod};
use crate::pods::testbed::Node;
use crate::pods::volumes::testing::is_root;

/// How many pods a node of these tests starts side by side.
const SIDE_BY_SIDE: usize = 4;

fn burst(node: &Node, count: usize, volumes: &Value) -> Vec<String> {
    let uids: Vec<String> = (0..count).map(|number| format!("u{number}")).collect();
    for uid in &uids {
        let spec = json!({"containers": [{"name": "c", "image": "app:1"}], "volumes": volumes});
        node.want(&pod(uid, uid, &spec));
    }
    uids
}

fn token() -> Value {
    json!([{"name": "api", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}])
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_waits_for_its_turn_asks_for_its_token_when_its_turn_comes() {
    if !is_root() {
        return;
    }
    let node = booted(&["app:1"]).await;
    node.tokens.set_clock(1_000_000);
    let takes = Duration::from_secs(8);
    node.runtime.takes("RunPodSandbox", takes);
    let began = Instant::now();
    burst(&node, SIDE_BY_SIDE + 1, &token());
    let all_run = |node: &Node| node.runtime.running().len() == SIDE_BY_SIDE + 1;
    node.until("all of them", all_run).await;
    let asked = node.tokens.asked.lock().clone();
    assert_eq!(asked.len(), SIDE_BY_SIDE + 1, "once each: {asked:?}");
    let (_, last) = asked.last().unwrap();
    assert!(*last >= began + takes, "{asked:?}");
    assert!(
        asked[..SIDE_BY_SIDE].iter().all(|(_, at)| *at < began + takes),
        "{asked:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_that_comes_a_little_later_than_the_sandbox_costs_no_pod_its_turn() {
    if !is_root() {
        return;
    }
    let node = booted(&["app:1"]).await;
    node.tokens.set_clock(1_000_000);
    *node.tokens.takes.lock() = Duration::from_millis(500);
    burst(&node, SIDE_BY_SIDE + 1, &token());
    let all_run = |node: &Node| node.runtime.running().len() == SIDE_BY_SIDE + 1;
    node.until("all of them", all_run).await;
    let calls = node.runtime.calls();
    let last = calls.iter().rposition(|call| call.starts_with("RunPodSandbox"));
    let before = &calls[..last.unwrap()];
    assert!(
        before.iter().any(|call| call.starts_with("StartContainer")),
        "{calls:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_pods_of_a_burst_that_start_within_seconds_tell_one_status_each() {
    let node = booted(&["app:1"]).await;
    node.runtime.takes("RunPodSandbox", Duration::from_secs(1));
    let uids = burst(&node, SIDE_BY_SIDE * 3, &json!([]));
    for uid in &uids {
        node.until("Running", |node| node.phase(uid) == "Running").await;
        let waited = |status: &PodStatus| status.phase.as_deref() == Some("Pending");
        assert!(!node.told(uid).iter().any(waited), "{uid}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_turn_does_not_come_for_long_says_meanwhile_that_it_waits() {
    let node = booted(&["app:1"]).await;
    node.runtime.takes("RunPodSandbox", Duration::from_secs(30));
    let began = Instant::now();
    let uids = burst(&node, SIDE_BY_SIDE + 1, &json!([]));
    for uid in &uids {
        node.until("Pending", |node| node.phase(uid) == "Pending").await;
    }
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
}
