//! A device's clock that steps back: what was made later then seems to be older.

use std::time::Duration;

use super::{booted, web};
use crate::pods::testbed::Node;

const BACK: Duration = Duration::from_hours(1);

/// It runs, and nothing is made or ended any more.
async fn comes_to_rest(node: &Node, made: (usize, usize)) {
    node.until("it runs again", |node| node.runtime.running() == ["c"])
        .await;
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(node.runtime.running(), ["c"]);
    let count = |call| node.runtime.count(call);
    assert_eq!((count("RunPodSandbox"), count("CreateContainer")), made);
    assert_eq!(node.status("u1").container_statuses.unwrap()[0].restart_count, 1);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_boots_in_the_past_runs_its_pods() {
    let mut node = booted(&["app:1"]).await;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.stop().await;
    node.runtime.reboot();
    node.runtime.clock_steps_back(BACK);
    node.boot().await;
    comes_to_rest(&node, (2, 2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_restarts_after_a_step_back_is_left_alone() {
    let node = booted(&["app:1"]).await;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.runtime.clock_steps_back(BACK);
    node.runtime.end("c", 1);
    comes_to_rest(&node, (1, 2)).await;
}
