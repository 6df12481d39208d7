//! A cut past the time after which a cluster evicts the pods of a node that is gone.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::json;
use tests::{
    Testbed,
    control_plane::{Patience, SHORT_TOLERATION},
    pods,
    testbed::node_back,
    wait::{Look, until},
};

use crate::world::{EDGE, PATIENCE, World, apart, apply, joined, pod, sleepers, sleeping};

crate::tests![a_cut_past_the_eviction_time_evicts_no_pod_but_one_that_asks_for_it];

/// On a testbed of its own, beside the shared one, whose controllers lose patience soon.
async fn a_cut_past_the_eviction_time_evicts_no_pod_but_one_that_asks_for_it(_: &World) -> Result<()> {
    apart(Testbed::start(Patience::Short).await?, stays).await
}

async fn stays(testbed: &Testbed) -> Result<()> {
    let default = format!("autonomy.defaultTolerationSeconds={}", SHORT_TOLERATION.as_secs());
    let edge = joined(testbed, &[&default]).await?;
    apply(testbed, &sleepers("stays", EDGE, 3)).await?;
    apply(testbed, &impatient("leaves", SHORT_TOLERATION.as_secs() * 2)).await?;
    let client = testbed.client();
    let before = pods::identity(&pods::until_ready(&client, "app=stays", 3, PATIENCE).await?);
    pods::until_ready(&client, "app=leaves", 1, PATIENCE).await?;
    edge.machine.cut()?;
    // It tolerates the cut for longer than admission lets the others: once it goes, they would be gone.
    let evicted = evicted(testbed, "leaves").await;
    let kept = pods::list(&client, "default", "app=stays").await?;
    edge.machine.restore().await?;
    evicted?;
    let going = kept.iter().any(|pod| pod.metadata.deletion_timestamp.is_some());
    ensure!(
        kept.len() == 3 && !going,
        "they are evicted:\n{}",
        pods::table(&kept)
    );
    node_back(&client, EDGE, PATIENCE).await?;
    let after = pods::identity(&pods::until_ready(&client, "app=stays", 3, PATIENCE).await?);
    ensure!(before == after, "{before:?} became {after:?}");
    pods::until_gone(&client, "app=leaves", PATIENCE).await
}

/// A pod whose author chose how long it stays on a node that is gone.
fn impatient(name: &str, seconds: u64) -> serde_json::Value {
    let chosen = |key| json!({ "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds });
    let mut pod = pod(name, EDGE, sleeping());
    pod["spec"]["tolerations"] = json!([
        { "key": "node-role.kubernetes.io/edge", "operator": "Exists", "effect": "NoSchedule" },
        chosen("node.kubernetes.io/not-ready"),
        chosen("node.kubernetes.io/unreachable"),
    ]);
    pod
}

async fn evicted(testbed: &Testbed, name: &str) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(testbed.client(), "default");
    until("the pod that asks for it to be evicted", PATIENCE * 2, || async {
        let pod = api.get_opt(name).await?.context("it is gone already")?;
        let going = pod.metadata.deletion_timestamp.is_some();
        Ok(Look::when(going, || pods::table(&[pod])))
    })
    .await
}
