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

/// A node whose container ran, was forgotten so many times and runs again.
async fn after(losses: usize, prepare: impl Fn(&Node)) -> Node {
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
    node
}

#[tokio::test(start_paused = true)]
async fn the_count_goes_on_from_what_was_told() {
    let node = after(1, |_| {}).await;
    assert_eq!(counts(&node).last(), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn each_loss_counts_though_the_logs_were_lost_with_it() {
    let lost = |node: &Node| {
        fs::remove_dir_all(logs(node)).unwrap();
        // So slow that the loss is told before the container runs again.
        node.runtime.takes("RunPodSandbox", Duration::from_secs(2));
    };
    let node = after(3, lost).await;
    assert_eq!(counts(&node).last(), Some(&3));
}

#[tokio::test(start_paused = true)]
async fn the_count_goes_on_from_what_is_logged() {
    let logged = |node: &Node| {
        for name in ["2.log", "3.log"] {
            fs::write(logs(node).join(name), "").unwrap();
        }
    };
    let node = after(1, logged).await;
    assert_eq!(counts(&node).last(), Some(&4));
    let kept = fs::read_dir(logs(&node)).unwrap().flatten();
    let kept: Vec<_> = kept.map(|log| log.file_name()).collect();
    assert_eq!(kept, ["3.log"]);
}
