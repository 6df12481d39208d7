//! The links to containers' logs, where a log is missing.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

fn links(node: &Node) -> Vec<String> {
    let links = fs::read_dir(node.link_dir()).unwrap();
    let names = links.map(|link| link.unwrap().file_name().into_string().unwrap());
    names.collect()
}

#[tokio::test(start_paused = true)]
async fn a_running_container_keeps_its_link_while_its_log_is_missing_and_others_lose_theirs() {
    let node = booted(&["app:1"]).await;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    let [link] = links(&node).try_into().unwrap();
    assert!(
        !node.link_dir().join(&link).exists(),
        "this runtime writes no log"
    );
    symlink("/nowhere/0.log", node.link_dir().join("web_ns_c-gone.log")).unwrap();
    node.until("the stranger's link goes", |node| links(node).len() == 1)
        .await;
    assert_eq!(links(&node), [link]);
}
