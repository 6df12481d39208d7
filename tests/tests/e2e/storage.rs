//! Pods that take more of the device's disk than they may.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};
use tests::{
    Testbed, pods,
    wait::{Look, throughout, until},
};

use crate::{
    told::until_event,
    world::{EDGE, PATIENCE, World, apply, delete, pod, sleeping},
};

crate::tests![
    a_pod_that_overfills_its_empty_dir_is_evicted_in_the_kubelets_words_and_stays_so,
    a_pod_that_writes_more_than_its_limit_of_storage_is_evicted_in_the_kubelets_words,
];

/// A container that writes so many MiB to `path` and then does nothing.
fn writing(path: &str, mebibytes: u32) -> Value {
    let mut container = sleeping();
    let script = format!(
        "trap 'exit 0' TERM; busybox dd if=/dev/urandom of={path} bs=1M count={mebibytes}; \
         while true; do sleep 1; done"
    );
    container["command"] = json!(["busybox", "sh", "-c", script]);
    container
}

async fn a_pod_that_overfills_its_empty_dir_is_evicted_in_the_kubelets_words_and_stays_so(
    world: &World,
) -> Result<()> {
    let (testbed, edge) = world.with_edge().await?;
    let name = world.name("overfull");
    let mut greedy = pod(&name, EDGE, writing("/cache/big", 4));
    greedy["spec"]["volumes"] = json!([{ "name": "cache", "emptyDir": { "sizeLimit": "1Mi" } }]);
    greedy["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "cache", "mountPath": "/cache" }]);
    apply(testbed, &greedy).await?;
    let message = "Usage of EmptyDir volume \"cache\" exceeds the limit \"1Mi\". ";
    let evicted = until_evicted(testbed, &name, message).await?;
    edge.machine.kill("edgecore")?;
    throughout("the pod is as it was", PATIENCE / 6, || async {
        let now = status(testbed, &name).await?;
        let same = now.phase == evicted.phase && now.message == evicted.message && all_ended(&now);
        Ok(Look::when(same, || format!("{now:?}")))
    })
    .await?;
    end(testbed, &name).await
}

async fn a_pod_that_writes_more_than_its_limit_of_storage_is_evicted_in_the_kubelets_words(
    world: &World,
) -> Result<()> {
    let (testbed, _) = world.with_edge().await?;
    let name = world.name("overfull");
    let mut greedy = pod(&name, EDGE, writing("/big", 4));
    greedy["spec"]["containers"][0]["resources"] = json!({ "limits": { "ephemeral-storage": "2Mi" } });
    apply(testbed, &greedy).await?;
    let message = "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ";
    until_evicted(testbed, &name, message).await?;
    end(testbed, &name).await
}

/// Its status once it is evicted and nothing of it runs; the event too is as the kubelet's.
async fn until_evicted(testbed: &Testbed, name: &str, message: &str) -> Result<PodStatus> {
    let evicted = until(&format!("{name} evicted"), PATIENCE, || async {
        let found = status(testbed, name).await?;
        let is_over = found.phase.as_deref() == Some("Failed") && all_ended(&found);
        let seen = format!("{found:?}");
        Ok(Look::from_option(is_over.then_some(found), || seen.clone()))
    })
    .await?;
    ensure!(
        evicted.reason.as_deref() == Some("Evicted") && evicted.message.as_deref() == Some(message),
        "{evicted:?}"
    );
    let of_the_node = |kind: &str| evicted.conditions.iter().flatten().any(|c| c.type_ == kind);
    ensure!(
        !of_the_node("DisruptionTarget"),
        "the node needed nothing: {evicted:?}"
    );
    until_event(testbed, name, "Evicted", message).await?;
    Ok(evicted)
}

pub(crate) fn all_ended(status: &PodStatus) -> bool {
    let mut containers = status.container_statuses.iter().flatten();
    containers.all(|container| {
        container
            .state
            .as_ref()
            .is_some_and(|state| state.terminated.is_some())
    })
}

pub(crate) async fn status(testbed: &Testbed, name: &str) -> Result<PodStatus> {
    let found = pods::list(&testbed.client(), "default", &format!("app={name}")).await?;
    let pod: Pod = found.into_iter().next().context("it is gone")?;
    pod.status.context("it has no status")
}

pub(crate) async fn end(testbed: &Testbed, name: &str) -> Result<()> {
    delete(testbed, &["pod", name]).await?;
    pods::until_gone(&testbed.client(), &format!("app={name}"), PATIENCE).await
}
