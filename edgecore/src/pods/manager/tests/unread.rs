//! Pods that run and of which no readable version is held.

use std::time::Duration;

use super::web;
use crate::pods::seams::UnreadPod;
use crate::pods::testbed::Node;

/// A node on which `u1` runs, started again without a version of it that it can read.
async fn that_lost_it(uid: Option<&str>) -> Node {
    let mut node = Node::new(&["app:1"]);
    node.boot().await;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.stop().await;
    node.forget("u1");
    node.source.unread.lock().push(UnreadPod {
        namespace: "ns".to_owned(),
        name: "web".to_owned(),
        uid: uid.map(str::to_owned),
    });
    node.boot().await;
    node.sync();
    node
}

fn told(node: &Node) -> usize {
    let events = node.events().into_iter();
    events.filter(|event| event.starts_with("PodUnreadable")).count()
}

#[tokio::test(start_paused = true)]
async fn what_runs_of_a_pod_that_cannot_be_read_goes_on_and_is_told_once() {
    for uid in [Some("u1"), None] {
        let node = that_lost_it(uid).await;
        node.hear("PodUnreadable").await;
        tokio::time::sleep(Duration::from_mins(10)).await;
        assert_eq!(node.runtime.running(), ["c"], "{uid:?}");
        assert_eq!(told(&node), 1);
        assert!(node.on_disk("u1", "").exists());
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_cared_for_again_once_it_can_be_read() {
    let node = that_lost_it(Some("u1")).await;
    node.hear("PodUnreadable").await;
    node.source.unread.lock().clear();
    node.want(&web("u1"));
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(node.runtime.count("CreateContainer"), 1);
    node.runtime.end("c", 1);
    node.until("restarted", |node| node.runtime.count("CreateContainer") == 2)
        .await;
}

#[tokio::test(start_paused = true)]
async fn it_ends_once_it_is_really_removed_and_another_pod_is_no_excuse() {
    let node = that_lost_it(Some("u1")).await;
    node.hear("PodUnreadable").await;
    node.source.unread.lock()[0].uid = Some("u2".to_owned());
    node.until("the orphan's end", |node| node.runtime.sandboxes() == 0)
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_it_has_on_the_disk_stays_though_nothing_of_it_runs() {
    for uid in [Some("u9"), None] {
        let mut node = Node::new(&[]);
        node.boot().await;
        node.source.unread.lock().push(UnreadPod {
            namespace: "ns".to_owned(),
            name: "web".to_owned(),
            uid: uid.map(str::to_owned),
        });
        std::fs::create_dir_all(node.on_disk("u9", "volumes")).unwrap();
        node.sync();
        tokio::time::sleep(Duration::from_mins(5)).await;
        assert!(node.on_disk("u9", "volumes").exists(), "{uid:?}");
        node.source.unread.lock().clear();
        node.until("cleaned", |node| !node.on_disk("u9", "").exists())
            .await;
    }
}
