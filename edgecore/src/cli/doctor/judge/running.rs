//! What the running daemon says: link, conditions, pods, devices. Pure.

use super::super::Finding;
use crate::cli::status::{Condition, DeviceLine, Link, PodLine, Status};

/// More than this are not named.
const NAMED: usize = 3;
/// States of pods that are as they should be.
const WELL: [&str; 4] = ["Running", "Succeeded", "Completed", "Terminating"];

/// What of the daemon's own words is worth a line.
pub(super) fn status(status: &Status) -> Vec<Finding> {
    let mut found = vec![link(&status.link), api(status)];
    found.extend(status.conditions.iter().filter_map(condition));
    found.extend([pods(status), devices(status)].into_iter().flatten());
    if !status.outbox.refused.is_empty() {
        let first = status.outbox.refused.first().map_or("", String::as_str);
        found.push(Finding::warning(
            "reports",
            format!("the cluster refuses {}: {first}", status.outbox.refused.len()),
            "what it names says why; kubectl auth and admission webhooks of the cluster decide it",
        ));
    }
    found
}

/// Taints of the configuration that the Node does not have, or the other way round: they count at the registration
/// only, and an edit has no effect.
pub(super) fn taints(configured: &[String], status: &Status) -> Option<Finding> {
    let on_node = status.taints.as_ref().filter(|on_node| *on_node != configured)?;
    let list = |taints: &[String]| format!("[{}]", taints.join(", "));
    Some(Finding::warning(
        "taints",
        format!(
            "edgecore.yaml has {}, and the Node has {}: they count at the registration only",
            list(configured),
            list(on_node)
        ),
        "kubectl taint node changes the Node's; then write the same into edgecore.yaml",
    ))
}

fn link(link: &Link) -> Finding {
    const CHECK: &str = "link";
    match link.state.as_str() {
        "connected" => Finding::ok(
            CHECK,
            format!("stands to {} over {}", link.address, link.transport),
        ),
        "connecting" => Finding::warning(CHECK, "is being made", "look again in half a minute"),
        _ => Finding::failed(
            CHECK,
            format!("is down: {}", link.last_error),
            "mend what the lines of cloudcore, clock and certificate say; the words are explained in \
             docs/troubleshooting.md",
        ),
    }
}

fn api(status: &Status) -> Finding {
    match status.cluster.api_reachable {
        Some(false) => Finding::warning(
            "API server",
            "cloudcore does not reach it: nothing changes until it does",
            "in the cluster: kubectl -n tombolo-system logs deploy/cloudcore",
        ),
        Some(true) => Finding::ok("API server", "cloudcore reaches it"),
        // Without a link nobody knows, and the link's line says so.
        None => Finding::unknown(
            "API server",
            "not known without a link",
            "see the line of the link",
        ),
    }
}

/// A pressure that holds, or a node that is not ready.
fn condition(condition: &Condition) -> Option<Finding> {
    let Condition {
        kind,
        status,
        message,
        ..
    } = condition;
    let is_ready = kind == "Ready";
    let holds = status == "True";
    let check = format!("node {kind}");
    match (is_ready, holds) {
        (true, true) => Some(Finding::ok(&check, "the node is Ready")),
        (true, false) => Some(Finding::failed(
            &check,
            message,
            "see the lines of the runtime and of the pod network",
        )),
        (false, true) => Some(Finding::failed(&check, message, pressure(kind))),
        (false, false) => None,
    }
}

fn pressure(kind: &str) -> &'static str {
    match kind {
        "DiskPressure" => "free some of the disk: see its line; the condition holds for 5 minutes more",
        "MemoryPressure" => {
            "give pods memory limits, or fewer of them; the condition holds for 5 minutes more"
        }
        "PIDPressure" => "find what forks: ps -eLf | wc -l; the condition holds for 5 minutes more",
        _ => "kubectl describe node",
    }
}

fn pods(status: &Status) -> Option<Finding> {
    let pods = &status.pods;
    let ill = |pod: &&PodLine| {
        let ready = pod.ready >= pod.containers || pod.state != "Running";
        !(WELL.contains(&pod.state.as_str()) && ready)
    };
    let ill: Vec<_> = pods.iter().filter(ill).collect();
    if pods.is_empty() {
        return None;
    }
    if ill.is_empty() {
        return Some(Finding::ok(
            "pods",
            format!("{} are as they should be", pods.len()),
        ));
    }
    let name = |pod: &&PodLine| format!("{}/{} {}", pod.namespace, pod.name, pod.state);
    Some(Finding::warning(
        "pods",
        format!("{} of {} are not: {}", ill.len(), pods.len(), some(&ill, name)),
        "kubectl describe pod has the reason; logs are in /var/log/pods",
    ))
}

fn devices(status: &Status) -> Option<Finding> {
    let devices = &status.devices;
    if devices.is_empty() {
        return None;
    }
    let ill: Vec<_> = devices
        .iter()
        .filter(|device| device.state == "offline")
        .collect();
    if ill.is_empty() {
        return Some(Finding::ok(
            "devices",
            format!("none of {} is offline", devices.len()),
        ));
    }
    let name = |device: &&DeviceLine| format!("{}/{}", device.namespace, device.name);
    Some(Finding::warning(
        "devices",
        format!(
            "{} of {} are offline: {}",
            ill.len(),
            devices.len(),
            some(&ill, name)
        ),
        "edgecore get devices, and kubectl describe device; what a driver meets is in journalctl -u edgecore",
    ))
}

/// The first few by name.
fn some<T>(all: &[T], name: impl Fn(&T) -> String) -> String {
    let mut names: Vec<String> = all.iter().take(NAMED).map(name).collect();
    if all.len() > NAMED {
        names.push(format!("and {} more", all.len() - NAMED));
    }
    names.join(", ")
}
