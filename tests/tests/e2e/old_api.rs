//! A cluster whose API server offers less: no streaming lists, no constrained impersonation.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    EdgeMachine, Testbed,
    audit::Request,
    pods,
    testbed::node_back,
    wait::{Look, until},
};

use crate::world::{EDGE, PATIENCE, World, apart, apply, delete, joined, pod, sleepers, sleeping};

crate::tests![a_node_works_in_a_cluster_with_plain_lists_and_classic_impersonation];

const CLOUDCORE: &str = "system:serviceaccount:tombolo-system:cloudcore";
/// Seconds; the shortest life that a token may have.
const TOKEN_LIFE: i64 = 600;

/// On a testbed of its own, beside the shared one.
async fn a_node_works_in_a_cluster_with_plain_lists_and_classic_impersonation(_: &World) -> Result<()> {
    apart(Testbed::start_old().await?, works).await
}

async fn works(testbed: &Testbed) -> Result<()> {
    let edge = joined(testbed, &["impersonation=classic"]).await?;
    let client = testbed.client();
    apply(testbed, &sleepers("runs", EDGE, 2)).await?;
    apply(testbed, &with_token("asks")).await?;
    pods::until_ready(&client, "app=runs", 2, PATIENCE).await?;
    let asks = pods::until_ready(&client, "app=asks", 1, PATIENCE).await?;
    let uid = asks[0].metadata.uid.as_deref().context("no uid")?;

    // Later, by the device's clock, its token is due for renewal.
    let first = token(&edge, uid).await?;
    edge.install_service_at(TOKEN_LIFE * 9 / 10)?;
    until("a new token", PATIENCE, || async {
        let now = token(&edge, uid).await?;
        Ok(Look::when(now != first, || String::from("the old one")))
    })
    .await?;
    node_back(&client, EDGE, PATIENCE).await?;
    delete(testbed, &["deployment", "runs"]).await?;
    pods::until_gone(&client, "app=runs", PATIENCE).await?;
    as_expected(&testbed.plane.audit().since(0)?)
}

/// A pod with a token of its own that does not live long.
fn with_token(name: &str) -> Value {
    let mut container = sleeping();
    container["volumeMounts"] = json!([{ "name": "short", "mountPath": "/short" }]);
    let mut pod = pod(name, EDGE, container);
    let source = json!({ "serviceAccountToken": { "path": "token", "expirationSeconds": TOKEN_LIFE } });
    pod["spec"]["volumes"] = json!([{ "name": "short", "projected": { "sources": [source] } }]);
    pod
}

/// The token as the pod has it.
async fn token(edge: &EdgeMachine, uid: &str) -> Result<String> {
    let path = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~projected/short/token");
    edge.machine.shell(&format!("cat {path}")).await
}

/// There were plain lists, and what the node read and wrote was in its name.
fn as_expected(requests: &[Request]) -> Result<()> {
    let node = format!("system:node:{EDGE}");
    for (verb, what, whom) in [
        ("list", "services/", None),
        ("watch", "services/", None),
        ("list", "configmaps/", Some(&node)),
        ("patch", "pods/status", Some(&node)),
        ("create", "serviceaccounts/token", Some(&node)),
    ] {
        let wanted = |request: &&Request| {
            let object = request.object_ref.clone().unwrap_or_default();
            let as_whom = request.impersonated_user.as_ref().map(|user| &user.username);
            let done = request.response_status.is_some_and(|status| status.code < 300);
            request.by(CLOUDCORE)
                && request.verb == verb
                && [object.resource, object.subresource].join("/") == what
                && as_whom == whom
                && done
        };
        let found = requests.iter().find(wanted);
        ensure!(found.is_some(), "cloudcore did not {verb} {what} as {whom:?}");
    }
    Ok(())
}
