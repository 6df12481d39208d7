//! The manager against the runtime in memory.

mod admission;
mod beside;
mod bursts;
mod classes;
mod clocks;
mod dirs;
mod endings;
mod forgotten;
mod hanging;
mod last_words;
mod links;
mod live;
mod missing;
mod networks;
mod phases;
mod pull_secrets;
mod pulls;
mod resizes;
mod sandboxes;
mod unanswered;
mod unread;
mod warnings;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::pods::testbed::Node;
use warnings::Warnings;

fn pod(name: &str, uid: &str, spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns", "uid": uid}, "spec": spec})
}

fn web(uid: &str) -> Value {
    pod(
        "web",
        uid,
        &json!({"containers": [{"name": "c", "image": "app:1"}]}),
    )
}

fn deleted(mut pod: Value, grace: i64) -> Value {
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    pod
}

async fn booted(images: &[&str]) -> Node {
    let mut node = Node::new(images);
    node.boot().await;
    node.sync();
    tokio::task::yield_now().await;
    node
}

#[tokio::test(start_paused = true)]
async fn a_pod_runs_and_turns_ready() {
    let node = booted(&["app:1"]).await;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    let status = node.status("u1");
    let ready = status
        .conditions
        .unwrap()
        .into_iter()
        .find(|c| c.type_ == "Ready")
        .unwrap();
    assert_eq!(ready.status, "True");
    assert!(status.pod_ip.unwrap().starts_with("10.86."));
    assert_eq!(node.runtime.running(), ["c"]);
    for told in [
        "Pulled",
        "Created: Container created",
        "Started: Container started",
    ] {
        node.hear(told).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_healthy_pod_costs_no_write_and_no_report() {
    let node = booted(&["app:1"]).await;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (told, created) = (node.told("u1").len(), node.runtime.count("CreateContainer"));
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(
        (node.told("u1").len(), node.runtime.count("CreateContainer")),
        (told, created)
    );
    assert_eq!(node.runtime.count("StopContainer"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_crashing_container_backs_off_and_says_so() {
    let node = booted(&["app:1"]).await;
    node.runtime.exits_at_once("c", 3);
    node.want(&web("u1"));
    let crash_loop = |node: &Node| {
        let statuses = node.status("u1").container_statuses.unwrap_or_default();
        let waiting = statuses
            .first()
            .and_then(|s| s.state.clone())
            .and_then(|s| s.waiting);
        waiting
            .and_then(|w| w.message)
            .is_some_and(|m| m == "back-off 20s restarting failed container=c pod=web_ns(u1)")
    };
    node.until("the second back-off", crash_loop).await;
    let status = node.status("u1").container_statuses.unwrap().remove(0);
    assert_eq!(status.restart_count, 2);
    assert_eq!(status.last_state.unwrap().terminated.unwrap().exit_code, 3);
    assert_eq!(node.phase("u1"), "Running");
    node.runtime.keeps_running("c");
    node.until("recovery", |node| node.runtime.running() == ["c"])
        .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(
        node.runtime.containers() <= 2,
        "one dead container is kept beside the live one"
    );
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_agent_adopts_what_runs() {
    let mut node = booted(&["app:1"]).await;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let told = node.told("u1").len();
    node.kill().await;
    node.boot().await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(node.runtime.count("CreateContainer"), 1);
    assert_eq!(node.runtime.count("StopContainer"), 0);
    assert_eq!(node.told("u1").len(), told, "and nothing flips in its status");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_killed_for_being_unknown_before_the_cluster_has_confirmed_the_list() {
    let mut node = Node::new(&["app:1"]);
    node.boot().await;
    node.want(&web("u1"));
    node.until("Running", |node| node.runtime.running() == ["c"])
        .await;
    node.kill().await;
    node.forget("u1");
    node.boot().await;
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(node.runtime.running(), ["c"]);
    node.sync();
    node.until("the orphan's end", |node| node.runtime.sandboxes() == 0)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_reboot_starts_everything_again_from_what_is_wanted() {
    let mut node = booted(&["app:1"]).await;
    node.want(&web("u1"));
    node.until("Running", |node| node.runtime.running() == ["c"])
        .await;
    node.stop().await;
    node.runtime.reboot();
    node.runtime.set_down(true);
    node.boot().await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    node.runtime.set_down(false);
    let back = Instant::now();
    node.until("Running again", |node| node.runtime.running() == ["c"])
        .await;
    assert!(back.elapsed() < Duration::from_secs(3));
    node.until("its status", |node| node.phase("u1") == "Running")
        .await;
    assert_eq!(node.status("u1").container_statuses.unwrap()[0].restart_count, 1);
}

#[tokio::test(start_paused = true)]
async fn a_finished_pod_stays_finished_over_a_reboot() {
    let mut node = booted(&["app:1"]).await;
    node.runtime.exits_at_once("c", 0);
    let mut job = web("u1");
    job["spec"]["restartPolicy"] = json!("OnFailure");
    node.want(&job);
    node.until("Succeeded", |node| node.phase("u1") == "Succeeded")
        .await;
    node.stop().await;
    node.runtime.reboot();
    node.boot().await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(node.phase("u1"), "Succeeded");
    assert_eq!(node.runtime.count("CreateContainer"), 1);
}

#[tokio::test(start_paused = true)]
async fn init_containers_run_one_after_the_other_and_before_the_rest() {
    let node = booted(&["app:1"]).await;
    node.runtime.exits_at_once("a", 0);
    node.runtime.exits_at_once("b", 0);
    let init = json!([{"name": "a", "image": "app:1"}, {"name": "b", "image": "app:1"}]);
    let spec = json!({"initContainers": init, "containers": [{"name": "c", "image": "app:1"}]});
    node.want(&pod("web", "u1", &spec));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    let started: Vec<_> = node
        .runtime
        .calls()
        .into_iter()
        .filter(|call| call.starts_with("StartContainer"))
        .collect();
    assert_eq!(
        started,
        ["StartContainer a", "StartContainer b", "StartContainer c"]
    );
    let status = node.status("u1");
    assert!(
        status
            .init_container_statuses
            .unwrap()
            .iter()
            .all(|init| init.ready)
    );
}

#[tokio::test(start_paused = true)]
async fn on_a_disk_that_keeps_nothing_no_status_is_news_again_and_no_deleted_pod_is_gone() {
    let (warnings, _guard) = Warnings::heard();
    let node = booted(&["app:1"]).await;
    *node.report.keeps_nothing.lock() = true;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    let settled = async |what| {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let before = node.status("u1");
        let later = node.clock.now() + Duration::from_mins(1);
        node.clock.saw_server_time(later);
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(node.status("u1"), before, "{what}");
    };
    settled("it runs").await;
    node.want(&deleted(web("u1"), 1));
    node.until("ended", |node| node.runtime.running().is_empty())
        .await;
    settled("it has ended").await;
    assert!(node.gone().is_empty(), "its end is not kept");
    let told = warnings.with("a status waits");
    assert_eq!(told.len(), 1, "{told:?}");
    *node.report.keeps_nothing.lock() = false;
    node.until("gone", |node| node.gone() == ["u1"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_gone_for_the_cluster_before_the_runtime_has_forgotten_it() {
    let node = booted(&["app:1"]).await;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.runtime.fail_next("RemoveContainer", "busy");
    node.want(&deleted(web("u1"), 1));
    node.until("gone", |node| node.gone() == ["u1"]).await;
    assert_eq!((node.runtime.running().len(), node.runtime.sandboxes()), (0, 1));
    node.until("erased", |node| node.runtime.sandboxes() == 0).await;
    assert_eq!(node.gone(), ["u1"], "once");
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_the_same_name_waits_for_the_old_one() {
    let node = booted(&["app:1"]).await;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.want(&web("u2"));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(node.phase("u2"), "");
    node.forget("u1");
    node.until("the new one", |node| node.phase("u2") == "Running")
        .await;
    assert_eq!(node.runtime.sandboxes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pod_past_its_deadline_fails() {
    let node = booted(&["app:1"]).await;
    let mut short = web("u1");
    short["spec"]["activeDeadlineSeconds"] = json!(60);
    node.want(&short);
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.until("Failed", |node| node.phase("u1") == "Failed").await;
    assert_eq!(node.status("u1").reason.as_deref(), Some("DeadlineExceeded"));
    node.until("its end", |node| {
        let container = node.status("u1").container_statuses.unwrap_or_default().remove(0);
        container.state.is_some_and(|state| state.terminated.is_some())
    })
    .await;
    assert!(node.runtime.running().is_empty());
    node.hear("DeadlineExceeded: Pod was active on the node longer than the specified deadline")
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_start_backs_off_as_one_that_crashes() {
    let node = booted(&["app:1"]).await;
    node.runtime.cannot_start("c");
    node.want(&web("u1"));
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(
        node.runtime.count("StartContainer"),
        3,
        "at once, at once, and after ten seconds"
    );
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_cannot_be_made_is_tried_again() {
    let node = booted(&["app:1"]).await;
    node.runtime.fail_next("RunPodSandbox", "no network");
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.hear(
        "FailedCreatePodSandBox: Failed to create pod sandbox: rpc error: code = Unknown desc = no network",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_start_lists_the_runtime_once_and_asks_only_for_what_it_made() {
    let node = booted(&["app:1"]).await;
    node.want(&web("u1"));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    let calls = node.runtime.calls();
    let at = |call: &str| calls.iter().position(|c| c.starts_with(call)).unwrap();
    let (made, started) = (at("RunPodSandbox"), at("StartContainer"));
    let lists = calls[made..=started].iter().filter(|c| c.starts_with("List"));
    assert_eq!(lists.count(), 0, "{calls:?}");
    assert!(
        at("ImageStatus") < at("PodSandboxStatus"),
        "the image is sought beside the sandbox: {calls:?}"
    );
    assert!(calls[started + 1].starts_with("ContainerStatus"), "{calls:?}");
    let phases: Vec<_> = node
        .told("u1")
        .into_iter()
        .filter_map(|status| status.phase)
        .collect();
    assert_eq!(phases[0], "Running", "what is out of date at once is not told");
    assert!(node.status("u1").pod_ip.is_some());
}
