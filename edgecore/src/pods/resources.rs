//! The arithmetic of requests and limits: quantities, the class of service, shares, quotas and OOM scores, with the
//! kubelet's roundings and bounds.
//!
//! Pure. **Invariant:** the numbers equal the kubelet's for the same pod, so that `kubectl describe`, cgroup
//! readers and schedulers agree.

mod pods;
mod quantity;
mod storage;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::spec;

pub use pods::{
    HugePages, container_huge_pages, node_limits, overhead, page_size, pod_huge_pages, pod_limits,
    pod_requests, said_by_pod, sandbox_amounts,
};
pub use quantity::{bytes_text, milli, milli_text, nano, whole};
pub use storage::{Storage, pod_storage, storage_limit};

const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
const MIN_QUOTA_US: i64 = 1_000;
/// The CFS period in microseconds.
pub const QUOTA_PERIOD_US: i64 = 100_000;
const GUARANTEED_OOM_SCORE: i64 = -997;
const BEST_EFFORT_OOM_SCORE: i64 = 1000;
const SYSTEM_NODE_CRITICAL: i32 = 2_000_001_000;

/// A pod's quality-of-service class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    /// Limits on everything, equal to the requests.
    Guaranteed,
    /// Some request or limit.
    Burstable,
    /// None at all.
    BestEffort,
}

impl Qos {
    /// All classes.
    pub const ALL: [Self; 3] = [Self::Guaranteed, Self::Burstable, Self::BestEffort];

    /// As `status.qosClass`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// CPU in thousandths and memory in bytes; `None` means not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a CPU.
    pub cpu_milli: Option<i64>,
    /// Bytes.
    pub memory: Option<i64>,
}

/// The limits that a pod's own cgroup gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodLimits {
    /// `cpu.shares`.
    pub cpu_shares: u64,
    /// CFS quota in microseconds per [`QUOTA_PERIOD_US`]; `None` leaves it alone.
    pub cpu_quota_us: Option<i64>,
    /// Bytes; `None` leaves it alone.
    pub memory: Option<i64>,
}

impl PodLimits {
    /// The wider of each; what one of both leaves alone is left alone.
    #[must_use]
    pub fn widest(self, other: Self) -> Self {
        let wider = |a: Option<i64>, b: Option<i64>| a.zip(b).map(|(a, b)| a.max(b));
        Self {
            cpu_shares: self.cpu_shares.max(other.cpu_shares),
            cpu_quota_us: wider(self.cpu_quota_us, other.cpu_quota_us),
            memory: wider(self.memory, other.memory),
        }
    }
}

/// What a container requests.
pub fn requests(container: &Container) -> Amounts {
    amounts(container.resources.as_ref().and_then(|r| r.requests.as_ref()))
}

/// What a container is limited to.
pub fn limits(container: &Container) -> Amounts {
    amounts(container.resources.as_ref().and_then(|r| r.limits.as_ref()))
}

/// The pod's class: what the API server wrote into its status, else computed from its containers.
pub fn qos(pod: &Pod) -> Qos {
    let written = pod.status.as_ref().and_then(|status| status.qos_class.as_deref());
    match written {
        Some("Guaranteed") => Qos::Guaranteed,
        Some("Burstable") => Qos::Burstable,
        Some("BestEffort") => Qos::BestEffort,
        _ => compute_qos(pod),
    }
}

/// `cpu.shares` for thousandths of a CPU.
pub fn cpu_shares(milli: i64) -> u64 {
    u64::try_from(milli.saturating_mul(1024) / 1000)
        .unwrap_or(0)
        .clamp(MIN_SHARES, MAX_SHARES)
}

/// Thousandths of a CPU that have these `cpu.shares`, rounded up.
pub fn milli_of_shares(shares: i64) -> i64 {
    shares.max(0).saturating_mul(1000).saturating_add(1023) / 1024
}

/// The CFS quota in microseconds; 0 when there is no limit.
pub fn cpu_quota(milli: i64) -> i64 {
    if milli <= 0 {
        0
    } else {
        (milli.saturating_mul(QUOTA_PERIOD_US) / 1000).max(MIN_QUOTA_US)
    }
}

/// A container's limits; where it has none, the pod's own count for it.
pub fn effective_limits(pod: &Pod, container: &Container) -> Amounts {
    let (own, of_pod) = (limits(container), pods::said_by_pod(pod).1);
    let said = |amount: Option<i64>| amount.filter(|amount| *amount != 0);
    Amounts {
        cpu_milli: said(own.cpu_milli).or(of_pod.cpu_milli),
        memory: said(own.memory).or(of_pod.memory),
    }
}

/// `oom_score_adj` of a container.
pub fn oom_score(pod: &Pod, container: &Container, memory_capacity: u64) -> i64 {
    let priority = spec::spec(pod).and_then(|spec| spec.priority).unwrap_or(0);
    if priority >= SYSTEM_NODE_CRITICAL {
        return GUARANTEED_OOM_SCORE;
    }
    match qos(pod) {
        Qos::Guaranteed => GUARANTEED_OOM_SCORE,
        Qos::BestEffort => BEST_EFFORT_OOM_SCORE,
        Qos::Burstable => burstable_oom_score(memory_share(pod, container), memory_capacity),
    }
}

/// What a container requests, with its part of what the pod requests beyond all containers. A sidecar is not
/// killed sooner than the least of the pod's main containers.
fn memory_share(pod: &Pod, container: &Container) -> i64 {
    let requested = |container: &Container| requests(container).memory.unwrap_or(0);
    let main = spec::spec(pod).map(|spec| spec.containers.as_slice());
    let least = main.unwrap_or_default().iter().map(requested).min();
    let own = match least {
        Some(least) if is_init(pod, container) && spec::is_sidecar(container) => {
            requested(container).max(least)
        }
        _ => requested(container),
    };
    let of_pod = pods::said_by_pod(pod).0.memory.unwrap_or(0);
    if of_pod == 0 {
        return own;
    }
    let left = of_pod - pods::container_requests(pod).memory.unwrap_or(0);
    let containers = i64::try_from(spec::all_containers(pod).count().max(1)).unwrap_or(i64::MAX);
    own.saturating_add(left / containers)
}

/// A main container may say `restartPolicy: Always` too, and is no sidecar for it.
fn is_init(pod: &Pod, container: &Container) -> bool {
    let init = spec::spec(pod).and_then(|spec| spec.init_containers.as_deref());
    init.unwrap_or_default()
        .iter()
        .any(|init| init.name == container.name)
}

fn burstable_oom_score(request: i64, capacity: u64) -> i64 {
    let capacity = i128::from(capacity.max(1));
    let score = 1000 - (1000 * i128::from(request)) / capacity;
    i64::try_from(score)
        .unwrap_or(0)
        .clamp(1000 + GUARANTEED_OOM_SCORE, BEST_EFFORT_OOM_SCORE - 1)
}

fn compute_qos(pod: &Pod) -> Qos {
    // What the pod itself says stands before its containers.
    let own = spec::spec(pod).and_then(|spec| spec.resources.as_ref());
    let each: Vec<(Amounts, Amounts)> = match own {
        Some(_) => vec![pods::said_by_pod(pod)],
        None => spec::all_containers(pod)
            .map(|container| (requests(container), limits(container)))
            .collect(),
    };
    let positive = |amount: Option<i64>| amount.filter(|amount| *amount > 0);
    let mut any = false;
    let mut guaranteed = true;
    let mut sums = [0_i64; 4];
    for (request, limit) in each {
        let all = [request.cpu_milli, request.memory, limit.cpu_milli, limit.memory].map(positive);
        any |= all.iter().any(Option::is_some);
        guaranteed &= all[2].is_some() && all[3].is_some();
        for (sum, amount) in sums.iter_mut().zip(all) {
            *sum += amount.unwrap_or(0);
        }
    }
    // Limits alone default the requests at the API server; a request of nothing is no request.
    if !any {
        Qos::BestEffort
    } else if guaranteed && sums[0] == sums[2] && sums[1] == sums[3] {
        Qos::Guaranteed
    } else {
        Qos::Burstable
    }
}

/// CPU and memory of a list of resources.
pub fn amounts(list: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    Amounts {
        cpu_milli: list.and_then(|list| list.get("cpu")).and_then(milli),
        memory: list.and_then(|list| list.get("memory")).and_then(whole),
    }
}

#[cfg(test)]
mod tests;
