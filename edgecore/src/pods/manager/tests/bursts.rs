//! More pods at once than the node starts side by side.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{booted, pod};
use crate::pods::testbed::Node;
use crate::pods::volumes::testing::is_root;

/// How many pods a node of these tests starts side by side.
const SIDE_BY_SIDE: usize = 4;

fn burst(node: &Node, count: usize, volumes: &Value) {
    for uid in (0..count).map(|number| format!("u{number}")) {
        let spec = json!({"containers": [{"name": "c", "image": "app:1"}], "volumes": volumes});
        node.want(&pod(&uid, &uid, &spec));
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_waits_for_its_turn_asks_for_its_token_when_its_turn_comes() {
    if !is_root() {
        return;
    }
    let node = booted(&["app:1"]).await;
    node.tokens.set_clock(1_000_000);
    let takes = Duration::from_secs(30);
    node.runtime.sandboxes_take(takes);
    let began = Instant::now();
    let token =
        json!([{"name": "api", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]);
    burst(&node, SIDE_BY_SIDE + 1, &token);
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
