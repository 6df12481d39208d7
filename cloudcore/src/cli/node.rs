//! `cloudcore node`: the devices that are enrolled.

use std::collections::HashMap;
use std::io::{Write, stdout};

use anyhow::{Context, bail};
use clap::Subcommand;
use protocol::clock::Clock;
use protocol::name::NodeName;
use serde_json::Value;

use super::bans;
use super::table::{between, table};
use crate::cluster::{Actor, Api, ApiError, Call, fence, labels};
use crate::enroll::{Authority, EnrolledNode};

/// Nodes a request: one shows tens of kilobytes of images and conditions.
const PAGE: u32 = 500;

#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// List the enrolled devices
    List,
    /// End a device's session and tunnels at once, and refuse its key under any name until `unban`
    Ban {
        /// Name of the node
        name: NodeName,
    },
    /// List the keys that are banned, those of removed nodes too
    Bans,
    /// End a ban. A node that was removed meanwhile must also join again
    Unban {
        /// Name that the node had when it was banned, or its key or the beginning of that (`node bans` has both)
        #[arg(value_name = "NAME|KEY")]
        what: String,
    },
    /// Forget a device: its key, its Node and its Lease. Its pods go with the Node
    Remove {
        /// Name of the node
        name: NodeName,
    },
}

pub(super) async fn main(
    command: NodeCommand,
    authority: &Authority,
    api: &Api,
    clock: &Clock,
) -> anyhow::Result<()> {
    match command {
        NodeCommand::List => list(authority, api, clock).await,
        NodeCommand::Ban { name } => bans::ban(&name, authority).await,
        NodeCommand::Bans => bans::list(authority, clock).await,
        NodeCommand::Unban { what } => bans::unban(&what, authority).await,
        NodeCommand::Remove { name } => remove(&name, authority, api).await,
    }
}

async fn list(authority: &Authority, api: &Api, clock: &Clock) -> anyhow::Result<()> {
    let mut devices = authority.enrolled().await?;
    devices.sort_by(|one, other| one.node.cmp(&other.node));
    let ready = readiness(api).await?;
    let rows: Vec<_> = devices.iter().map(|device| row(device, &ready, clock)).collect();
    write!(
        stdout(),
        "{}",
        table(["NAME", "STATUS", "ENROLLED", "KEY"], &rows)
    )?;
    Ok(())
}

fn row(device: &EnrolledNode, ready: &HashMap<String, String>, clock: &Clock) -> [String; 4] {
    let status = match ready.get(device.node.as_str()) {
        _ if device.banned => "Banned",
        Some(status) if status == "True" => "Ready",
        Some(_) => "NotReady",
        None => "NotRegistered",
    };
    [
        device.node.to_string(),
        status.into(),
        format!("{} ago", between(device.since, clock.now())),
        bans::short(&device.key),
    ]
}

/// The Ready condition of each edge node.
async fn readiness(api: &Api) -> anyhow::Result<HashMap<String, String>> {
    let selector = labels::OURS.replace('/', "%2F");
    let (mut ready, mut next) = (HashMap::new(), String::new());
    loop {
        let path = format!("/api/v1/nodes?labelSelector={selector}&limit={PAGE}&continue={next}");
        let page = api.call_as::<Value>(Actor::Cloudcore, Call::get(path)).await;
        let page = page.with_context(|| unread(ready.len()))?;
        let nodes = page["items"].as_array().into_iter().flatten();
        ready.extend(
            nodes.filter_map(|node| Some((node["metadata"]["name"].as_str()?.to_owned(), ready_of(node)))),
        );
        match page["metadata"]["continue"].as_str() {
            Some(more) if !more.is_empty() => more.clone_into(&mut next),
            _ => return Ok(ready),
        }
    }
}

/// What is said when a page fails, and so many Nodes were read before.
fn unread(read: usize) -> String {
    match read {
        0 => "the Nodes cannot be read".to_owned(),
        read => format!("only the first {read} Nodes could be read, so none is shown: try again"),
    }
}

fn ready_of(node: &Value) -> String {
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions
        .into_iter()
        .find(|condition| condition["type"] == "Ready");
    ready
        .and_then(|condition| condition["status"].as_str())
        .unwrap_or("Unknown")
        .to_owned()
}

/// The key first: while a name is enrolled, its Node is made again whenever it is deleted.
async fn remove(name: &NodeName, authority: &Authority, api: &Api) -> anyhow::Result<()> {
    if is_foreign(name, api).await? {
        bail!("node {name} is not an edge node: use kubectl delete node");
    }
    let key = authority.forget(name).await?;
    let node = delete(api, format!("/api/v1/nodes/{name}")).await?;
    let lease = delete_lease(api, name).await?;
    let told = |gone| if gone { "removed" } else { "there was none" };
    eprintln!("key: {}\nNode: {}", told(key), told(node));
    let left = "left, for it is not that of an edge (it names no session)";
    eprintln!("Lease: {}", lease.map_or(left, told));
    if !(key || node || lease == Some(true)) {
        bail!("there is no edge node {name}: see cloudcore node list");
    }
    Ok(())
}

/// Deletes the Lease of an edge; the chart's admission policy lets cloudcore delete no other. A kubelet may have made
/// one of that name and not yet its Node.
///
/// Whether there was one; nothing, where it was left.
async fn delete_lease(api: &Api, name: &NodeName) -> Result<Option<bool>, ApiError> {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}");
    let read = api
        .call_as::<Value>(Actor::Cloudcore, Call::get(path.clone()))
        .await;
    match read {
        Ok(lease) if fence::holder(&lease).is_some() => delete(api, path).await.map(Some),
        Ok(_) => Ok(None),
        Err(error) if error.is_not_found() => Ok(Some(false)),
        Err(error) => Err(error),
    }
}

async fn is_foreign(name: &NodeName, api: &Api) -> Result<bool, ApiError> {
    match api
        .call_as::<Value>(Actor::Cloudcore, Call::get(format!("/api/v1/nodes/{name}")))
        .await
    {
        Ok(node) => Ok(!labels::is_ours(&node)),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes an object; false where there was none.
async fn delete(api: &Api, path: String) -> Result<bool, ApiError> {
    match api.call(Actor::Cloudcore, Call::delete(path, Vec::new())).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{Method, StatusCode};
    use parking_lot::Mutex;
    use serde_json::json;

    use super::*;
    use crate::cluster::Impersonation;
    use crate::cluster::testing::client;

    /// Two Nodes, one a page; the second page is answered with this.
    async fn read(second: (StatusCode, Value)) -> anyhow::Result<HashMap<String, String>> {
        let api = client(move |asked| match asked.head.uri.query().unwrap() {
            "labelSelector=node-restriction.kubernetes.io%2Ftombolo&limit=500&continue=" => {
                let items = [node("e1", "True")];
                (
                    StatusCode::OK,
                    json!({ "metadata": { "continue": "more" }, "items": items }),
                )
            }
            "labelSelector=node-restriction.kubernetes.io%2Ftombolo&limit=500&continue=more" => {
                second.clone()
            }
            other => panic!("{other}"),
        });
        readiness(&Api::new(api, Impersonation::Classic)).await
    }

    fn node(name: &str, ready: &str) -> Value {
        json!({ "metadata": { "name": name }, "status": { "conditions": [{ "type": "Ready", "status": ready }] } })
    }

    #[tokio::test]
    async fn the_lease_of_an_edge_is_deleted_and_a_kubelets_is_not() {
        let session = json!({ "annotations": { "tombolo.dev/session": "one" } });
        for (metadata, is_edge) in [(session, true), (json!({}), false)] {
            let deleted = Arc::new(Mutex::new(false));
            let seen = Arc::clone(&deleted);
            let api = client(move |asked| {
                *seen.lock() |= asked.head.method == Method::DELETE;
                (StatusCode::OK, json!({ "metadata": metadata, "spec": {} }))
            });
            let api = Api::new(api, Impersonation::Classic);
            let gone = delete_lease(&api, &"e1".parse().unwrap()).await.unwrap();
            assert_eq!((gone, *deleted.lock()), (is_edge.then_some(true), is_edge));
        }
    }

    #[tokio::test]
    async fn the_nodes_are_read_page_by_page() {
        let second = json!({ "metadata": { "continue": "" }, "items": [node("e2", "False")] });
        let ready = read((StatusCode::OK, second)).await.unwrap();
        assert_eq!(ready.len(), 2);
        assert_eq!((&*ready["e1"], &*ready["e2"]), ("True", "False"));
    }

    #[tokio::test]
    async fn a_page_that_fails_is_told_of_and_no_device_is_shown_as_not_registered_for_it() {
        let message = "The provided continue parameter is too old";
        let refused = json!({ "code": 410, "reason": "Expired", "message": message });
        let told = format!("{:#}", read((StatusCode::GONE, refused)).await.unwrap_err());
        assert!(
            told.starts_with("only the first 1 Nodes could be read") && told.contains("try again"),
            "{told}"
        );
        assert!(told.contains(message), "{told}");
    }
}
