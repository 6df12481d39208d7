//! What the manager does beside its rounds.

use std::time::Duration;

use super::{booted, web};
use crate::pods::testbed::Node;

#[tokio::test(start_paused = true)]
async fn remains_that_are_long_in_going_hold_up_nothing_but_their_own_pod() {
    let mut node = Node::new(&["app:1"]);
    let token = br#"{"token":"0.e30.s"}"#.to_vec();
    node.tokens.kept.lock().push(("u9/token".to_owned(), token));
    node.tokens.hangs.send_replace(true);
    node.boot().await;
    std::fs::create_dir_all(node.on_disk("u9", "volumes")).unwrap();
    node.sync();
    tokio::time::sleep(Duration::from_mins(3)).await;
    node.want(&web("u1"));
    let mut again = web("u9");
    again["metadata"]["name"] = "again".into();
    node.want(&again);
    node.until("Running", |node| node.phase("u1") == "Running").await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(node.phase("u9"), "", "its directory is being taken down");
    node.tokens.hangs.send_replace(false);
    node.until("Running too", |node| node.phase("u9") == "Running")
        .await;
}

#[tokio::test(start_paused = true)]
async fn remains_go_when_nobody_wants_them() {
    let node = booted(&[]).await;
    std::fs::create_dir_all(node.on_disk("u9", "volumes")).unwrap();
    node.until("cleaned", |node| !node.on_disk("u9", "").exists())
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_helper_that_panics_is_seen() {
    let mut node = booted(&[]).await;
    // Image GC asks for them, and nobody else here.
    node.runtime.panics_at("ListImages");
    let seen = tokio::time::timeout(Duration::from_hours(1), node.panicked());
    assert!(seen.await.is_ok_and(|panicked| panicked));
}
