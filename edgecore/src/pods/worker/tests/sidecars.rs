//! Init containers that restart always.

use std::time::Duration;

use super::*;

fn with_sidecar(main: &Value, sidecar: &Value) -> Value {
    let (mut main, mut sidecar) = (main.clone(), sidecar.clone());
    for (container, name) in [(&mut main, "c"), (&mut sidecar, "side")] {
        container["name"] = json!(name);
        container["image"] = json!("app:1");
    }
    sidecar["restartPolicy"] = json!("Always");
    pod(&json!({"initContainers": [sidecar], "containers": [main]}))
}

fn condition(node: &Node, name: &str) -> String {
    let conditions = node.status("u1").conditions.unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition.type_ == name);
    found.map(|condition| condition.status).unwrap_or_default()
}

fn sidecar(node: &Node) -> Value {
    let statuses = node.status("u1").init_container_statuses.unwrap_or_default();
    serde_json::to_value(statuses.first()).unwrap()
}

/// What the runtime was told to stop, in the order of the calls.
fn stops(node: &Node) -> Vec<String> {
    let calls = node.runtime.calls();
    let stopped = calls.iter().filter(|call| call.starts_with("StopContainer"));
    stopped.cloned().collect()
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_its_sidecar_to_start_and_to_be_ready() {
    let probe = |command: &str| json!({"exec": {"command": [command]}, "periodSeconds": 1});
    let side = json!({"startupProbe": probe("up"), "readinessProbe": probe("ready")});
    let node = wanting(&with_sidecar(&json!({}), &side), |node| {
        node.runtime.commands("up", 1, Duration::ZERO);
        node.runtime.commands("ready", 1, Duration::ZERO);
    })
    .await;
    node.until("the sidecar", |node| {
        sidecar(node)["state"]["running"].is_object()
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(node.runtime.running(), ["side"]);
    assert_eq!(
        (
            node.phase("u1").as_str(),
            condition(&node, "Initialized").as_str()
        ),
        ("Pending", "False")
    );
    node.runtime.commands("up", 0, Duration::ZERO);
    node.until("Running", |node| node.phase("u1") == "Running").await;
    assert_eq!(
        (sidecar(&node)["started"].clone(), sidecar(&node)["ready"].clone()),
        (json!(true), json!(false))
    );
    assert_eq!(
        (
            condition(&node, "Initialized").as_str(),
            condition(&node, "Ready").as_str()
        ),
        ("True", "False")
    );
    node.runtime.commands("ready", 0, Duration::ZERO);
    node.until("Ready", |node| condition(node, "Ready") == "True")
        .await;
    assert_eq!(node.runtime.running(), ["c", "side"]);
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_is_stopped_after_the_main_container_within_the_same_grace() {
    let slow = json!({"lifecycle": {"preStop": {"sleep": {"seconds": 8}}}});
    let quick = json!({"lifecycle": {"preStop": {"exec": {"command": ["bye"]}}}});
    let pod = with_sidecar(&slow, &quick);
    let node = wanting(&pod, |_| ()).await;
    node.until("Running", |node| node.runtime.running() == ["c", "side"])
        .await;
    let side = sidecar(&node)["containerID"]
        .as_str()
        .unwrap()
        .replace("fake://", "");
    node.want(&deleted(pod, 30));
    node.until("gone", |node| node.gone() == ["u1"]).await;
    assert_eq!(graces(&node), ["22", "22"]);
    assert_eq!(stops(&node)[1], format!("StopContainer {side} 22"));
    assert_eq!(node.phase("u1"), "Failed");
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_that_restarts_does_not_take_its_pod_back_to_pending() {
    let node = wanting(&with_sidecar(&json!({}), &json!({})), |_| ()).await;
    node.until("Running", |node| node.runtime.running() == ["c", "side"])
        .await;
    node.until("the phase", |node| node.phase("u1") == "Running")
        .await;
    node.runtime.exits_at_once("side", 1);
    node.runtime.end("side", 1);
    node.until("the back-off", |node| {
        sidecar(node)["state"]["waiting"]["reason"] == json!("CrashLoopBackOff")
    })
    .await;
    assert_eq!(
        (
            node.phase("u1").as_str(),
            condition(&node, "Initialized").as_str()
        ),
        ("Running", "True")
    );
    assert_eq!(condition(&node, "Ready"), "False");
    assert_eq!(node.runtime.running(), ["c"]);
    node.runtime.keeps_running("side");
    node.until("recovery", |node| condition(node, "Ready") == "True")
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_job_with_a_sidecar_succeeds_when_its_main_container_has() {
    let mut job = with_sidecar(&json!({}), &json!({}));
    job["spec"]["restartPolicy"] = json!("Never");
    let node = wanting(&job, |node| node.runtime.exits_at_once("c", 0)).await;
    node.until("Succeeded", |node| node.phase("u1") == "Succeeded")
        .await;
    assert_eq!(node.runtime.running(), Vec::<String>::new());
    assert_eq!(
        (node.runtime.count("CreateContainer"), graces(&node)),
        (2, vec!["30".to_owned()])
    );
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_agent_leaves_a_sidecar_that_has_started_alone() {
    let up =
        json!({"startupProbe": {"exec": {"command": ["up"]}, "periodSeconds": 1, "failureThreshold": 1}});
    let mut node = wanting(&with_sidecar(&json!({}), &up), |_| ()).await;
    node.until("Running", |node| condition(node, "Ready") == "True")
        .await;
    node.kill().await;
    node.runtime.commands("up", 1, Duration::ZERO);
    node.boot().await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(node.runtime.running(), ["c", "side"]);
    assert_eq!(
        (
            node.runtime.count("CreateContainer"),
            node.runtime.count("StopContainer")
        ),
        (2, 0)
    );
    assert_eq!(condition(&node, "Ready"), "True");
}
