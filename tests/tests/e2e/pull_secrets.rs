//! Images of a registry that lets in who has a password.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    EdgeMachine, Testbed, pods,
    registry::{self, Password},
    testbed::node_back,
    wait::{Look, until},
};

use crate::{
    told::until_waits,
    world::{EDGE, PATIENCE, World, apply, delete, pod, sleeping},
};

crate::tests![
    a_private_image_runs_with_its_secret_and_is_refused_without_even_when_it_is_there,
    a_pull_secret_that_is_rotated_is_used_by_the_pod_that_waits,
    a_pod_with_a_private_image_starts_again_without_network_and_registry,
];

/// A pod with the private image and perhaps a pull secret.
fn private(name: &str, policy: &str, secret: Option<&str>) -> Value {
    let mut container = sleeping();
    container["image"] = json!(registry::IMAGE);
    container["imagePullPolicy"] = json!(policy);
    let mut pod = pod(name, EDGE, container);
    if let Some(secret) = secret {
        pod["spec"]["imagePullSecrets"] = json!([{ "name": secret }]);
    }
    pod
}

fn secret(name: &str, password: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name },
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": { ".dockerconfigjson": registry::docker_config(password).to_string() },
    })
}

/// An account whose pods get a pull secret by admission.
fn account(name: &str, secret: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name },
            "imagePullSecrets": [{ "name": secret }] })
}

fn list(items: &[Value]) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

async fn ready(testbed: &Testbed, name: &str) -> Result<Vec<k8s_openapi::api::core::v1::Pod>> {
    pods::until_ready(&testbed.client(), &format!("app={name}"), 1, PATIENCE).await
}

async fn a_private_image_runs_with_its_secret_and_is_refused_without_even_when_it_is_there(
    world: &World,
) -> Result<()> {
    let (testbed, _) = world.with_registry().await?;
    let names = ["none", "wrong", "right", "account", "later", "never"].map(|stem| world.name(stem));
    let [none, wrong, right, by_account, later, never] = &names;
    let objects = [
        secret(right, Password::First.text()),
        secret(wrong, "no-password"),
        account(by_account, right),
        private(none, "IfNotPresent", None),
        private(wrong, "IfNotPresent", Some(wrong)),
    ];
    apply(testbed, &list(&objects)).await?;
    until_waits(
        testbed,
        none,
        &["ImagePull", registry::IMAGE, "authorization failed"],
    )
    .await?;
    until_waits(
        testbed,
        wrong,
        &["ImagePull", registry::IMAGE, "401 Unauthorized"],
    )
    .await?;

    let mut admitted = private(by_account, "Always", None);
    admitted["spec"]["serviceAccountName"] = json!(by_account);
    let objects = [private(right, "IfNotPresent", Some(right)), admitted];
    apply(testbed, &list(&objects)).await?;
    ready(testbed, right).await?;
    ready(testbed, by_account).await?;

    // The image is on the device now, but it is not theirs.
    let objects = [
        private(later, "IfNotPresent", None),
        private(never, "Never", None),
    ];
    apply(testbed, &list(&objects)).await?;
    until_waits(testbed, later, &["ImagePull", "authorization failed"]).await?;
    until_waits(testbed, never, &["ErrImageNeverPull"]).await?;
    let pods = names.iter().map(String::as_str);
    delete(testbed, &["pod"].into_iter().chain(pods).collect::<Vec<_>>()).await
}

async fn a_pull_secret_that_is_rotated_is_used_by_the_pod_that_waits(world: &World) -> Result<()> {
    let (testbed, edge) = world.with_registry().await?;
    let name = world.name("rotated");
    registry::accept(edge, Password::Second)?;
    let objects = [
        secret(&name, Password::First.text()),
        private(&name, "Always", Some(&name)),
    ];
    apply(testbed, &list(&objects)).await?;
    until_waits(testbed, &name, &["ImagePull", "401 Unauthorized"]).await?;
    apply(testbed, &secret(&name, Password::Second.text())).await?;
    ready(testbed, &name).await?;
    delete(testbed, &["pod", &name]).await
}

async fn a_pod_with_a_private_image_starts_again_without_network_and_registry(world: &World) -> Result<()> {
    let (testbed, edge) = world.with_registry().await?;
    let name = world.name("offline");
    let objects = [
        secret(&name, Password::First.text()),
        private(&name, "IfNotPresent", Some(&name)),
    ];
    apply(testbed, &list(&objects)).await?;
    let before = pods::identity(&ready(testbed, &name).await?);
    let uid = before.keys().next().context("no pod")?;
    registry::stop(edge)?;
    edge.machine.cut()?;
    let restarted = restart(edge, uid).await;
    edge.machine.restore().await?;
    registry::resume(edge)?;
    restarted?;
    node_back(&testbed.client(), EDGE, PATIENCE).await?;
    until("the restart to be told", PATIENCE, || async {
        let after = ready(testbed, &name).await?;
        let told = pods::containers(&after[0]).iter().map(|c| c.restart_count);
        Ok(Look::when(told.eq([1]), || pods::table(&after)))
    })
    .await?;
    delete(testbed, &["pod", &name]).await
}

/// Kills edgecore, then the pod's container, and waits until another one runs.
async fn restart(edge: &EdgeMachine, uid: &str) -> Result<()> {
    let pid = edge.machine.service_pid("edgecore")?;
    edge.machine.kill("edgecore")?;
    until("edgecore to run again", PATIENCE, || async {
        let now = edge.machine.service_pid("edgecore")?;
        Ok(Look::when(now != pid, || format!("pid {now}")))
    })
    .await?;
    let first = edge.running_of(uid, "main").await?;
    ensure!(first.len() == 1, "{first:?} run");
    edge.ctr(&["tasks", "kill", "--signal", "SIGKILL", &first[0]])
        .await?;
    until("another container", PATIENCE, || async {
        let now = edge.running_of(uid, "main").await?;
        Ok(Look::when(now.len() == 1 && now != first, || format!("{now:?}")))
    })
    .await
}
