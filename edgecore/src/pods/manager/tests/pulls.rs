//! Images of several containers at once, more of them than the node pulls side by side.

use std::time::Duration;

use serde_json::{Value, json};

use super::{booted, deleted, pod, web};
use crate::pods::testbed::Node;

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

#[tokio::test(start_paused = true)]
async fn an_image_that_is_imported_after_a_pull_was_given_up_is_there_for_every_pod() {
    let node = booted(&[]).await;
    node.runtime.pulls_take(Duration::from_hours(10));
    let mut wanted = web("u1");
    wanted["spec"]["terminationGracePeriodSeconds"] = json!(1);
    node.want(&wanted);
    node.hear("Pulling").await;
    node.want(&deleted(wanted, 1));
    node.until("gone", |node| node.gone() == ["u1"]).await;
    node.forget("u1");
    node.until("forgotten", |node| node.forgotten() == ["u1"]).await;
    node.runtime.import("app:1");
    node.want(&web("u2"));
    node.until("Running", |node| node.phase("u2") == "Running").await;
}

#[tokio::test(start_paused = true)]
async fn pulls_that_hang_for_ever_do_not_keep_the_turns_to_pull() {
    let node = booted(&[]).await;
    node.runtime.publish("app:1");
    node.runtime.pulls_take(Duration::from_hours(10));
    for n in 0..4 {
        let spec = json!({"containers": [{"name": "c", "image": format!("hangs-{n}:1")}]});
        node.want(&pod(&format!("hangs-{n}"), &format!("hangs-{n}"), &spec));
    }
    let all = |node: &Node| {
        node.events()
            .iter()
            .filter(|told| told.starts_with("Pulling"))
            .count()
            == 4
    };
    node.until("they are pulled", all).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    node.runtime.pulls_take(Duration::ZERO);
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    assert_eq!(node.runtime.count("PullImage"), 1, "the others still hang");
}
