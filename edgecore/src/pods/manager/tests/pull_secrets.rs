//! Pods with pull secrets.

use serde_json::json;

use super::{booted, pod};

#[tokio::test(start_paused = true)]
async fn a_missing_pull_secret_is_told_and_the_pull_is_tried_without_it() {
    let node = booted(&[]).await;
    node.runtime.publish("app:1");
    let spec = json!({"imagePullSecrets": [{"name": ""}, {"name": "gone"}],
        "containers": [{"name": "c", "image": "app:1"}]});
    node.want(&pod("web", "u1", &spec));
    node.until("Running", |node| node.phase("u1") == "Running").await;
    node.hear(
        "FailedToRetrieveImagePullSecret: Unable to retrieve some image pull secrets (gone); attempting to \
        pull the image may not succeed.",
    )
    .await;
}
