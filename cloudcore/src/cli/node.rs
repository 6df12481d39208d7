//! `cloudcore node`: the devices that are enrolled.

use std::collections::HashMap;
use std::io::{Write, stdout};

use anyhow::bail;
use clap::Subcommand;
use protocol::clock::Clock;
use protocol::name::NodeName;
use serde_json::Value;

use super::bans;
use super::table::{between, table};
use crate::cluster::{Actor, Api, ApiError, Call, labels};
use crate::enroll::{Authority, EnrolledNode};

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
async fn readiness(api: &Api) -> Result<HashMap<String, String>, ApiError> {
    let selector = labels::OURS.replace('/', "%2F");
    let list: Value = api
        .call_as(
            Actor::Cloudcore,
            Call::get(format!("/api/v1/nodes?labelSelector={selector}")),
        )
        .await?;
    let nodes = list["items"].as_array().into_iter().flatten();
    Ok(nodes
        .filter_map(|node| Some((node["metadata"]["name"].as_str()?.to_owned(), ready_of(node))))
        .collect())
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
    let lease = delete(
        api,
        format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}"),
    )
    .await?;
    for (what, gone) in [("key", key), ("Node", node), ("Lease", lease)] {
        eprintln!("{what}: {}", if gone { "removed" } else { "there was none" });
    }
    if !(key || node || lease) {
        bail!("there is no edge node {name}: see cloudcore node list");
    }
    Ok(())
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
