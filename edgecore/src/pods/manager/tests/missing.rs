//! Pods that lack something: what is said of them, and that they go on once it is there.

use super::*;

/// Why the container of the pod waits.
fn reason(node: &Node) -> String {
    let statuses = node.status("u1").container_statuses.unwrap_or_default();
    let waiting = statuses
        .first()
        .and_then(|s| s.state.clone())
        .and_then(|s| s.waiting);
    waiting.and_then(|w| w.reason).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_missing_image_is_said_and_pulled_when_it_comes() {
    let node = booted(&[]).await;
    node.want(&web("u1"));
    node.until("ImagePullBackOff", |node| reason(node) == "ImagePullBackOff")
        .await;
    assert_eq!(node.phase("u1"), "Pending");
    node.runtime.publish("app:1");
    node.until("Running", |node| node.phase("u1") == "Running").await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_corrected_does_not_wait_out_the_wrong_ones_back_off() {
    let node = booted(&["app:1"]).await;
    let mut wrong = web("u1");
    wrong["spec"]["containers"][0]["image"] = json!("ap:1");
    node.want(&wrong);
    node.until("ImagePullBackOff", |node| reason(node) == "ImagePullBackOff")
        .await;
    // The back-off is a long one by now.
    tokio::time::sleep(Duration::from_mins(10)).await;
    node.until("a new back-off", |node| reason(node) == "ImagePullBackOff")
        .await;
    node.want(&web("u1"));
    let corrected = Instant::now();
    node.until("Running", |node| node.phase("u1") == "Running").await;
    assert!(
        corrected.elapsed() < Duration::from_secs(2),
        "{:?}",
        corrected.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_missing_config_map_holds_the_container_until_it_comes() {
    let node = booted(&["app:1"]).await;
    let env = json!([{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "x"}}}]);
    node.want(&pod(
        "web",
        "u1",
        &json!({"containers": [{"name": "c", "image": "app:1", "env": env}]}),
    ));
    let failed = |node: &Node| {
        node.events()
            .iter()
            .any(|event| event.contains("configmap \"cm\" not found"))
    };
    node.until("the complaint", failed).await;
    node.objects.put_config_map("ns", "cm", &[("x", "1")]);
    node.touch_objects();
    let changed = Instant::now();
    node.until("Running", |node| node.phase("u1") == "Running").await;
    assert!(
        changed.elapsed() < Duration::from_secs(2),
        "at once, not after the back-off"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_pod_waits_and_is_never_started() {
    let node = booted(&["app:1"]).await;
    let mut refused = web("u1");
    refused["spec"]["containers"][0]["someFutureField"] = json!(true);
    node.want(&refused);
    node.until("the refusal", |node| !node.events().is_empty()).await;
    tokio::time::sleep(Duration::from_mins(5)).await;
    let status = node.status("u1");
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let waiting = status.container_statuses.unwrap()[0]
        .state
        .clone()
        .unwrap()
        .waiting
        .unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("UnsupportedPodFeature"));
    assert_eq!(node.runtime.count("RunPodSandbox"), 0);
    node.want(&deleted(refused, 30));
    node.until("gone", |node| node.gone() == ["u1"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_volume_keeps_the_sandbox_from_being_made() {
    let node = booted(&["app:1"]).await;
    let spec = json!({
        "containers": [{"name": "c", "image": "app:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "configMap": {"name": "cm"}}],
    });
    node.want(&pod("web", "u1", &spec));
    let failed = |node: &Node| node.events().iter().any(|event| event.starts_with("FailedMount"));
    node.until("the complaint", failed).await;
    assert!(!node.events().iter().any(|told| told.starts_with("Pulled")));
    assert_eq!(node.runtime.count("RunPodSandbox"), 0);
    node.objects.put_config_map("ns", "cm", &[("x", "1")]);
    node.touch_objects();
    node.until("Running", |node| node.phase("u1") == "Running").await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_long_in_coming_does_not_hide_the_sandbox() {
    let node = booted(&[]).await;
    node.want(&web("u1"));
    node.until("the sandbox is said", |node| node.status("u1").pod_ip.is_some())
        .await;
    assert_eq!(node.phase("u1"), "Pending");
    node.runtime.publish("app:1");
    node.until("Running", |node| node.phase("u1") == "Running").await;
}
