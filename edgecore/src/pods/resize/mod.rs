//! In-place resize: a pod that runs gets other amounts of CPU and memory.
//!
//! ```text
//! wanted (the spec) --judge--> allocated (what the node gave) --steps--> set (in the cgroups)
//! ```
//!
//! Pure but for the [`Ledger`], which knows what all pods of the node were given. Whoever works on a pod works on
//! the pod as it was allocated; what it wants beyond that is told as pending, and what is allocated and not set as
//! in progress. As with the kubelet only what runs for as long as the pod does is resized.
//!
//! **Invariant:** what is told as a container's resources was set, and a pod's own cgroup is never tighter than
//! its containers are on the way: it grows before them and shrinks after them.

mod ledger;
mod steps;
mod told;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::desired::DesiredPod;
use super::lifecycle;
use super::resource_fields::Resources;
use super::resources::{self, Amounts};
use super::spec;

pub use ledger::Ledger;
pub use steps::{Step, Tighter, outgrown, seen_by_runtime, steps, tighter, too_small};
pub use told::{Told, summary};

/// What a container may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// What it is promised.
    pub requests: Amounts,
    /// What it may not exceed.
    pub limits: Amounts,
}

/// Sizes by the container's name, or by its id.
pub type Sizes = BTreeMap<String, Size>;

/// How far the resize of a pod is, for its status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resize {
    /// What is wanted and was not given.
    pub pending: Option<Pending>,
    /// What was given and is not set.
    pub progress: Option<Progress>,
    /// What each container has, by its id.
    pub set: Sizes,
}

/// Why a wanted size was not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// `Deferred`: not now. `Infeasible`: never here.
    pub reason: &'static str,
    /// In the kubelet's words.
    pub message: String,
    /// The pod's generation that wants it.
    pub generation: Option<i64>,
}

/// A size that was given is being set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The pod's generation that was given its size.
    pub generation: Option<i64>,
    /// Why it could not be set so far.
    pub error: Option<String>,
}

/// Others may go, and then there is room.
pub const DEFERRED: &str = "Deferred";
/// This node can never give it.
pub const INFEASIBLE: &str = "Infeasible";
const PENDING: &str = "PodResizePending";
const IN_PROGRESS: &str = "PodResizeInProgress";
const ERROR: &str = "Error";

impl Size {
    /// What the container's spec says.
    pub fn of(container: &Container) -> Self {
        Self {
            requests: resources::requests(container),
            limits: resources::limits(container),
        }
    }

    /// `base` with these amounts of CPU and memory; what it says of others, and in what words, stays.
    pub fn within(self, base: Option<&ResourceRequirements>) -> Option<ResourceRequirements> {
        let said = base.cloned().unwrap_or_default();
        let said = ResourceRequirements {
            requests: replaced(said.requests, self.requests),
            limits: replaced(said.limits, self.limits),
            ..said
        };
        (base.is_some() || said != ResourceRequirements::default()).then_some(said)
    }
}

type List = BTreeMap<String, Quantity>;

fn replaced(list: Option<List>, by: Amounts) -> Option<List> {
    let was_said = list.is_some();
    let mut list = list.unwrap_or_default();
    let before = resources::amounts(Some(&list));
    let mut put = |name: &str, before: Option<i64>, after: Option<i64>, text: fn(i64) -> Quantity| {
        if before != after {
            list.remove(name);
            list.extend(after.map(|amount| (name.to_owned(), text(amount))));
        }
    };
    put("cpu", before.cpu_milli, by.cpu_milli, resources::milli_text);
    put("memory", before.memory, by.memory, resources::bytes_text);
    (was_said || !list.is_empty()).then_some(list)
}

/// What the pod's resizable containers are to have, by name.
pub fn sizes(pod: &Pod) -> Sizes {
    let each = lifecycle::lasting(pod);
    each.map(|container| (container.name.clone(), Size::of(container)))
        .collect()
}

/// The pod with these sizes in place of its own, and with what it was given as a whole `before`; itself where all
/// that is the same.
pub fn allocated(desired: &Arc<DesiredPod>, given: &Sizes, before: Option<&Pod>) -> Arc<DesiredPod> {
    let same = |(name, size): (&String, &Size)| given.get(name).is_none_or(|given| given == size);
    let as_a_whole = before.filter(|before| !same_as_a_whole(before, &desired.pod));
    if as_a_whole.is_none() && sizes(&desired.pod).iter().all(same) {
        return Arc::clone(desired);
    }
    let mut allocated = DesiredPod::clone(desired);
    resize(&mut allocated.pod, |container| {
        given.get(&container.name).copied()
    });
    if let (Some(spec), Some(before)) = (&mut allocated.pod.spec, as_a_whole) {
        spec.resources = spec::spec(before).and_then(|spec| spec.resources.clone());
    }
    Arc::new(allocated)
}

fn same_as_a_whole(one: &Pod, other: &Pod) -> bool {
    resources::said_by_pod(one) == resources::said_by_pod(other)
}

fn resize(pod: &mut Pod, size: impl Fn(&Container) -> Option<Size>) {
    let Some(spec) = &mut pod.spec else { return };
    let sidecars = spec.init_containers.iter_mut().flatten();
    let lasting = sidecars
        .filter(|init| spec::is_sidecar(init))
        .chain(&mut spec.containers);
    for container in lasting {
        if let Some(size) = size(container) {
            container.resources = size.within(container.resources.as_ref());
        }
    }
}

/// What the pod had been given when `status` was told, by name. A container that was not made yet had nothing.
pub fn given_before(pod: &Pod, status: Option<&PodStatus>) -> Sizes {
    let mut given = sizes(pod);
    let told = status.map(spec::container_statuses).unwrap_or_default();
    for (name, size) in &mut given {
        let told = told.iter().find(|status| &status.name == name);
        let Some((told, set)) = told.and_then(|told| Some((told, told.resources.as_ref()?))) else {
            continue;
        };
        let set = Size::said(set);
        let promised = Size {
            requests: resources::amounts(told.allocated_resources.as_ref()),
            ..set
        };
        // A resize was under way: of its limits nothing is known but what was set.
        *size = if promised.fits_itself() { promised } else { set };
    }
    given
}

impl Size {
    fn said(said: &ResourceRequirements) -> Self {
        Self {
            requests: resources::amounts(said.requests.as_ref()),
            limits: resources::amounts(said.limits.as_ref()),
        }
    }

    fn fits_itself(self) -> bool {
        let within = |request: Option<i64>, limit: Option<i64>| {
            limit.is_none_or(|limit| request.unwrap_or(0) <= limit)
        };
        within(self.requests.cpu_milli, self.limits.cpu_milli)
            && within(self.requests.memory, self.limits.memory)
    }
}

/// What each container had when `status` was told, by its id.
pub fn set_before(status: Option<&PodStatus>) -> Sizes {
    let told = status.map(spec::container_statuses).unwrap_or_default();
    let set = told.into_iter().filter_map(|told| {
        let id = told.container_id?.rsplit('/').next()?.to_owned();
        Some((id, Size::said(&told.resources?)))
    });
    set.collect()
}

/// How far the resize was when `status` was told.
pub fn progress_before(status: Option<&PodStatus>) -> Option<Progress> {
    let mut conditions = status?.conditions.iter().flatten();
    let told = conditions.find(|condition| condition.type_ == IN_PROGRESS)?;
    Some(Progress {
        generation: told.observed_generation,
        error: told
            .message
            .clone()
            .filter(|_| told.reason.as_deref() == Some(ERROR)),
    })
}

/// Whether `wanted` asks for other amounts than it was given.
pub fn differs(wanted: &Pod, allocated: &Pod) -> bool {
    sizes(wanted) != sizes(allocated) || !same_as_a_whole(wanted, allocated)
}

/// Whether the node can give `wanted` what it asks for, beside what `others` were given. What a pod does not
/// want more of it may always have.
pub fn judge(wanted: &Pod, allocated: &Pod, allocatable: &Resources, others: Amounts) -> Result<(), Pending> {
    let refuse = |reason, message| {
        Err(Pending {
            reason,
            message,
            generation: wanted.metadata.generation,
        })
    };
    if !same_as_a_whole(wanted, allocated) {
        let message = "InPlacePodLevelResourcesVerticalScaling is disabled";
        return refuse(INFEASIBLE, message.to_owned());
    }
    let (asked, given) = (
        resources::pod_requests(wanted),
        resources::pod_requests(allocated),
    );
    let all = resources::amounts(Some(allocatable));
    let each = [
        (
            "cpu",
            asked.cpu_milli,
            given.cpu_milli,
            others.cpu_milli,
            all.cpu_milli,
        ),
        ("memory", asked.memory, given.memory, others.memory, all.memory),
    ];
    for (name, asked, given, used, capacity) in each {
        let (asked, used, capacity) = (asked.unwrap_or(0), used.unwrap_or(0), capacity.unwrap_or(0));
        if asked <= given.unwrap_or(0) {
            continue;
        }
        if asked > capacity {
            let message =
                format!("Node didn't have enough capacity: {name}, requested: {asked}, capacity: {capacity}");
            return refuse(INFEASIBLE, message);
        }
        if asked > capacity - used {
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {asked}, used: {used}, capacity: {capacity}"
            );
            return refuse(DEFERRED, message);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
