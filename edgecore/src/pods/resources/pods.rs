//! What a pod asks for in all, and the limits of its own cgroup.
//!
//! Containers add up; init containers run one after another beside the sidecars that came before them, so the
//! greatest such moment counts. What the pod itself says (`spec.resources`) stands in the sum's place, and the
//! overhead of its class comes on top.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{
    Amounts, MIN_SHARES, PodLimits, Qos, amounts, cpu_quota, cpu_shares, limits, qos, quantity, requests,
};
use crate::pods::spec::{self, NodeFacts};

const HUGE_PAGES: &str = "hugepages-";

/// Bytes by the size of the page.
pub type HugePages = BTreeMap<u64, u64>;

/// What the pod requests in all, with its overhead.
pub fn pod_requests(pod: &Pod) -> Amounts {
    own_requests(pod).plus(overhead(pod))
}

/// The same without the overhead.
pub(super) fn own_requests(pod: &Pod) -> Amounts {
    said_by_pod(pod).0.or(aggregate(pod, requests).sum)
}

/// What all containers request together.
pub(super) fn container_requests(pod: &Pod) -> Amounts {
    aggregate(pod, requests).sum
}

/// What the pod is limited to in all, without the overhead.
fn own_limits(pod: &Pod) -> Amounts {
    said_by_pod(pod).1.or(aggregate(pod, limits).sum)
}

/// What the sandbox is told of its pod's requests and limits.
pub fn sandbox_amounts(pod: &Pod) -> (Amounts, Amounts) {
    (own_requests(pod), own_limits(pod))
}

/// What the pod's class costs beside its containers.
pub fn overhead(pod: &Pod) -> Amounts {
    amounts(spec::spec(pod).and_then(|spec| spec.overhead.as_ref()))
}

/// The requests and limits of the pod itself.
pub fn said_by_pod(pod: &Pod) -> (Amounts, Amounts) {
    let own = spec::spec(pod).and_then(|spec| spec.resources.as_ref());
    (
        amounts(own.and_then(|own| own.requests.as_ref())),
        amounts(own.and_then(|own| own.limits.as_ref())),
    )
}

/// The limits of the pod's own cgroup.
pub fn pod_limits(pod: &Pod) -> PodLimits {
    if qos(pod) == Qos::BestEffort {
        return PodLimits {
            cpu_shares: MIN_SHARES,
            ..PodLimits::default()
        };
    }
    let (of_containers, of_pod) = (aggregate(pod, limits), said_by_pod(pod).1);
    let limit = |has: fn(Amounts) -> Option<i64>, all_limited: bool| {
        let declared = all_limited || has(of_pod).is_some_and(|limit| limit > 0);
        let own = has(of_pod.or(of_containers.sum)).filter(|_| declared)?;
        let more = has(overhead(pod)).filter(|_| own > 0).unwrap_or(0);
        Some(own.saturating_add(more))
    };
    PodLimits {
        cpu_shares: cpu_shares(pod_requests(pod).cpu_milli.unwrap_or(0)),
        cpu_quota_us: limit(|a| a.cpu_milli, of_containers.all_cpu).map(cpu_quota),
        memory: limit(|a| a.memory, of_containers.all_memory),
    }
}

/// The limits of all pods together: what the device has, so that they weigh as much as their requests can
/// add up to.
pub fn node_limits(facts: &NodeFacts) -> PodLimits {
    PodLimits {
        cpu_shares: cpu_shares(
            facts
                .allocatable
                .get("cpu")
                .and_then(quantity::milli)
                .unwrap_or(0),
        ),
        cpu_quota_us: None,
        memory: i64::try_from(facts.memory_capacity).ok(),
    }
}

/// What the pod's cgroup is limited to of each size of page the device has; nothing of those not asked for.
pub fn pod_huge_pages(pod: &Pod, sizes: &[u64]) -> HugePages {
    let mut asked = HugePages::new();
    // Huge pages are never overcommitted: request and limit are equal, and init containers need no sum.
    for container in spec::all_containers(pod) {
        let list = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        for (size, bytes) in huge_pages(list) {
            *asked.entry(size).or_default() += bytes;
        }
    }
    let own = spec::spec(pod).and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    asked.extend(huge_pages(own));
    limited_to(sizes, &asked)
}

/// The same of one container: its own limits, else the pod's.
pub fn container_huge_pages(pod: &Pod, container: &Container, sizes: &[u64]) -> HugePages {
    let own = spec::spec(pod).and_then(|spec| spec.resources.as_ref()?.limits.as_ref());
    let mut asked = huge_pages(own);
    let said = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    asked.extend(huge_pages(said));
    limited_to(sizes, &asked)
}

/// `2MB`, as cgroup files and the runtime name a size of page.
pub fn page_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KB", "MB", "GB", "TB", "PB"];
    let steps = (bytes.trailing_zeros() / 10) as usize;
    let steps = steps.min(UNITS.len() - 1);
    format!("{}{}", bytes >> (10 * steps), UNITS[steps])
}

fn limited_to(sizes: &[u64], asked: &HugePages) -> HugePages {
    let limit = |size: &u64| (*size, asked.get(size).copied().unwrap_or(0));
    sizes.iter().map(limit).collect()
}

fn huge_pages(list: Option<&BTreeMap<String, Quantity>>) -> HugePages {
    let entries = list.into_iter().flatten();
    let bytes = |quantity: &Quantity| u64::try_from(quantity::whole(quantity)?).ok();
    entries
        .filter_map(|(name, amount)| {
            let size = name.strip_prefix(HUGE_PAGES)?;
            Some((bytes(&Quantity(size.to_owned()))?, bytes(amount)?))
        })
        .collect()
}

/// What containers add up to.
pub(super) struct Aggregate {
    pub(super) sum: Amounts,
    /// Whether every container has an amount of CPU.
    all_cpu: bool,
    /// The same of memory.
    all_memory: bool,
}

pub(super) fn aggregate(pod: &Pod, of: fn(&Container) -> Amounts) -> Aggregate {
    let mut all = Aggregate {
        sum: Amounts::default(),
        all_cpu: true,
        all_memory: true,
    };
    let Some(spec) = spec::spec(pod) else { return all };
    for amounts in spec.containers.iter().map(of) {
        all.sum = all.sum.plus(amounts);
        all.note(amounts);
    }
    let (mut sidecars, mut most) = (Amounts::default(), Amounts::default());
    for init in spec.init_containers.as_deref().unwrap_or_default() {
        let beside = of(init).plus(sidecars);
        if init.restart_policy.as_deref() == Some("Always") {
            all.sum = all.sum.plus(of(init));
            sidecars = beside;
        }
        all.note(beside);
        most = most.max(beside);
    }
    all.sum = all.sum.max(most);
    all
}

impl Aggregate {
    fn note(&mut self, amounts: Amounts) {
        let some = |amount: Option<i64>| amount.is_some_and(|amount| amount > 0);
        self.all_cpu &= some(amounts.cpu_milli);
        self.all_memory &= some(amounts.memory);
    }
}

impl Amounts {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let add = |a: Option<i64>, b: Option<i64>| match (a, b) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
        };
        Self {
            cpu_milli: add(self.cpu_milli, other.cpu_milli),
            memory: add(self.memory, other.memory),
        }
    }

    fn max(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.max(other.cpu_milli),
            memory: self.memory.max(other.memory),
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.or(other.cpu_milli),
            memory: self.memory.or(other.memory),
        }
    }
}
