//! What a user rolls out: a Deployment of ten with a ConfigMap and the default token, and a change to a
//! ConfigMap that has to arrive in a container's file.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use futures::future::try_join_all;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tests::{machine::Machine, pods};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    figures::{Figure, Unit, milliseconds, percentile},
    follow::{Milestone, times},
    show::step,
    stage::{EDGE, PATIENCE, Stage},
    starts::{IMAGE, SLEEP},
};

/// The Deployment, its label and its ConfigMap.
const APP: &str = "bench-deployment";
const REPLICAS: usize = 10;
/// Pods whose ConfigMaps are changed on each node, and their label.
const CHANGED: usize = 5;
const CONFIG: &str = "bench-config";
/// The changes begin at random within this span, so that no agent's period is met in step.
const SPREAD: Duration = Duration::from_secs(10);
/// Between two looks at a file.
const LOOK: Duration = Duration::from_millis(2);

pub(crate) async fn measure(stage: &Stage<'_>) -> Result<Vec<Figure>> {
    let node = stage.testbed.node.machine.name();
    let what = |who: &str| format!("a Deployment of {REPLICAS}, {who}");
    let ours = step(&what("edge node"), deployment(stage, EDGE)).await?;
    let kubelet = step(&what("stock kubelet"), deployment(stage, node)).await?;
    let deployment = figure("deployment10.running", ours, kubelet);
    let what = |who: &str| format!("{CHANGED} changes of ConfigMaps, {who}");
    let ours = step(&what("edge node"), changes(stage, &stage.edge.machine)).await?;
    let kubelet = step(
        &what("stock kubelet"),
        changes(stage, &stage.testbed.node.machine),
    )
    .await?;
    let (ours, kubelet) = (percentile(&ours, 50), percentile(&kubelet, 50));
    let to_file = ours.zip(kubelet).context("no ConfigMap was changed")?;
    Ok(vec![
        deployment,
        figure("configmap_to_file.p50", to_file.0, to_file.1),
    ])
}

fn figure(name: &'static str, ours: Duration, kubelet: Duration) -> Figure {
    Figure {
        kubelet: Some(milliseconds(kubelet)),
        ..Figure::ours(name, Unit::Milliseconds, milliseconds(ours))
    }
}

/// From the create request of the Deployment until all of its pods run.
async fn deployment(stage: &Stage<'_>, node: &str) -> Result<Duration> {
    let client = stage.testbed.client();
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    configs
        .create(&PostParams::default(), &config_map(APP, "first")?)
        .await?;
    let wanted = serde_json::from_value(json!({
        "metadata": { "name": APP },
        "spec": {
            "replicas": REPLICAS,
            "selector": { "matchLabels": { "app": APP } },
            "template": { "metadata": { "labels": { "app": APP } }, "spec": spec(node, APP) },
        },
    }))?;
    let create = async {
        deployments.create(&PostParams::default(), &wanted).await?;
        Ok(())
    };
    let took = times(&api, (APP, REPLICAS), Milestone::Running, create).await?;
    deployments.delete(APP, &DeleteParams::background()).await?;
    configs.delete(APP, &DeleteParams::default()).await?;
    pods::until_gone(&client, &format!("app={APP}"), PATIENCE).await?;
    Ok(took.last().copied().unwrap_or_default())
}

/// A sleeping pod with a ConfigMap volume, sent by the scheduler to one node.
fn spec(node: &str, config: &str) -> Value {
    json!({
        "nodeSelector": { "kubernetes.io/hostname": node },
        "tolerations": [{ "key": "node-role.kubernetes.io/edge", "operator": "Exists" }],
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": SLEEP,
            "volumeMounts": [{ "name": "config", "mountPath": "/etc/config" }],
        }],
        "volumes": [{ "name": "config", "configMap": { "name": config } }],
    })
}

fn config_map(name: &str, value: &str) -> Result<ConfigMap> {
    let config = json!({ "metadata": { "name": name }, "data": { "key": value } });
    Ok(serde_json::from_value(config)?)
}

/// How long each of some ConfigMaps took from the patch request to the file in its pod's volume.
async fn changes(stage: &Stage<'_>, machine: &Machine) -> Result<Vec<Duration>> {
    let client = stage.testbed.client();
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    let names: Vec<String> = (1..=CHANGED)
        .map(|index| format!("{CONFIG}-{}-{index}", machine.name()))
        .collect();
    for name in &names {
        configs
            .create(&PostParams::default(), &config_map(name, "first")?)
            .await?;
        let pod = json!({
            "metadata": { "name": name, "labels": { "app": CONFIG } },
            "spec": spec(machine.name(), name),
        });
        api.create(&PostParams::default(), &serde_json::from_value(pod)?)
            .await?;
    }
    let selector = format!("app={CONFIG}");
    let running = pods::until_ready(&client, &selector, CHANGED, PATIENCE).await?;
    let change = running.iter().map(|pod| change(&configs, pod, machine));
    let took = try_join_all(change).await?;
    for name in &names {
        api.delete(name, &DeleteParams::default()).await?;
        configs.delete(name, &DeleteParams::default()).await?;
    }
    pods::until_gone(&client, &selector, PATIENCE).await?;
    Ok(took)
}

async fn change(configs: &Api<ConfigMap>, pod: &Pod, machine: &Machine) -> Result<Duration> {
    let name = pods::name(pod);
    let file = file(pod, machine);
    let has = |value: &str| fs::read(&file).is_ok_and(|content| content == value.as_bytes());
    anyhow::ensure!(has("first"), "{} is not the ConfigMap's", file.display());
    sleep(SPREAD.mul_f64(rand::random())).await;
    let changed = json!({ "data": { "key": "second" } });
    let started = Instant::now();
    configs
        .patch(name, &PatchParams::default(), &Patch::Merge(&changed))
        .await?;
    let arrived = async {
        while !has("second") {
            sleep(LOOK).await;
        }
    };
    timeout(PATIENCE, arrived)
        .await
        .with_context(|| format!("the change of ConfigMap {name} did not arrive within {PATIENCE:?}"))?;
    Ok(started.elapsed())
}

/// Where the kubelet, and so an edge node, keeps the volume.
fn file(pod: &Pod, machine: &Machine) -> PathBuf {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let volume = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~configmap/config/key");
    machine.file(&volume)
}
