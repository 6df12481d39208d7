//! Containers that wait for their images beside one that runs.

use std::time::Duration;

use super::*;

/// One that is probed, one whose image is to be pulled, and one that starts after that.
fn three() -> Value {
    let probe =
        |command: &str| json!({"exec": {"command": [command]}, "periodSeconds": 1, "failureThreshold": 1});
    pod(&json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "a", "image": "app:1", "startupProbe": probe("up"), "readinessProbe": probe("ready"),
         "livenessProbe": probe("alive")},
        {"name": "b", "image": "late:1"},
        {"name": "c", "image": "app:1"}]}))
}

fn first(node: &Node) -> Value {
    let statuses = node.status("u1").container_statuses.unwrap_or_default();
    serde_json::to_value(statuses.first()).unwrap()
}

/// A node where the second container waits for its image, and the first one runs.
async fn pulling(takes: Duration) -> Node {
    let node = wanting(&three(), |node| {
        node.runtime.publish("late:1");
        node.runtime.pulls_take(takes);
    })
    .await;
    node.until("it is ready", |node| first(node)["ready"] == json!(true))
        .await;
    assert_eq!(node.runtime.count("PullImage"), 0, "it was not waited for");
    assert_eq!(node.runtime.running(), ["a"]);
    node
}

#[tokio::test(start_paused = true)]
async fn who_runs_is_probed_and_killed_while_another_waits_for_its_image() {
    let node = pulling(Duration::from_hours(10)).await;
    node.runtime.commands("ready", 1, Duration::ZERO);
    node.until("it is not ready", |node| first(node)["ready"] == json!(false))
        .await;
    node.runtime.commands("alive", 1, Duration::ZERO);
    node.until("it is started anew", |node| {
        first(node)["restartCount"] != json!(0)
    })
    .await;
    node.runtime.commands("alive", 0, Duration::ZERO);
    node.until("it runs again", |node| node.runtime.running() == ["a"])
        .await;
}

#[tokio::test(start_paused = true)]
async fn containers_start_in_their_order_though_the_image_of_one_comes_late() {
    // Not when the worker looks by itself, once a minute.
    let node = pulling(Duration::from_secs(90)).await;
    node.until("the image", |node| node.runtime.count("PullImage") == 1)
        .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(node.runtime.running(), ["a", "b", "c"]);
    let calls = node.runtime.calls().into_iter();
    let started: Vec<_> = calls.filter(|call| call.starts_with("StartContainer")).collect();
    assert_eq!(
        started,
        ["StartContainer a", "StartContainer b", "StartContainer c"]
    );
}

#[tokio::test(start_paused = true)]
async fn an_image_that_the_container_is_not_to_have_any_more_is_not_pulled_to_the_end() {
    let node = pulling(Duration::from_mins(2)).await;
    let mut other = three();
    other["spec"]["containers"][1]["image"] = json!("app:1");
    node.want(&other);
    node.until("all of them", |node| node.runtime.running() == ["a", "b", "c"])
        .await;
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(node.runtime.count("PullImage"), 0);
}

#[tokio::test(start_paused = true)]
async fn who_is_killed_starts_anew_though_one_before_it_waits_for_its_image() {
    let probe = json!({"exec": {"command": ["alive"]}, "periodSeconds": 1, "failureThreshold": 1});
    let both = |image: &str| {
        pod(&json!({"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "b", "image": image}, {"name": "c", "image": "app:1", "livenessProbe": probe.clone()}]}))
    };
    let node = wanting(&both("app:1"), |node| {
        node.runtime.publish("late:1");
        node.runtime.pulls_take(Duration::from_hours(10));
    })
    .await;
    node.until("both", |node| node.runtime.running() == ["b", "c"])
        .await;
    node.want(&both("late:1"));
    node.until("the other image is sought", |node| {
        node.runtime.running() == ["c"]
    })
    .await;
    node.runtime.commands("alive", 1, Duration::ZERO);
    let restarts = |node: &Node| {
        let statuses = node.status("u1").container_statuses.unwrap_or_default();
        statuses
            .iter()
            .find(|status| status.name == "c")
            .map_or(0, |status| status.restart_count)
    };
    node.until("it is started anew", |node| restarts(node) != 0).await;
    node.runtime.commands("alive", 0, Duration::ZERO);
    node.until("it runs again", |node| node.runtime.running() == ["c"])
        .await;
}
