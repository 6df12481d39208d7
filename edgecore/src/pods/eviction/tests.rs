//! Pods that are evicted, on a node in memory: what becomes of them, and of those that stay.

mod endings;
mod remains;

use std::time::Duration;

use serde_json::{Value, json};

use super::testing::wanting;
use crate::node::shortage::Soft;
use crate::node::thresholds::{Signal, Threshold};
use crate::node::{Disk, Load};
use crate::pods::testbed::{Node, plenty};

fn pod(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
        "metadata": {"name": name, "namespace": "ns", "uid": name}})
}

/// A pod whose container bears its name.
fn plain(name: &str) -> Value {
    let mut spec = wanting(&json!({}));
    spec["containers"][0]["name"] = json!(name);
    pod(name, &spec)
}

async fn booted(pods: &[Value]) -> Node {
    running(Node::new(&["app:1"]), pods).await
}

async fn running(mut node: Node, pods: &[Value]) -> Node {
    node.boot().await;
    node.sync();
    for pod in pods {
        node.want(pod);
        let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
        node.until("Running", |node| node.phase(&uid) == "Running").await;
    }
    node
}

fn no_memory() -> Load {
    Load {
        memory_available: 50 << 20,
        ..plenty()
    }
}

fn no_disk() -> Load {
    free_disk(1 << 20)
}

fn free_disk(bytes_free: u64) -> Load {
    let disk = plenty().disk.map(|disk| Disk { bytes_free, ..disk });
    Load { disk, ..plenty() }
}

fn calls(node: &Node, call: &str) -> Vec<String> {
    let calls = node.runtime.calls().into_iter();
    calls.filter(|made| made.starts_with(call)).collect()
}

fn conditions(node: &Node, uid: &str) -> Vec<(String, String)> {
    let conditions = node.status(uid).conditions.unwrap_or_default().into_iter();
    conditions
        .filter(|c| c.type_ == "DisruptionTarget")
        .map(|c| (c.reason.unwrap_or_default(), c.message.unwrap_or_default()))
        .collect()
}

const SHORT: &str = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. \
                     Container greedy was using 30Mi, request is 0, has larger consumption of memory. ";

#[tokio::test(start_paused = true)]
async fn the_greediest_pod_goes_when_the_memory_does_and_stays_gone_after_a_restart() {
    let mut node = booted(&[plain("greedy"), plain("modest")]).await;
    node.runtime.uses_much("greedy", 30 << 20, 0);
    node.runtime.uses_much("modest", 20 << 20, 0);
    *node.load.lock() = no_memory();
    node.until("Failed", |node| node.phase("greedy") == "Failed")
        .await;
    *node.load.lock() = plenty();
    node.until("its end", |node| node.runtime.running() == ["modest"])
        .await;
    let status = node.status("greedy");
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    assert_eq!(status.message.as_deref(), Some(SHORT));
    let told = vec![("TerminationByKubelet".to_owned(), SHORT.to_owned())];
    assert_eq!(conditions(&node, "greedy"), told);
    node.hear(&format!("Evicted: {SHORT}")).await;
    node.hear("EvictionThresholdMet: Attempting to reclaim memory")
        .await;
    assert_eq!(
        node.pressures.take_seen().into_keys().collect::<Vec<_>>(),
        ["MemoryPressure"],
        "the Node shows it, whenever it is looked at"
    );

    node.kill().await;
    node.boot().await;
    tokio::time::sleep(Duration::from_mins(3)).await;
    assert_eq!(node.runtime.running(), ["modest"]);
    assert_eq!(
        (node.phase("greedy"), node.phase("modest")),
        ("Failed".into(), "Running".into())
    );
    assert_eq!(node.status("greedy").message.as_deref(), Some(SHORT));
    assert_eq!(conditions(&node, "greedy"), told);
}

#[tokio::test(start_paused = true)]
async fn one_pod_goes_at_a_time_and_none_when_there_is_enough_again() {
    let node = booted(&[plain("a"), plain("b"), plain("c")]).await;
    *node.load.lock() = no_memory();
    node.until("one fewer", |node| node.runtime.running().len() < 3)
        .await;
    *node.load.lock() = plenty();
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(node.runtime.running().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_containers_of_an_evicted_pod_get_next_to_no_time() {
    let mut patient = plain("patient");
    patient["spec"]["terminationGracePeriodSeconds"] = json!(600);
    let node = booted(&[patient]).await;
    *node.load.lock() = no_memory();
    node.until("Failed", |node| node.phase("patient") == "Failed")
        .await;
    node.until("its end", |node| node.runtime.running().is_empty())
        .await;
    let stops = node.runtime.calls();
    let stop = stops.iter().find(|call| call.starts_with("StopContainer"));
    assert!(
        stop.is_some_and(|stop| stop.ends_with(" 2")),
        "the least there is: {stop:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn below_a_soft_threshold_a_pod_goes_when_that_lasts_and_gets_time_but_no_more_than_it_asked_for() {
    for (asked, given) in [(600, " 20"), (5, " 5")] {
        let mut node = Node::new(&["app:1"]);
        let soft = Soft {
            threshold: Threshold::Amount(1 << 30),
            grace: Duration::from_mins(1),
        };
        node.eviction.soft.set(Signal::Memory, Some(soft));
        node.eviction.pod_grace_seconds = 20;
        let mut patient = plain("patient");
        patient["spec"]["terminationGracePeriodSeconds"] = json!(asked);
        let node = running(node, &[patient]).await;
        let low = Load {
            memory_available: 500 << 20,
            ..plenty()
        };
        for load in [low.clone(), plenty(), low] {
            *node.load.lock() = load;
            tokio::time::sleep(Duration::from_secs(55)).await;
            assert_eq!(node.phase("patient"), "Running");
        }
        node.until("Failed", |node| node.phase("patient") == "Failed")
            .await;
        node.until("its end", |node| node.runtime.running().is_empty())
            .await;
        let message = node.status("patient").message.unwrap_or_default();
        assert!(
            message.starts_with(
                "The node was low on resource: memory. Threshold quantity: 1Gi, available: 500Mi. "
            ),
            "{message}"
        );
        let stops = calls(&node, "StopContainer");
        assert!(stops[0].ends_with(given), "{stops:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn pods_go_until_the_minimum_is_reclaimed_too() {
    let mut node = Node::new(&["app:1"]);
    node.eviction
        .reclaim
        .set(Signal::Disk, Threshold::Amount(100 << 20));
    let node = running(node, &[plain("a"), plain("b"), plain("c")]).await;
    for (bytes_free, left) in [(1 << 20, 2), (150 << 20, 1)] {
        *node.load.lock() = free_disk(bytes_free);
        node.until("one fewer", |node| node.runtime.running().len() == left)
            .await;
    }
    *node.load.lock() = free_disk(210 << 20);
    tokio::time::sleep(Duration::from_mins(5)).await;
    *node.load.lock() = free_disk(150 << 20);
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(node.runtime.running().len(), 1);
}

/// A node whose images lie apart, and two pods: one that wrote beside its volumes, and one that fills a volume.
async fn with_images_apart() -> Node {
    let mut node = Node::new(&["app:1", "old:1"]);
    node.image_gc_high_percent = 85;
    node.load.lock().images = plenty().disk;
    let mut filler = plain("filler");
    filler["spec"]["volumes"] = json!([{"name": "cache", "emptyDir": {}}]);
    let node = running(node, &[plain("writer"), filler]).await;
    node.runtime.uses_much("writer", 0, 500 << 20);
    let cache = node.volume("filler", "empty-dir/cache");
    std::fs::write(cache.join("big"), vec![1; 512 << 10]).unwrap();
    node
}

/// Holds the kubelet's words for a pod that wrote too much, where so much had to be left.
fn writer_went_for_its_storage(node: &Node, threshold: &str) {
    let message = node.status("writer").message.unwrap_or_default();
    let words = format!(
        "The node was low on resource: ephemeral-storage. Threshold quantity: {threshold}, available: 1Mi. \
         Container writer was using 5"
    );
    assert!(message.starts_with(&words), "{message}");
}

#[tokio::test(start_paused = true)]
async fn images_that_lie_apart_go_when_their_disk_is_full_and_then_who_wrote_there() {
    let node = with_images_apart().await;
    node.load.lock().images = no_disk().disk;
    node.until("Failed", |node| node.phase("writer") == "Failed")
        .await;
    node.load.lock().images = plenty().disk;
    assert_eq!(calls(&node, "RemoveImage"), ["RemoveImage sha256:old:1"]);
    writer_went_for_its_storage(&node, "161061280");
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(node.runtime.running(), ["filler"]);
}

#[tokio::test(start_paused = true)]
async fn images_that_lie_apart_stay_when_only_the_disk_of_the_pods_is_full() {
    let node = with_images_apart().await;
    node.load.lock().disk = no_disk().disk;
    node.until("Failed", |node| node.phase("filler") == "Failed")
        .await;
    *node.load.lock() = plenty();
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(node.runtime.running(), ["writer"], "what it wrote is elsewhere");
    assert_eq!(calls(&node, "RemoveImage"), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn what_is_critical_outlives_any_shortage() {
    let mut critical = plain("critical");
    critical["spec"]["priority"] = json!(2_000_001_000);
    let node = booted(&[critical]).await;
    *node.load.lock() = no_memory();
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(node.runtime.running(), ["critical"]);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_takes_the_pod_that_wrote_most_of_it() {
    let node = booted(&[plain("writer"), plain("reader")]).await;
    node.runtime.uses_much("writer", 0, 500 << 20);
    *node.load.lock() = no_disk();
    node.until("Failed", |node| node.phase("writer") == "Failed")
        .await;
    *node.load.lock() = plenty();
    writer_went_for_its_storage(&node, "107374184");
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(node.runtime.running(), ["reader"]);
}

#[tokio::test(start_paused = true)]
async fn what_an_evicted_pod_wrote_goes_with_it_although_its_object_stays() {
    let mut node = booted(&[plain("writer"), plain("reader")]).await;
    node.runtime.uses_much("writer", 0, 500 << 20);
    *node.load.lock() = no_disk();
    let removed = |node: &Node| {
        let calls = node.runtime.calls();
        calls
            .iter()
            .filter(|call| call.starts_with("RemoveContainer"))
            .count()
    };
    node.until("its container is removed", |node| removed(node) == 1)
        .await;
    *node.load.lock() = plenty();
    let status = node.status("writer");
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    tokio::time::sleep(Duration::from_mins(2)).await;
    node.kill().await;
    node.boot().await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(node.runtime.running(), ["reader"]);
    assert_eq!(
        node.status("writer").container_statuses,
        status.container_statuses
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_fills_its_empty_dir_is_evicted_for_that_alone() {
    let mut spec = wanting(&json!({}));
    spec["volumes"] = json!([{"name": "cache", "emptyDir": {"sizeLimit": "1Mi"}}]);
    let node = booted(&[pod("web", &spec), plain("other")]).await;
    let cache = node.volume("web", "empty-dir/cache");
    std::fs::write(cache.join("big"), vec![1; 512 << 10]).unwrap();
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(node.phase("web"), "Running", "it keeps its limit");
    std::fs::write(cache.join("bigger"), vec![1; 600 << 10]).unwrap();
    node.until("Failed", |node| node.phase("web") == "Failed").await;
    let told = "Usage of EmptyDir volume \"cache\" exceeds the limit \"1Mi\". ";
    assert_eq!(node.status("web").message.as_deref(), Some(told));
    assert_eq!(conditions(&node, "web"), [], "the node had enough");
    node.hear(&format!("Evicted: {told}")).await;
    node.until("its end", |node| node.runtime.running() == ["other"])
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_writes_more_than_its_containers_may_is_evicted() {
    let node = booted(&[pod(
        "web",
        &wanting(&json!({"limits": {"ephemeral-storage": "1Mi"}})),
    )])
    .await;
    node.runtime.uses_much("c", 0, 900 << 10);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(node.phase("web"), "Running");
    node.runtime.uses_much("c", 0, 1 << 20);
    node.until("Failed", |node| node.phase("web") == "Failed").await;
    let told = "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ";
    assert_eq!(node.status("web").message.as_deref(), Some(told));
}

#[tokio::test(start_paused = true)]
async fn what_is_bound_for_a_sub_path_is_not_the_pods_own() {
    let limits = wanting(&json!({"limits": {"ephemeral-storage": "1Mi"}}));
    let node = booted(&[pod("web", &limits)]).await;
    let put = |dir: &str| {
        let dir = node.on_disk("web", dir);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("big"), vec![1; 2 << 20]).unwrap();
    };
    put("volume-subpaths/site/c/0");
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(node.phase("web"), "Running");
    put("containers/c");
    node.until("Failed", |node| node.phase("web") == "Failed").await;
}

#[tokio::test(start_paused = true)]
async fn with_enough_of_everything_and_no_limits_nothing_is_measured() {
    let node = booted(&[plain("a")]).await;
    tokio::time::sleep(Duration::from_mins(10)).await;
    let calls = node.runtime.calls();
    let asked = |call: &&String| call.starts_with("ListContainerStats") || call.starts_with("ImageFsInfo");
    // The removal of images looks every five minutes, as before.
    assert!(calls.iter().filter(asked).count() <= 2, "{calls:?}");
    assert!(!calls.iter().any(|call| call.starts_with("ListContainerStats")));
}

fn press_memory(node: &Node) {
    let pressure = json!({"type": "MemoryPressure", "status": "True"});
    node.pressures.learn(&[serde_json::from_value(pressure).unwrap()]);
}

#[tokio::test(start_paused = true)]
async fn under_pressure_a_new_pod_is_refused_and_one_that_ran_before_a_reboot_is_not() {
    let mut node = booted(&[plain("old")]).await;
    node.kill().await;
    node.runtime.reboot();
    press_memory(&node);
    node.boot().await;
    node.until("it runs again", |node| node.runtime.running() == ["old"])
        .await;
    node.want(&plain("new"));
    node.until("Failed", |node| node.phase("new") == "Failed").await;
    let status = node.status("new");
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    let told = "The node had condition: [MemoryPressure]. ";
    assert_eq!(status.message.unwrap(), format!("Pod was rejected: {told}"));
    node.hear(&format!("Evicted: {told}")).await;
    assert_eq!(node.runtime.running(), ["old"]);
}

#[tokio::test(start_paused = true)]
async fn nor_is_one_that_runs_and_of_which_nothing_was_told_before_the_agent_ended() {
    let mut node = booted(&[plain("old")]).await;
    node.kill().await;
    node.untell("old");
    press_memory(&node);
    node.boot().await;
    node.until("Running", |node| node.phase("old") == "Running").await;
    assert_eq!(node.runtime.count("StopContainer"), 0);
}
