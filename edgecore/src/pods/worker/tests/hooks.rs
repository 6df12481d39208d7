//! postStart and preStop.

use std::time::Duration;

use tokio::time::Instant;

use super::*;

fn hooked(lifecycle: &Value) -> Value {
    pod(&json!({"containers": [{"name": "c", "image": "app:1", "lifecycle": lifecycle}]}))
}

fn state(node: &Node) -> Value {
    let statuses = node.status("u1").container_statuses.unwrap_or_default();
    serde_json::to_value(statuses.first()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_container_is_not_said_to_run_before_its_post_start_hook_is_over() {
    let pod = hooked(&json!({"postStart": {"exec": {"command": ["warm-up"]}}}));
    let node = wanting(&pod, |node| {
        node.runtime.commands("warm-up", 0, Duration::from_mins(1));
    })
    .await;
    node.until("the start", |node| node.runtime.running() == ["c"])
        .await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(
        state(&node)["state"]["waiting"]["reason"],
        json!("ContainerCreating")
    );
    assert_eq!(node.phase("u1"), "Pending");
    node.until("Running", |node| node.phase("u1") == "Running").await;
    assert_eq!(
        (
            node.runtime.count("ExecSync"),
            node.runtime.count("StopContainer")
        ),
        (1, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_post_start_hook_that_fails_kills_the_container_and_the_policy_decides_what_follows() {
    let mut pod = hooked(&json!({"postStart": {"exec": {"command": ["warm-up"]}}}));
    let node = wanting(&pod, |node| {
        node.runtime.commands("warm-up", 1, Duration::ZERO);
    })
    .await;
    node.until("the second back-off", |node| {
        state(node)["restartCount"] == json!(2)
    })
    .await;
    assert!(
        told(&node, "FailedPostStartHook: PostStartHook failed") > 0,
        "{:?}",
        node.events()
    );
    assert!(
        told(&node, "Killing: FailedPostStartHook") > 0,
        "{:?}",
        node.events()
    );
    let reasons: Vec<_> = node
        .told("u1")
        .into_iter()
        .filter_map(|status| status.container_statuses?.remove(0).state?.waiting?.reason)
        .collect();
    assert!(
        reasons.iter().any(|reason| reason == "CrashLoopBackOff"),
        "{reasons:?}"
    );
    node.runtime.commands("warm-up", 0, Duration::ZERO);
    node.until("recovery", |node| state(node)["ready"] == json!(true))
        .await;

    pod["spec"]["restartPolicy"] = json!("Never");
    let node = wanting(&pod, |node| {
        node.runtime.commands("warm-up", 1, Duration::ZERO);
    })
    .await;
    node.until("Failed", |node| node.phase("u1") == "Failed").await;
    assert_eq!(node.runtime.count("CreateContainer"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_order_to_end_cuts_a_post_start_hook_short_and_the_pre_stop_hook_still_runs() {
    let hooks =
        json!({"postStart": {"exec": {"command": ["for-ever"]}}, "preStop": {"exec": {"command": ["bye"]}}});
    let pod = hooked(&hooks);
    let forever = Duration::from_secs(1 << 30);
    let node = wanting(&pod, |node| {
        node.runtime.commands("for-ever", 0, forever);
    })
    .await;
    node.until("the start", |node| node.runtime.count("ExecSync") == 1)
        .await;
    node.want(&deleted(pod, 30));
    node.until("gone", |node| node.gone() == ["u1"]).await;
    let calls = node.runtime.calls();
    let at = |call: &str| calls.iter().position(|c| c.starts_with(call)).unwrap();
    assert!(at("ExecSync bye") < at("StopContainer"), "{calls:?}");
    node.hear("FailedPostStartHook").await;
    assert_eq!(told(&node, "FailedPostStartHook: PostStartHook failed"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pre_stop_hook_takes_its_time_from_the_grace() {
    for (takes, grace, left) in [(10, 30, "20"), (29, 30, "2"), (600, 30, "2"), (10, 0, "2")] {
        let pod = hooked(&json!({"preStop": {"exec": {"command": ["bye"]}}}));
        let node = wanting(&pod, |node| {
            node.runtime.commands("bye", 0, Duration::from_secs(takes));
        })
        .await;
        node.until("Running", |node| node.phase("u1") == "Running").await;
        let began = Instant::now();
        node.want(&deleted(pod, grace));
        node.until("gone", |node| node.gone() == ["u1"]).await;
        assert_eq!(graces(&node), [left], "{takes} of {grace}");
        assert_eq!(node.runtime.count("ExecSync"), usize::from(grace > 0));
        assert!(began.elapsed() < Duration::from_secs(40));
    }
}

#[tokio::test(start_paused = true)]
async fn a_pre_stop_hook_that_fails_is_told_and_the_container_is_stopped_all_the_same() {
    let pod = hooked(&json!({"preStop": {"tcpSocket": {"port": 80}}}));
    let node = wanting(&pod, |_| ()).await;
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.want(&deleted(pod, 30));
    node.until("gone", |node| node.gone() == ["u1"]).await;
    node.hear("FailedPreStopHook").await;
    assert_eq!(told(&node, "FailedPreStopHook: PreStopHook failed"), 1);
    assert_eq!(graces(&node), ["30"]);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ends_by_itself_has_no_pre_stop_hook() {
    let pod = hooked(&json!({"preStop": {"exec": {"command": ["bye"]}}}));
    let node = wanting(&pod, |node| {
        node.runtime.exits_at_once("c", 1);
    })
    .await;
    node.until("a restart", |node| node.runtime.count("CreateContainer") == 2)
        .await;
    assert_eq!(node.runtime.count("ExecSync"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_liveness_probe_that_fails_runs_the_pre_stop_hook() {
    let mut pod = hooked(&json!({"preStop": {"exec": {"command": ["bye"]}}}));
    pod["spec"]["containers"][0]["livenessProbe"] =
        json!({"exec": {"command": ["alive"]}, "periodSeconds": 1, "failureThreshold": 1});
    let node = wanting(&pod, |node| {
        node.runtime.commands("alive", 1, Duration::ZERO);
    })
    .await;
    node.until("the kill", |node| node.runtime.count("StopContainer") > 0)
        .await;
    let calls = node.runtime.calls();
    assert!(calls.iter().any(|call| call == "ExecSync bye"), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn an_orphan_is_stopped_with_the_hook_that_its_annotations_remember() {
    let pod = hooked(&json!({"preStop": {"exec": {"command": ["bye"]}}}));
    let mut node = wanting(&pod, |node| {
        node.runtime.commands("bye", 0, Duration::from_secs(5));
    })
    .await;
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.kill().await;
    node.forget("u1");
    node.boot().await;
    node.until("the orphan's end", |node| node.runtime.sandboxes() == 0)
        .await;
    assert_eq!(node.runtime.count("ExecSync"), 1);
    assert_eq!(graces(&node), ["25"]);
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_agent_takes_a_container_whose_post_start_hook_was_cut_short_as_it_is() {
    let pod = hooked(&json!({"postStart": {"exec": {"command": ["warm-up"]}}}));
    let mut node = wanting(&pod, |node| {
        node.runtime.commands("warm-up", 0, Duration::from_mins(1));
    })
    .await;
    node.until("the hook", |node| node.runtime.count("ExecSync") == 1)
        .await;
    node.kill().await;
    node.boot().await;
    node.until("Running", |node| node.phase("u1") == "Running").await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(
        (
            node.runtime.count("ExecSync"),
            node.runtime.count("CreateContainer")
        ),
        (1, 1)
    );
}
