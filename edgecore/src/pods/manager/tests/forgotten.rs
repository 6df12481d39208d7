//! Restarts of containers that the runtime has forgotten.

use std::fs;
use std::path::PathBuf;

use super::*;

fn counts(node: &Node) -> Vec<i32> {
    let told = node.told("u1").into_iter();
    let first = told.filter_map(|status| status.container_statuses?.into_iter().next());
    first.map(|container| container.restart_count).collect()
}

/// Where the container's logs are.
fn logs(node: &Node) -> PathBuf {
    node.link_dir().with_file_name("pods").join("ns_web_u1/c")
}

/// The counts that were told of a container that ran, was forgotten so many times and runs again.
async fn counts_over(losses: usize, prepare: impl Fn(&Node)) -> Vec<i32> {
    let mut node = booted(&["app:1"]).await;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    for _ in 0..losses {
        node.stop().await;
        prepare(&node);
        node.runtime.forget_all();
        node.boot().await;
        node.until("Running again", |node| node.runtime.running() == ["c"])
            .await;
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    let counts = counts(&node);
    assert!(counts.is_sorted(), "{counts:?}");
    counts
}

#[tokio::test(start_paused = true)]
async fn the_count_goes_on_from_what_was_told() {
    assert_eq!(counts_over(1, |_| {}).await.last(), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn each_loss_counts_though_the_logs_were_lost_with_it() {
    let lost = |node: &Node| {
        fs::remove_dir_all(logs(node)).unwrap();
        // So slow that the loss is told before the container runs again.
        node.runtime.sandboxes_take(Duration::from_secs(2));
    };
    assert_eq!(counts_over(3, lost).await.last(), Some(&3));
}

#[tokio::test(start_paused = true)]
async fn the_count_goes_on_from_what_is_logged() {
    let logged = |node: &Node| fs::write(logs(node).join("3.log"), "").unwrap();
    assert_eq!(counts_over(1, logged).await.last(), Some(&4));
}
