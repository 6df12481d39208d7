//! What the runtime knows of an end only a moment after it.

use std::time::Duration;

use super::*;

fn reasons(node: &Node) -> Vec<Value> {
    let told = node.told("u1").into_iter();
    let states = told.filter_map(|status| {
        let container = status.container_statuses?.into_iter().next()?;
        serde_json::to_value(container.state?.terminated?.reason).ok()
    });
    states.collect()
}

async fn killed(late: bool) -> Vec<Value> {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "app:1"}]});
    let node = wanting(&pod(&spec), |_| {}).await;
    node.until("a run", |node| node.phase("u1") == "Running").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    node.runtime.end("c", 137);
    tokio::time::sleep(Duration::from_millis(100)).await;
    if late {
        node.runtime.lacked_memory("c");
    }
    node.until("the end", |node| node.phase("u1") == "Failed").await;
    tokio::time::sleep(Duration::from_mins(5)).await;
    reasons(&node)
}

#[tokio::test(start_paused = true)]
async fn a_lack_of_memory_is_told_though_the_runtime_hears_of_the_end_first() {
    let told = killed(true).await;
    assert!(
        !told.is_empty() && told.iter().all(|r| r == "OOMKilled"),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_container_that_was_killed_is_an_error() {
    let told = killed(false).await;
    assert!(!told.is_empty() && told.iter().all(|r| r == "Error"), "{told:?}");
}
