//! Images of several containers at once, more of them than the node pulls side by side.

use std::time::Duration;

use serde_json::{Value, json};

use super::{booted, pod};

#[tokio::test(start_paused = true)]
async fn a_pod_with_more_images_than_turns_to_pull_comes_up_whatever_its_containers_are_called() {
    let node = booted(&[]).await;
    node.runtime.pulls_take(Duration::from_secs(10));
    let names = ["web", "agent", "cache", "exporter", "logger"];
    let containers: Vec<Value> = names
        .iter()
        .map(|name| {
            node.runtime.publish(&format!("{name}:1"));
            json!({"name": name, "image": format!("{name}:1")})
        })
        .collect();
    node.want(&pod("web", "u1", &json!({"containers": containers})));
    node.until("Running", |node| node.runtime.running().len() == names.len())
        .await;
    assert_eq!(node.runtime.count("PullImage"), names.len());
}
