//! What sets a pod's sizes, in which order.

use std::collections::BTreeSet;

use k8s_cri::v1::LinuxContainerResources;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::{Size, Sizes, resize};
use crate::pods::lifecycle;
use crate::pods::observed::{ContainerObserved, PodObserved, Run};
use crate::pods::resources::{self, PodLimits};

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The limits of the pod's own cgroup.
    Pod(PodLimits),
    /// Those of a container that runs.
    Container {
        /// Its name.
        name: String,
        /// The runtime's id.
        id: String,
        /// What it gets.
        size: Size,
    },
}

/// The containers that run, with what they are to have and what they have. One of which nothing is known has what
/// it is to have.
fn running<'a>(
    pod: &'a Pod,
    observed: &'a PodObserved,
    set: &'a Sizes,
) -> impl Iterator<Item = (&'a Container, &'a ContainerObserved, Size)> {
    lifecycle::lasting(pod).filter_map(|container| {
        let seen = observed.latest(&container.name)?;
        let has = set.get(&seen.id).copied().unwrap_or_else(|| Size::of(container));
        (seen.run == Run::Running).then_some((container, seen, has))
    })
}

/// Containers that run, by id, whose new size their policy lets them have only when they start anew.
pub fn outgrown(pod: &Pod, observed: &PodObserved, set: &Sizes) -> BTreeSet<String> {
    let must = |container: &Container, has: Size| {
        let wanted = Size::of(container);
        let cpu = wanted.requests.cpu_milli != has.requests.cpu_milli
            || wanted.limits.cpu_milli != has.limits.cpu_milli;
        let memory =
            wanted.requests.memory != has.requests.memory || wanted.limits.memory != has.limits.memory;
        let mut policies = container.resize_policy.iter().flatten();
        policies.any(|policy| {
            let changes = match policy.resource_name.as_str() {
                "cpu" => cpu,
                "memory" => memory,
                _ => false,
            };
            changes && policy.restart_policy == "RestartContainer"
        })
    };
    running(pod, observed, set)
        .filter(|(container, _, has)| must(container, *has))
        .map(|(_, seen, _)| seen.id.clone())
        .collect()
}

/// What is to be written: nothing when all is set and no resize is `under_way`. Containers that shrink come before
/// those that grow, the pod grows before all of them and shrinks after them.
pub fn steps(pod: &Pod, observed: &PodObserved, set: &Sizes, under_way: bool) -> Vec<Step> {
    let mut changes: Vec<_> = running(pod, observed, set)
        .filter(|(container, _, has)| Size::of(container) != *has)
        .collect();
    if changes.is_empty() && !under_way {
        return Vec::new();
    }
    let grows = |(container, _, has): &(&Container, &ContainerObserved, Size)| {
        let limits = Size::of(container).limits;
        limits.memory > has.limits.memory || limits.cpu_milli > has.limits.cpu_milli
    };
    changes.sort_by_key(grows);
    let (now, then) = (as_set(pod, observed, set), resources::pod_limits(pod));
    let widest = now.widest(then);
    let mut steps = Vec::new();
    if widest != now {
        steps.push(Step::Pod(widest));
    }
    steps.extend(changes.into_iter().map(|(container, seen, _)| Step::Container {
        name: container.name.clone(),
        id: seen.id.clone(),
        size: Size::of(container),
    }));
    // What was written before a crash is not known: a resize that is under way writes it once in any case.
    if then != widest || (under_way && widest == now) {
        steps.push(Step::Pod(then));
    }
    steps
}

/// The limits of the pod's own cgroup that go with what its containers have.
fn as_set(pod: &Pod, observed: &PodObserved, set: &Sizes) -> PodLimits {
    let mut pod = pod.clone();
    resize(&mut pod, |container| {
        set.get(&observed.latest(&container.name)?.id).copied()
    });
    resources::pod_limits(&pod)
}

/// A memory limit that comes or becomes lower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tighter {
    /// The container's name and id; of the pod's own cgroup nothing.
    container: Option<(String, String)>,
    limit: i64,
}

/// The memory limits that `steps` make lower.
pub fn tighter(pod: &Pod, observed: &PodObserved, set: &Sizes, steps: &[Step]) -> Vec<Tighter> {
    let lower = |before: Option<i64>, after: Option<i64>| {
        let said = |limit: Option<i64>| limit.filter(|limit| *limit > 0);
        said(after).filter(|after| said(before).is_none_or(|before| *after < before))
    };
    let (before, after) = (as_set(pod, observed, set), resources::pod_limits(pod));
    let of_pod = lower(before.memory, after.memory).map(|limit| Tighter {
        container: None,
        limit,
    });
    let of_containers = steps.iter().filter_map(|step| match step {
        Step::Pod(_) => None,
        Step::Container { name, id, size } => {
            let before = set.get(id).and_then(|size| size.limits.memory);
            Some(Tighter {
                container: Some((name.clone(), id.clone())),
                limit: lower(before, size.limits.memory)?,
            })
        }
    });
    of_pod.into_iter().chain(of_containers).collect()
}

/// Which of these limits would be below what is used, in the kubelet's words: the kernel would kill at once. `used`
/// tells what the pod (`None`) or the container of an id uses, where that is known.
pub fn too_small(tighter: &[Tighter], used: impl Fn(Option<&str>) -> Option<u64>) -> Option<String> {
    let complaints = tighter.iter().filter_map(|Tighter { container, limit }| {
        let used = used(container.as_ref().map(|(_, id)| id.as_str()))?;
        let of = match container {
            None => "pod".to_owned(),
            Some((name, _)) => format!("container {name:?}"),
        };
        exceeds(used, *limit)
            .then(|| format!("attempting to set {of} memory limit ({limit}) below current usage ({used})"))
    });
    let complaints: Vec<_> = complaints.collect();
    let listed = match complaints.as_slice() {
        [] => return None,
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    };
    Some(format!("cannot decrease memory limits: {listed}"))
}

fn exceeds(used: u64, limit: i64) -> bool {
    u64::try_from(limit).is_ok_and(|limit| used >= limit)
}

/// `believed`, put right by what the runtime shows. `made` is what it was told when it was told `believed`: numbers
/// that are the same say nothing new.
pub fn seen_by_runtime(
    believed: Size,
    made: &LinuxContainerResources,
    shown: &LinuxContainerResources,
) -> Size {
    let mut size = believed;
    if shown.cpu_shares > 0 && shown.cpu_shares != made.cpu_shares && size.requests.cpu_milli.is_some() {
        size.requests.cpu_milli = Some(resources::milli_of_shares(shown.cpu_shares));
    }
    if shown.cpu_quota > 0
        && shown.cpu_period > 0
        && (shown.cpu_quota, shown.cpu_period) != (made.cpu_quota, made.cpu_period)
    {
        size.limits.cpu_milli = Some(shown.cpu_quota.saturating_mul(1000) / shown.cpu_period);
    }
    if shown.memory_limit_in_bytes > 0 && shown.memory_limit_in_bytes != made.memory_limit_in_bytes {
        size.limits.memory = Some(shown.memory_limit_in_bytes);
    }
    size
}
