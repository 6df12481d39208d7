//! What a node and its objects cost the API server, counted in its own audit log.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::{
    Testbed,
    audit::{Audit, Request},
    control_plane::Patience,
    pods,
    wait::{Look, until},
};

use crate::world::{EDGE, PATIENCE, World, apart, apply, delete, joined, sleepers};

crate::tests![
    an_idle_node_costs_lease_renewals_alone,
    delivering_pods_costs_no_write_but_the_patch_for_autonomy
];

/// How long writes are counted.
const SPAN: Duration = Duration::from_mins(5);

/// A node that wrote nothing for so long is idle.
const QUIET: Duration = Duration::from_secs(5);

fn resource(request: &Request) -> &str {
    request
        .object_ref
        .as_ref()
        .map_or("", |object| object.resource.as_str())
}

fn name(request: &Request) -> &str {
    request
        .object_ref
        .as_ref()
        .map_or("", |object| object.name.as_str())
}

fn summary(requests: &[Request]) -> String {
    requests
        .iter()
        .map(Request::summary)
        .collect::<Vec<_>>()
        .join("\n  ")
}

/// Lease renewals, and all other writes of cloudcore's in the span that begins now.
async fn count(audit: &Audit, span: Duration) -> Result<(Vec<Request>, Vec<Request>)> {
    let mark = audit.mark();
    tokio::time::sleep(span).await;
    let writes = audit.cloudcore_writes(mark)?;
    Ok(writes.into_iter().partition(|write| resource(write) == "leases"))
}

/// On a testbed of its own: whatever else is done to a cluster would be counted.
async fn an_idle_node_costs_lease_renewals_alone(_: &World) -> Result<()> {
    apart(Testbed::start(Patience::Default).await?, idles).await
}

async fn idles(testbed: &Testbed) -> Result<()> {
    let _edge = joined(testbed, &[]).await?;
    let audit = testbed.plane.audit();
    // A node that has just joined is still being reported.
    until("the node to be idle", PATIENCE, || async {
        let (_, others) = count(&audit, QUIET).await?;
        Ok(Look::when(others.is_empty(), || summary(&others)))
    })
    .await?;
    let (leases, others) = count(&audit, SPAN).await?;
    ensure!(
        others.is_empty(),
        "besides leases cloudcore wrote:\n  {}",
        summary(&others)
    );
    let most = usize::try_from(SPAN.as_secs() / 10)? + 1;
    ensure!(
        leases.len() <= most && leases.iter().all(|lease| name(lease) == EDGE),
        "{} lease writes in {SPAN:?}:\n  {}",
        leases.len(),
        summary(&leases)
    );
    Ok(())
}

async fn delivering_pods_costs_no_write_but_the_patch_for_autonomy(_: &World) -> Result<()> {
    apart(Testbed::start(Patience::Default).await?, delivers).await
}

async fn delivers(testbed: &Testbed) -> Result<()> {
    let _edge = joined(testbed, &[]).await?;
    let name = "sleepers";
    let audit = testbed.plane.audit();
    let mark = audit.mark();
    apply(testbed, &sleepers(name, EDGE, 5)).await?;
    pods::until_ready(&testbed.client(), &format!("app={name}"), 5, PATIENCE).await?;
    let writes = until("one autonomy patch a pod", PATIENCE, || async {
        let writes = audit.cloudcore_writes(mark)?;
        let patched = writes.iter().filter(|write| is_for_autonomy(write)).count();
        Ok(if patched == 5 {
            Look::Done(writes)
        } else {
            Look::NotYet(summary(&writes))
        })
    })
    .await?;
    let strange = writes
        .into_iter()
        .filter(|write| !is_said_by_the_node(write))
        .collect::<Vec<_>>();
    ensure!(
        strange.is_empty(),
        "more than autonomy, status, events, leases:\n  {}",
        summary(&strange)
    );
    delete(testbed, &["deployment", name]).await
}

/// Whether cloudcore wrote the pod itself, and not its status in the node's name.
fn is_for_autonomy(write: &Request) -> bool {
    let object = write.object_ref.clone().unwrap_or_default();
    write.impersonated_user.is_none() && object.resource == "pods" && object.subresource.is_empty()
}

/// What is no delivery: reports of the node, its lease, the patch for autonomy, its tokens.
fn is_said_by_the_node(write: &Request) -> bool {
    let object = write.object_ref.clone().unwrap_or_default();
    match object.resource.as_str() {
        "pods" => object.subresource == "status" || (object.subresource.is_empty() && write.verb == "patch"),
        "events" | "leases" => true,
        "serviceaccounts" => object.subresource == "token",
        _ => false,
    }
}
