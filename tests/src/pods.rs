//! Looking at pods through the API server.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use anyhow::Result;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::{Api, Client, api::ListParams};

use crate::wait::{Look, until};

/// The pods of a namespace that match a label selector.
pub async fn list(client: &Client, namespace: &str, selector: &str) -> Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    Ok(pods.list(&ListParams::default().labels(selector)).await?.items)
}

/// Waits until there are exactly `count` such pods, all of them Ready with an address.
pub async fn until_ready(client: &Client, selector: &str, count: usize, limit: Duration) -> Result<Vec<Pod>> {
    until(
        &format!("{count} pods {selector} Running and Ready"),
        limit,
        || async {
            let pods = list(client, "default", selector).await?;
            let ready =
                pods.len() == count && pods.iter().all(|pod| is_ready(pod) && !address(pod).is_empty());
            Ok(if ready {
                Look::Done(pods)
            } else {
                Look::NotYet(table(&pods))
            })
        },
    )
    .await
}

/// Waits until no such pod is left.
pub async fn until_gone(client: &Client, selector: &str, limit: Duration) -> Result<()> {
    until(&format!("no pod {selector}"), limit, || async {
        let pods = list(client, "default", selector).await?;
        Ok(Look::when(pods.is_empty(), || table(&pods)))
    })
    .await
}

/// Whether a pod is Ready and not going away.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let ready = conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// The pod's name.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or("")
}

/// The pod's address; empty while it has none.
pub fn address(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.pod_ip.as_deref())
        .unwrap_or("")
}

/// The pod's phase.
pub fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("")
}

/// The statuses of a pod's containers.
pub fn containers(pod: &Pod) -> &[ContainerStatus] {
    pod.status
        .as_ref()
        .and_then(|status| status.container_statuses.as_deref())
        .unwrap_or_default()
}

/// What must not change when a healthy pod is left alone: UIDs, container ids, restarts.
pub fn identity(pods: &[Pod]) -> BTreeMap<String, Vec<(String, i32)>> {
    let one = |pod: &Pod| {
        let of = |c: &ContainerStatus| (c.container_id.clone().unwrap_or_default(), c.restart_count);
        (
            pod.metadata.uid.clone().unwrap_or_default(),
            containers(pod).iter().map(of).collect(),
        )
    };
    pods.iter().map(one).collect()
}

/// A line for each pod: what a person would look at first.
pub fn table(pods: &[Pod]) -> String {
    let mut table = String::new();
    for pod in pods {
        let node = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.as_deref())
            .unwrap_or("no node");
        let going = if pod.metadata.deletion_timestamp.is_some() {
            ", going away"
        } else {
            ""
        };
        let _ = write!(
            table,
            "    {}: {} on {node}, {}{going}",
            name(pod),
            phase(pod),
            address(pod)
        );
        for container in containers(pod) {
            let _ = write!(table, "; {} {}", container.name, state(container));
        }
        table.push('\n');
    }
    if table.is_empty() {
        String::from("    no pods")
    } else {
        table
    }
}

fn state(container: &ContainerStatus) -> String {
    let state = container.state.clone().unwrap_or_default();
    if let Some(waiting) = state.waiting {
        return format!(
            "waiting: {} {}",
            waiting.reason.unwrap_or_default(),
            waiting.message.unwrap_or_default()
        );
    }
    if let Some(ended) = state.terminated {
        return format!("ended {}: {}", ended.exit_code, ended.reason.unwrap_or_default());
    }
    format!(
        "running, ready {}, restarts {}",
        container.ready, container.restart_count
    )
}
