//! What is said of an eviction, in the kubelet's words: scripts match on them.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::usage::{ContainerUsage, Usage};
use crate::node::quantity;
use crate::node::shortage::Shortage;
use crate::node::thresholds::Signal;
use crate::pods::spec;

/// The resource that a signal is about.
pub(super) const fn resource(signal: Signal) -> &'static str {
    match signal {
        Signal::Memory => "memory",
        Signal::Disk | Signal::Images => "ephemeral-storage",
        Signal::Inodes | Signal::ImageInodes => "inodes",
        Signal::Pids => "pids",
    }
}

/// Of a pod that goes because the node is short of something.
pub(super) fn shortage(pod: &Pod, usage: &Usage, shortage: &Shortage) -> String {
    let resource = resource(shortage.signal);
    let (threshold, available) = match shortage.signal {
        // A part of a capacity is written as bytes are, whatever it is a part of.
        Signal::Memory | Signal::Disk | Signal::Images => {
            (bytes(shortage.threshold), bytes(shortage.available))
        }
        Signal::Inodes | Signal::ImageInodes | Signal::Pids => {
            (bytes(shortage.threshold), count(shortage.available))
        }
    };
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {threshold}, available: {available}. "
    );
    if let (Signal::Memory, Some(request)) = (shortage.signal, of_whole_pod(pod)) {
        let (name, used) = (spec::name(pod), bytes(usage.memory));
        let _ = write!(
            text,
            "Pod {name} was using {used}, request is {request}, has larger consumption of {resource}. "
        );
    }
    let main = spec::spec(pod).map(|spec| spec.containers.as_slice());
    let init = spec::spec(pod).and_then(|spec| spec.init_containers.as_deref());
    let containers = main.into_iter().chain(init).flatten();
    for container in containers {
        let Some(used) = usage.containers.get(&container.name) else {
            continue;
        };
        if let Some((used, request)) = exceeding(container, used, shortage.signal) {
            let name = &container.name;
            let _ = write!(
                text,
                "Container {name} was using {used}, request is {request}, has larger consumption of {resource}. "
            );
        }
    }
    text
}

/// The memory that the pod itself requested, besides its containers.
fn of_whole_pod(pod: &Pod) -> Option<&str> {
    let requests = spec::spec(pod)?.resources.as_ref()?.requests.as_ref()?;
    requests.get("memory").map(|request| request.0.as_str())
}

/// What a container uses and what it requested, when that is less.
fn exceeding(container: &Container, used: &ContainerUsage, signal: Signal) -> Option<(String, String)> {
    let used = match signal {
        Signal::Memory => used.memory,
        Signal::Disk | Signal::Images => (used.disk() + used.layer_apart).bytes,
        Signal::Inodes | Signal::ImageInodes | Signal::Pids => return None,
    };
    let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    let request = requests.and_then(|requests| requests.get(resource(signal)));
    let requested = request.and_then(crate::pods::resources::whole).unwrap_or(0);
    let exceeds = i128::from(used) > i128::from(requested);
    exceeds.then(|| {
        (
            bytes(used),
            request.map_or_else(|| "0".to_owned(), |q| q.0.clone()),
        )
    })
}

/// Of an emptyDir that holds more than it may.
pub(super) fn empty_dir(volume: &str, limit: &str) -> String {
    format!("Usage of EmptyDir volume {volume:?} exceeds the limit {limit:?}. ")
}

/// Of a pod that holds more on disk than its containers may in all.
pub(super) fn pod_storage(limit: &str) -> String {
    format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ")
}

/// Of a container that holds more on disk than it may.
pub(super) fn container_storage(container: &str, limit: &str) -> String {
    format!("Container {container} exceeded its local ephemeral storage limit {limit:?}. ")
}

/// Of one that has a limit and more files than are counted.
pub(super) fn uncounted(who: &str, limit: &str) -> String {
    format!(
        "{who} has more files on disk, or deeper ones, than are counted, and counts as over its limit {limit}. "
    )
}

/// Of a pod that came to a node under pressure.
pub(in crate::pods) fn conditions(held: &[&str]) -> String {
    format!("The node had condition: [{}]. ", held.join(" "))
}

/// Of the node, before it does something about it.
pub(super) fn reclaiming(signal: Signal) -> String {
    format!("Attempting to reclaim {}", resource(signal))
}

pub(super) fn bytes(amount: u64) -> String {
    quantity::bytes(amount).0
}

/// A plain count as Kubernetes writes it: the largest suffix that leaves a whole number.
pub(super) fn count(amount: u64) -> String {
    const SUFFIXES: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    let (mut left, mut steps) = (amount, 0);
    while left != 0 && left.is_multiple_of(1000) {
        left /= 1000;
        steps += 1;
    }
    format!("{left}{}", SUFFIXES[steps])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{candidate, wanting};
    use super::super::usage::Space;
    use super::*;
    use crate::node::shortage::Kind;

    const MEMORY: Shortage = Shortage {
        signal: Signal::Memory,
        kind: Kind::Hard,
        threshold: 100 << 20,
        available: 54_321 << 10,
    };

    #[test]
    fn a_shortage_names_what_is_short_and_who_exceeds_its_request() {
        let mut spec = wanting(&json!({"requests": {"memory": "64Mi"}}));
        spec["initContainers"] = json!([{"name": "side", "restartPolicy": "Always"}, {"name": "done"}]);
        let mut greedy = candidate("greedy", &spec, 65 << 20);
        let side = ContainerUsage {
            memory: 1000,
            ..ContainerUsage::default()
        };
        greedy.usage.containers.insert("side".to_owned(), side);
        assert_eq!(
            shortage(&greedy.desired.pod, &greedy.usage, &MEMORY),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 54321Ki. \
             Container c was using 65Mi, request is 64Mi, has larger consumption of memory. \
             Container side was using 1000, request is 0, has larger consumption of memory. "
        );
    }

    #[test]
    fn a_pod_that_requested_memory_itself_is_named_before_its_containers() {
        let mut spec = wanting(&json!({}));
        spec["resources"] = json!({"requests": {"memory": "1Gi"}});
        let pod = candidate("web", &spec, 5 << 20);
        assert_eq!(
            shortage(&pod.desired.pod, &pod.usage, &MEMORY),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 54321Ki. \
             Pod web was using 5Mi, request is 1Gi, has larger consumption of memory. \
             Container c was using 5Mi, request is 0, has larger consumption of memory. "
        );
    }

    #[test]
    fn of_inodes_no_container_is_blamed() {
        let pod = candidate("web", &wanting(&json!({})), 5);
        let inodes = Shortage {
            signal: Signal::Inodes,
            kind: Kind::Hard,
            threshold: 5120,
            available: 4000,
        };
        assert_eq!(
            shortage(&pod.desired.pod, &pod.usage, &inodes),
            "The node was low on resource: inodes. Threshold quantity: 5Ki, available: 4k. "
        );
        let pids = Shortage {
            signal: Signal::Pids,
            ..inodes
        };
        assert_eq!(
            shortage(&pod.desired.pod, &pod.usage, &pids),
            "The node was low on resource: pids. Threshold quantity: 5Ki, available: 4k. "
        );
    }

    #[test]
    fn of_images_all_is_named_that_a_container_wrote_itself() {
        let mut pod = candidate("web", &wanting(&json!({})), 0);
        let container = pod.usage.containers.get_mut("c").unwrap();
        container.logs = Space {
            bytes: 1 << 20,
            inodes: 1,
            cut: false,
        };
        container.layer_apart = Space {
            bytes: 4 << 20,
            inodes: 1,
            cut: false,
        };
        let images = Shortage {
            signal: Signal::Images,
            ..MEMORY
        };
        assert_eq!(
            shortage(&pod.desired.pod, &pod.usage, &images),
            "The node was low on resource: ephemeral-storage. Threshold quantity: 100Mi, available: 54321Ki. \
             Container c was using 5Mi, request is 0, has larger consumption of ephemeral-storage. "
        );
    }

    #[test]
    fn counts_are_written_as_kubernetes_writes_them() {
        for (amount, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1k"),
            (1500, "1500"),
            (2_000_000, "2M"),
        ] {
            assert_eq!(count(amount), text);
        }
    }
}
