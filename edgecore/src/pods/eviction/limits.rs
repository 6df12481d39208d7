//! Whether a pod holds more on the device's disk than it may.

use k8s_openapi::api::core::v1::{Pod, Volume};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::usage::Usage;
use super::words;
use crate::node::thresholds::Signal;
use crate::pods::resources;
use crate::pods::spec;

/// What has to be measured of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// What the runtime says of its containers: their memory, and what they wrote beside their volumes.
    pub(super) stats: bool,
    /// Its volumes.
    pub(super) volumes: bool,
    /// All that it has on disk.
    pub(super) everything: bool,
}

impl Needs {
    /// Before it can be said whether it keeps its limits.
    pub(super) fn of(pod: &Pod) -> Self {
        Self {
            stats: false,
            volumes: limited_volumes(pod).next().is_some(),
            everything: resources::pod_storage(pod).limit.is_some(),
        }
    }

    /// Before it can be ranked.
    pub(super) fn to_rank(signal: Signal) -> Self {
        Self {
            stats: matches!(signal, Signal::Memory | Signal::Images | Signal::ImageInodes),
            volumes: false,
            everything: matches!(signal, Signal::Disk | Signal::Inodes),
        }
    }

    pub(super) fn any(self) -> bool {
        self.volumes || self.everything
    }
}

/// What is said of the first limit that the pod exceeds, in the kubelet's order.
pub(super) fn exceeded(pod: &Pod, usage: &Usage) -> Option<String> {
    empty_dir(pod, usage)
        .or_else(|| whole_pod(pod, usage))
        .or_else(|| container(pod, usage))
}

fn empty_dir(pod: &Pod, usage: &Usage) -> Option<String> {
    let mut limited = limited_volumes(pod);
    limited.find_map(|(volume, limit)| {
        let used = usage.volumes.get(&volume.name)?;
        if exceeds(used.bytes, limit) {
            return Some(words::empty_dir(&volume.name, &limit.0));
        }
        let volume = || format!("EmptyDir volume {:?}", volume.name);
        used.cut.then(|| words::uncounted(&volume(), &limit.0))
    })
}

fn whole_pod(pod: &Pod, usage: &Usage) -> Option<String> {
    let limit = resources::pod_storage(pod).limit?;
    let used = usage.disk();
    if i128::from(used.bytes) > i128::from(limit) {
        return Some(words::pod_storage(&written(pod, limit)));
    }
    used.cut.then(|| words::uncounted("Pod", &written(pod, limit)))
}

fn container(pod: &Pod, usage: &Usage) -> Option<String> {
    let containers = spec::spec(pod).map(|spec| spec.containers.as_slice());
    containers.unwrap_or_default().iter().find_map(|container| {
        let limit = resources::storage_limit(container)?;
        let used = usage.containers.get(&container.name)?;
        let limited = resources::whole(limit).is_some_and(|limit| limit > 0);
        let used = used.disk();
        if limited && exceeds(used.bytes, limit) {
            return Some(words::container_storage(&container.name, &limit.0));
        }
        let container = || format!("Container {}", container.name);
        (limited && used.cut).then(|| words::uncounted(&container(), &limit.0))
    })
}

/// The emptyDirs on disk that may hold so much and no more. Of one in memory the kernel sees to it.
fn limited_volumes(pod: &Pod) -> impl Iterator<Item = (&Volume, &Quantity)> {
    let volumes = spec::spec(pod).and_then(|spec| spec.volumes.as_deref());
    volumes.unwrap_or_default().iter().filter_map(|volume| {
        let source = volume.empty_dir.as_ref()?;
        let limit = source.size_limit.as_ref()?;
        let on_disk = source.medium.as_deref().unwrap_or_default().is_empty();
        let limited = resources::whole(limit).is_some_and(|limit| limit > 0);
        (on_disk && limited).then_some((volume, limit))
    })
}

fn exceeds(used: u64, limit: &Quantity) -> bool {
    resources::whole(limit).is_some_and(|limit| i128::from(used) > i128::from(limit))
}

/// A sum in the way in which its first part is written: `64Mi`, `64M`.
fn written(pod: &Pod, sum: i64) -> String {
    let first = spec::spec(pod)
        .into_iter()
        .flat_map(|spec| &spec.containers)
        .find_map(resources::storage_limit);
    let decimal = first.is_some_and(|first| !first.0.ends_with('i'));
    let sum = u64::try_from(sum).unwrap_or(0);
    if decimal {
        words::count(sum)
    } else {
        words::bytes(sum)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::super::testing::{candidate, wanting};
    use super::super::usage::{ContainerUsage, Space};
    use super::*;

    fn space(bytes: u64) -> Space {
        Space {
            bytes,
            inodes: 1,
            cut: false,
        }
    }

    /// What is said of a pod of that spec whose container and volume hold so much.
    fn told(spec: &Value, layer: u64, logs: u64, volume: u64) -> String {
        let mut one = candidate("web", spec, 0);
        let container = ContainerUsage {
            layer: space(layer),
            logs: space(logs),
            ..ContainerUsage::default()
        };
        one.usage.containers = BTreeMap::from([("c".to_owned(), container)]);
        one.usage.volumes = BTreeMap::from([("cache".to_owned(), space(volume))]);
        exceeded(&one.desired.pod, &one.usage).unwrap_or_default()
    }

    fn with_cache(source: &Value) -> Value {
        let mut spec = wanting(&json!({}));
        spec["volumes"] = json!([{"name": "cache", "emptyDir": source}]);
        spec
    }

    #[test]
    fn an_empty_dir_may_hold_its_limit_and_no_more() {
        let spec = with_cache(&json!({"sizeLimit": "1Mi"}));
        assert_eq!(told(&spec, 0, 0, 1 << 20), "");
        assert_eq!(
            told(&spec, 0, 0, (1 << 20) + 1),
            "Usage of EmptyDir volume \"cache\" exceeds the limit \"1Mi\". "
        );
    }

    #[test]
    fn an_empty_dir_in_memory_or_without_a_limit_is_not_looked_at() {
        for source in [
            json!({}),
            json!({"sizeLimit": "0"}),
            json!({"medium": "Memory", "sizeLimit": "1Mi"}),
        ] {
            let spec = with_cache(&source);
            assert_eq!(told(&spec, 0, 0, 1 << 30), "", "{source}");
            assert!(!Needs::of(&candidate("web", &spec, 0).desired.pod).any());
        }
    }

    #[test]
    fn what_containers_write_their_logs_and_volumes_count_together_for_the_pod() {
        let spec = wanting(&json!({"limits": {"ephemeral-storage": "3Mi"}}));
        assert_eq!(told(&spec, 1 << 20, 1 << 20, 1 << 20), "");
        assert_eq!(
            told(&spec, 1 << 20, 1 << 20, (1 << 20) + 1),
            "Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. "
        );
    }

    #[test]
    fn who_has_more_than_can_be_counted_is_over_its_limit_and_over_nobody_elses() {
        let pod = |spec: &Value| {
            let mut one = candidate("web", spec, 0);
            one.usage.volumes = BTreeMap::from([("cache".to_owned(), Space::default())]);
            one
        };
        let said = |one: &super::super::rank::Candidate| exceeded(&one.desired.pod, &one.usage);
        let more = "has more files on disk, or deeper ones, than are counted, and counts as over its limit";

        let mut volume = pod(&with_cache(&json!({"sizeLimit": "1Mi"})));
        assert_eq!(said(&volume), None);
        volume.usage.rest.cut = true;
        assert_eq!(said(&volume), None, "that has no limit");
        volume.usage.volumes.get_mut("cache").unwrap().cut = true;
        let expected = format!("EmptyDir volume \"cache\" {more} 1Mi. ");
        assert_eq!(said(&volume), Some(expected));

        let mut whole = pod(&wanting(&json!({"limits": {"ephemeral-storage": "3Mi"}})));
        whole.usage.rest.cut = true;
        assert_eq!(said(&whole), Some(format!("Pod {more} 3Mi. ")));

        let mut spec = wanting(&json!({"limits": {"ephemeral-storage": "3Mi"}}));
        spec["containers"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": "d"}));
        let mut one = pod(&spec);
        one.usage.containers.get_mut("c").unwrap().logs.cut = true;
        assert_eq!(
            container(&one.desired.pod, &one.usage),
            Some(format!("Container c {more} 3Mi. "))
        );
    }

    #[test]
    fn a_container_may_not_use_what_its_neighbour_may() {
        let mut spec = wanting(&json!({"limits": {"ephemeral-storage": "1M"}}));
        let other = json!({"name": "d", "resources": {"limits": {"ephemeral-storage": "9M"}}});
        spec["containers"].as_array_mut().unwrap().push(other);
        assert_eq!(told(&spec, 500_000, 500_000, 0), "");
        assert_eq!(
            told(&spec, 500_000, 500_001, 0),
            "Container c exceeded its local ephemeral storage limit \"1M\". "
        );
        assert_eq!(
            told(&spec, 500_000, 0, 10_000_000),
            "Pod ephemeral local storage usage exceeds the total limit of containers 10M. "
        );
    }

    #[test]
    fn only_what_a_limit_needs_is_measured() {
        let needs = |spec: &Value| Needs::of(&candidate("web", spec, 0).desired.pod);
        assert!(!needs(&wanting(&json!({"limits": {"memory": "1Mi"}}))).any());
        let volumes = needs(&with_cache(&json!({"sizeLimit": "1Mi"})));
        assert!(volumes.volumes && !volumes.everything);
        assert!(needs(&wanting(&json!({"limits": {"ephemeral-storage": "1Mi"}}))).everything);
    }
}
