//! Pods whose containers are not made for want of an answer from a file system, in real time: virtual time stands still
//! while a thread waits.

use super::*;

/// More than start side by side.
const HANGING: usize = 5;

fn hanging(n: usize) -> Value {
    let env = json!([{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "x"}}}]);
    let name = format!("share-{n}");
    let spec = json!({"containers": [{"name": &name, "image": "app:1", "env": env}]});
    pod(&name, &name, &spec)
}

#[tokio::test]
async fn a_pod_that_hangs_keeps_no_other_from_starting_and_can_be_deleted() {
    let node = booted(&["app:1"]).await;
    node.objects.put_config_map("ns", "cm", &[("x", "1")]);
    node.objects.hang(true);
    for n in 0..HANGING {
        node.want(&hanging(n));
    }
    node.until("their sandboxes", |node| node.runtime.sandboxes() >= 4)
        .await;
    node.want(&web("u1"));
    let runs = |node: &Node| node.runtime.running().iter().any(|name| name == "c");
    node.until("the other one", runs).await;
    assert!(node.objects.hangs(), "it was not waited for");
    node.want(&deleted(hanging(0), 1));
    node.until("gone", |node| node.gone() == ["share-0"]).await;
    assert!(node.objects.hangs(), "it was not waited for");
    node.objects.hang(false);
    node.until("the rest", |node| node.runtime.running().len() == HANGING)
        .await;
}
