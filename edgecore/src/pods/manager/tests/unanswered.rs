//! Pods whose containers the runtime does not make or start: it is asked, and does not answer.

use std::time::Duration;

use super::{booted, deleted, web};
use crate::pods::testbed::Node;

const CALLS: [&str; 2] = ["CreateContainer", "StartContainer"];

/// A node with a pod that the runtime was asked so much for, which is deleted then. It makes it all the same when the
/// time is over, if it is `regardless`.
async fn deleted_early(call: &'static str, takes: Duration, regardless: bool) -> Node {
    let node = booted(&["app:1"]).await;
    if regardless {
        node.runtime.goes_on_regardless();
    }
    node.runtime.takes(call, takes);
    node.want(&web("u1"));
    node.until("it is asked for", |node| node.runtime.begun(call) == 1)
        .await;
    node.want(&deleted(web("u1"), 30));
    node
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_deleted_does_not_wait_for_the_answer() {
    for call in CALLS {
        let node = deleted_early(call, Duration::from_hours(1), false).await;
        node.until("gone", |node| node.gone() == ["u1"]).await;
        assert_eq!(node.runtime.count(call), 0, "it was not waited for");
        assert!(!node.events().iter().any(|told| told.starts_with("Failed")));
        node.forget("u1");
        node.until("forgotten", |node| node.forgotten() == ["u1"]).await;
        assert_eq!(node.runtime.containers(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_else_waits_for_a_turn_to_start() {
    for call in CALLS {
        let node = booted(&["app:1"]).await;
        node.runtime.takes(call, Duration::from_hours(1));
        for n in 0..4 {
            node.want(&super::pod(
                &format!("hangs-{n}"),
                &format!("hangs-{n}"),
                &serde_json::json!({"containers": [{"name": "hangs", "image": "app:1"}]}),
            ));
        }
        node.until("they are asked for", |node| node.runtime.begun(call) == 4)
            .await;
        node.runtime.takes(call, Duration::ZERO);
        node.want(&web("u1"));
        node.until("the other one", |node| node.runtime.running() == ["c"])
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_made_all_the_same_is_removed() {
    for forgotten in [false, true] {
        let node = deleted_early("CreateContainer", Duration::from_mins(1), true).await;
        node.until("gone", |node| node.gone() == ["u1"]).await;
        assert_eq!(node.runtime.count("CreateContainer"), 0, "it was not waited for");
        if forgotten {
            node.forget("u1");
            node.until("forgotten", |node| node.forgotten() == ["u1"]).await;
        }
        node.until("it is made", |node| node.runtime.count("CreateContainer") == 1)
            .await;
        node.until("it is removed", |node| node.runtime.containers() == 0)
            .await;
        assert_eq!(node.runtime.begun("StartContainer"), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_not_gone_while_its_container_may_be_about_to_run() {
    let node = deleted_early("StartContainer", Duration::from_mins(1), true).await;
    node.until("it runs after all", |node| {
        let runs = node.runtime.count("StartContainer") == 1;
        assert!(runs || node.gone().is_empty());
        runs
    })
    .await;
    node.until("gone", |node| node.gone() == ["u1"]).await;
    assert!(node.runtime.running().is_empty());
}

#[tokio::test(start_paused = true)]
async fn that_is_not_waited_for_longer_than_a_call_may_take() {
    let node = deleted_early("StartContainer", Duration::from_mins(10), true).await;
    node.until("gone", |node| node.gone() == ["u1"]).await;
    assert_eq!(node.runtime.count("StartContainer"), 0, "it was not waited for");
    node.until("it runs after all", |node| {
        node.runtime.count("StartContainer") == 1
    })
    .await;
    node.until("it is removed", |node| node.runtime.containers() == 0)
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_soon_is_not_given_up() {
    for call in CALLS {
        let node = deleted_early(call, Duration::from_secs(5), false).await;
        node.until("gone", |node| node.gone() == ["u1"]).await;
        assert_eq!(node.runtime.count(call), 1);
    }
}
