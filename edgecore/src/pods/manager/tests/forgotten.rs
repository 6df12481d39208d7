//! Restarts of containers that the runtime has forgotten.

use std::fs;

use super::*;

fn counts(node: &Node) -> Vec<i32> {
    let told = node.told("u1").into_iter();
    let first = told.filter_map(|status| status.container_statuses?.into_iter().next());
    first.map(|container| container.restart_count).collect()
}

/// The counts that were told of a container that ran, was forgotten and runs again.
async fn counts_over_a_loss(prepare: impl FnOnce(&Node)) -> Vec<i32> {
    let mut node = booted(&["app:1"]).await;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.stop().await;
    prepare(&node);
    node.runtime.forget_all();
    node.boot().await;
    node.until("Running again", |node| node.runtime.running() == ["c"])
        .await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let counts = counts(&node);
    assert!(counts.is_sorted(), "{counts:?}");
    counts
}

#[tokio::test(start_paused = true)]
async fn the_count_goes_on_from_what_was_told() {
    assert_eq!(counts_over_a_loss(|_| {}).await.last(), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn the_count_goes_on_from_what_is_logged() {
    let logged = |node: &Node| {
        let dir = node.link_dir().with_file_name("pods").join("ns_web_u1/c");
        fs::write(dir.join("3.log"), "").unwrap();
    };
    assert_eq!(counts_over_a_loss(logged).await.last(), Some(&4));
}
