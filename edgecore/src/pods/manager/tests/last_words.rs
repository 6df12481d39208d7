//! The files in which containers leave their last words.

use std::time::Duration;

use serde_json::json;

use super::{booted, web};
use crate::pods::testbed::Node;

fn files(node: &Node) -> Vec<u32> {
    let dir = std::fs::read_dir(node.on_disk("u1", "containers/c")).into_iter();
    let names = dir.flatten().flatten().map(|entry| entry.file_name());
    let mut numbers: Vec<u32> = names
        .map(|name| name.to_str().unwrap().parse().unwrap())
        .collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_leaves_no_more_files_than_containers() {
    let node = booted(&["app:1"]).await;
    node.runtime.exits_at_once("c", 3);
    let mut pod = web("u1");
    pod["spec"]["containers"][0]["terminationMessagePath"] = json!("/dev/termination-log");
    node.want(&pod);
    node.until("some crashes", |node| node.runtime.count("CreateContainer") >= 3)
        .await;
    // The runtime lost one, and its file is left.
    std::fs::write(node.on_disk("u1", "containers/c/0"), "lost").unwrap();
    node.until("more crashes", |node| node.runtime.count("CreateContainer") >= 5)
        .await;
    node.runtime.keeps_running("c");
    node.until("recovery", |node| node.runtime.running() == ["c"])
        .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let last = u32::try_from(node.runtime.count("CreateContainer")).unwrap() - 1;
    assert_eq!(files(&node), [last - 1, last]);
}
