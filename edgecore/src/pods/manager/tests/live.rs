//! Pods that are changed while they run.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{booted, deleted, pod, web};
use crate::pods::testbed::Node;
use crate::pods::volumes::testing::is_root;

#[tokio::test(start_paused = true)]
async fn a_config_map_that_is_gone_neither_holds_a_restart_nor_the_other_volumes() {
    let node = booted(&["app:1"]).await;
    for name in ["gone", "kept"] {
        node.objects.put_config_map("ns", name, &[("a", "1")]);
    }
    let volume = |name: &str| json!({"name": name, "configMap": {"name": name}});
    let spec =
        json!({"containers": [{"name": "c", "image": "app:1"}], "volumes": [volume("gone"), volume("kept")]});
    node.want(&pod("web", "u1", &spec));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.objects.remove_config_map("ns", "gone");
    for value in ["2", "3"] {
        node.objects.put_config_map("ns", "kept", &[("a", value)]);
        node.touch_objects();
        let written = |node: &Node| node.in_volume("u1", "configmap/kept/a") == value;
        node.until("the other one's refresh", written).await;
    }
    node.hear("FailedMount: MountVolume.SetUp failed for volume \"gone\"")
        .await;
    tokio::time::sleep(Duration::from_mins(5)).await;
    node.runtime.end("c", 1);
    let ended = Instant::now();
    node.until("the restart", |node| node.runtime.running() == ["c"])
        .await;
    assert!(ended.elapsed() < Duration::from_secs(2), "{:?}", ended.elapsed());
    assert_eq!(
        node.in_volume("u1", "configmap/gone/a"),
        "1",
        "what was there stays"
    );
}

#[tokio::test(start_paused = true)]
async fn a_changed_label_arrives_in_the_file_that_says_it() {
    if !is_root() {
        return;
    }
    let node = booted(&["app:1"]).await;
    let items = json!([{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]);
    let mut labelled = pod(
        "web",
        "u1",
        &json!({"containers": [{"name": "c", "image": "app:1"}],
            "volumes": [{"name": "who", "downwardAPI": {"items": items}}]}),
    );
    let says =
        |text: &'static str| move |node: &Node| node.in_volume("u1", "downward-api/who/labels") == text;
    labelled["metadata"]["labels"] = json!({"mode": "run"});
    node.want(&labelled);
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.until("the first label", says("mode=\"run\"")).await;
    labelled["metadata"]["labels"] = json!({"mode": "maintenance"});
    node.want(&labelled);
    node.until("the new label", says("mode=\"maintenance\"")).await;
    node.want(&deleted(labelled, 1));
    node.until("gone", |node| node.gone() == ["u1"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_comes_later_counts() {
    let node = booted(&["app:1"]).await;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    let mut short = web("u1");
    short["spec"]["activeDeadlineSeconds"] = json!(60);
    node.want(&short);
    node.until("Failed", |node| node.phase("u1") == "Failed").await;
    assert_eq!(node.status("u1").reason.as_deref(), Some("DeadlineExceeded"));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_soon_after_the_clock_was_set_forward() {
    if !is_root() {
        return;
    }
    let node = booted(&["app:1"]).await;
    node.tokens.set_clock(1000);
    let sources = json!([{"serviceAccountToken": {"path": "token"}}]);
    let spec = json!({"containers": [{"name": "c", "image": "app:1"}],
        "volumes": [{"name": "api", "projected": {"sources": sources}}]});
    node.want(&pod("web", "u1", &spec));
    let since = |start: &'static str| {
        move |node: &Node| node.in_volume("u1", "projected/api/token").starts_with(start)
    };
    node.until("a token", since("1000.")).await;
    node.until("Running", |node| node.phase("u1") == "Running").await;
    tokio::time::sleep(Duration::from_mins(5)).await;
    node.tokens.set_clock(700_000);
    let set = Instant::now();
    node.until("a new token", since("700000.")).await;
    assert!(set.elapsed() <= Duration::from_secs(90), "{:?}", set.elapsed());
    node.want(&deleted(pod("web", "u1", &spec), 1));
    node.until("gone", |node| node.gone() == ["u1"]).await;
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_container_is_refused_and_its_pod_is_cared_for_as_before() {
    let node = booted(&["app:1"]).await;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    let mut debugged = web("u1");
    debugged["spec"]["ephemeralContainers"] = json!([{"name": "debugger-1", "image": "busybox"}]);
    node.want(&debugged);
    node.hear("UnsupportedPodFeature: ephemeral containers are not supported")
        .await;
    let status = node.status("u1").ephemeral_container_statuses.unwrap().remove(0);
    assert_eq!(
        (status.name.as_str(), status.image.as_str()),
        ("debugger-1", "busybox")
    );
    let waiting = status.state.unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("UnsupportedPodFeature"));
    assert_eq!(node.phase("u1"), "Running");
    node.runtime.end("c", 1);
    node.until("the restart", |node| {
        node.status("u1").container_statuses.unwrap()[0].restart_count == 1
    })
    .await;
    tokio::time::sleep(Duration::from_mins(5)).await;
    let said = |event: &&String| event.contains("ephemeral containers");
    assert_eq!(node.events().iter().filter(said).count(), 1, "once");
    assert_eq!(node.runtime.count("CreateContainer"), 2, "and it is never made");
}
