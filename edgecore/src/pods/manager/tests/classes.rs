//! Pods with a `RuntimeClass`.

use serde_json::json;

use super::{booted, pod};

#[tokio::test(start_paused = true)]
async fn a_pods_class_names_its_handler_and_is_waited_for() {
    let node = booted(&["app:1"]).await;
    let spec = json!({"runtimeClassName": "vm", "containers": [{"name": "c", "image": "app:1"}]});
    node.want(&pod("web", "u1", &spec));
    let told =
        "FailedCreatePodSandBox: Failed to create pod sandbox: runtimeclass.node.k8s.io \"vm\" not found";
    node.until("told", |node| node.events().contains(&told.to_owned()))
        .await;
    assert_eq!(node.runtime.count("RunPodSandbox"), 0);
    node.objects.add_runtime_class("vm", "kata");
    node.touch_objects();
    node.until("Running", |node| node.phase("u1") == "Running").await;
    assert_eq!(node.runtime.handlers(), ["kata"]);
}
