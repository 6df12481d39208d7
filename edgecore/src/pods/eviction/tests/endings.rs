//! What is said of a pod that is evicted while it ends, and when.

use super::*;

/// A pod that takes 20 seconds to end, on a node that gives it 30.
async fn slow() -> Node {
    let mut node = Node::new(&["app:1"]);
    let soft = Soft {
        threshold: Threshold::Amount(1 << 30),
        grace: Duration::from_secs(30),
    };
    node.eviction.soft.set(Signal::Memory, Some(soft));
    node.eviction.pod_grace_seconds = 30;
    let mut slow = plain("slow");
    slow["spec"]["containers"][0]["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 20}}});
    running(node, &[slow]).await
}

fn low() -> Load {
    Load {
        memory_available: 500 << 20,
        ..plenty()
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_said_to_be_evicted_when_nothing_of_it_runs_any_more() {
    let node = slow().await;
    *node.load.lock() = low();
    node.hear("Evicted: The node was low on resource: memory.").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(
        (node.phase("slow").as_str(), conditions(&node, "slow").len()),
        ("Running", 0)
    );
    assert_eq!(node.status("slow").reason, None);
    node.until("Failed", |node| node.phase("slow") == "Failed").await;
    assert_eq!(node.runtime.running(), Vec::<String>::new());
    assert_eq!(node.status("slow").reason.as_deref(), Some("Evicted"));
    assert_eq!(conditions(&node, "slow").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_eviction_that_a_restart_of_the_agent_cuts_short_goes_on() {
    let mut node = slow().await;
    *node.load.lock() = low();
    node.hear("Evicted").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(node.runtime.running(), ["slow"]);
    node.kill().await;
    *node.load.lock() = plenty();
    node.boot().await;
    node.until("Failed", |node| node.phase("slow") == "Failed").await;
    assert_eq!(node.status("slow").reason.as_deref(), Some("Evicted"));
    assert_eq!(conditions(&node, "slow").len(), 1);
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(
        node.runtime.count("CreateContainer"),
        1,
        "it is not started again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_work_is_done_is_not_said_to_be_evicted() {
    let sidecar = json!({"name": "side", "image": "app:1", "restartPolicy": "Always",
        "lifecycle": {"preStop": {"sleep": {"seconds": 25}}}});
    let mut job = plain("job");
    job["spec"]["restartPolicy"] = json!("Never");
    job["spec"]["initContainers"] = json!([sidecar]);
    let node = booted(&[job]).await;
    node.runtime.end("job", 0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(node.runtime.running(), ["side"]);
    *node.load.lock() = no_memory();
    node.hear("EvictionThresholdMet").await;
    node.until("Succeeded", |node| node.phase("job") == "Succeeded")
        .await;
    let evicted = |event: &String| event.starts_with("Evicted");
    assert!(!node.events().iter().any(evicted), "{:?}", node.events());
}
