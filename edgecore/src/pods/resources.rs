//! The arithmetic of requests and limits: quantities, the class of service, shares, quotas and OOM scores, with the
//! kubelet's roundings and bounds.
//!
//! Pure. **Invariant:** the numbers equal the kubelet's for the same pod, so that `kubectl describe`, cgroup
//! readers and schedulers agree.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::spec;

const NANO: i128 = 1_000_000_000;
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

/// A quantity in whole units, rounded up as the kubelet does; `None` when it does not parse.
pub fn whole(quantity: &Quantity) -> Option<i64> {
    rounded_up(parse_nano(&quantity.0)?, NANO)
}

/// A quantity in thousandths, rounded up; `None` when it does not parse.
pub fn milli(quantity: &Quantity) -> Option<i64> {
    rounded_up(parse_nano(&quantity.0)?, NANO / 1000)
}

/// A quantity in billionths; `None` when it does not parse.
pub fn nano(quantity: &Quantity) -> Option<i128> {
    parse_nano(&quantity.0)
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

/// What the pod requests in all: the sum of its containers, or its greatest init container.
pub fn pod_requests(pod: &Pod) -> Amounts {
    aggregate(pod, requests)
}

/// `cpu.shares` for thousandths of a CPU.
pub fn cpu_shares(milli: i64) -> u64 {
    u64::try_from(milli.saturating_mul(1024) / 1000)
        .unwrap_or(0)
        .clamp(MIN_SHARES, MAX_SHARES)
}

/// The CFS quota in microseconds; 0 when there is no limit.
pub fn cpu_quota(milli: i64) -> i64 {
    if milli <= 0 {
        0
    } else {
        (milli.saturating_mul(QUOTA_PERIOD_US) / 1000).max(MIN_QUOTA_US)
    }
}

/// The limits of the pod's own cgroup.
pub fn pod_limits(pod: &Pod) -> PodLimits {
    let class = qos(pod);
    if class == Qos::BestEffort {
        return PodLimits {
            cpu_shares: MIN_SHARES,
            ..PodLimits::default()
        };
    }
    let limited = aggregate(pod, limits);
    let every = |has: fn(Amounts) -> Option<i64>| {
        spec::all_containers(pod).all(|container| has(limits(container)).is_some_and(|amount| amount > 0))
    };
    PodLimits {
        cpu_shares: cpu_shares(pod_requests(pod).cpu_milli.unwrap_or(0)),
        cpu_quota_us: limited
            .cpu_milli
            .filter(|_| every(|a| a.cpu_milli))
            .map(cpu_quota),
        memory: limited.memory.filter(|_| every(|a| a.memory)),
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
        Qos::Burstable => burstable_oom_score(requests(container).memory.unwrap_or(0), memory_capacity),
    }
}

fn burstable_oom_score(request: i64, capacity: u64) -> i64 {
    let capacity = i128::from(capacity.max(1));
    let score = 1000 - (1000 * i128::from(request)) / capacity;
    i64::try_from(score)
        .unwrap_or(0)
        .clamp(1000 + GUARANTEED_OOM_SCORE, BEST_EFFORT_OOM_SCORE - 1)
}

fn compute_qos(pod: &Pod) -> Qos {
    let positive = |amount: Option<i64>| amount.filter(|amount| *amount > 0);
    let mut any = false;
    let mut guaranteed = true;
    let mut sums = [0_i64; 4];
    for container in spec::all_containers(pod) {
        let (request, limit) = (requests(container), limits(container));
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

fn aggregate(pod: &Pod, of: fn(&Container) -> Amounts) -> Amounts {
    let Some(spec) = spec::spec(pod) else {
        return Amounts::default();
    };
    let add = |a: Option<i64>, b: Option<i64>| match (a, b) {
        (None, None) => None,
        (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
    };
    let sum = spec
        .containers
        .iter()
        .map(of)
        .fold(Amounts::default(), |sum, next| Amounts {
            cpu_milli: add(sum.cpu_milli, next.cpu_milli),
            memory: add(sum.memory, next.memory),
        });
    let init = spec.init_containers.as_deref().unwrap_or_default();
    init.iter().map(of).fold(sum, |most, next| Amounts {
        cpu_milli: most.cpu_milli.max(next.cpu_milli),
        memory: most.memory.max(next.memory),
    })
}

fn amounts(list: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    Amounts {
        cpu_milli: list.and_then(|list| list.get("cpu")).and_then(milli),
        memory: list.and_then(|list| list.get("memory")).and_then(whole),
    }
}

fn rounded_up(nano: i128, unit: i128) -> Option<i64> {
    let up = nano.div_euclid(unit) + i128::from(nano.rem_euclid(unit) != 0);
    i64::try_from(up).ok()
}

/// Parses a Kubernetes quantity into billionths.
fn parse_nano(text: &str) -> Option<i128> {
    let split = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (mantissa, digits) = decimal(number)?;
    let (numerator, denominator) = scale(suffix)?;
    let nano = mantissa.checked_mul(NANO)?.checked_mul(numerator)?;
    let divisor = denominator.checked_mul(10_i128.checked_pow(digits)?)?;
    Some(nano.div_euclid(divisor) + i128::from(nano.rem_euclid(divisor) != 0))
}

/// `-1.25` as (-125, 2 digits after the point).
fn decimal(text: &str) -> Option<(i128, u32)> {
    let (int, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 18
        || !(int.len() + fraction.len() > 0 && fraction.bytes().all(|b| b.is_ascii_digit()))
    {
        return None;
    }
    let mantissa = format!("{int}{fraction}").parse().ok()?;
    Some((mantissa, u32::try_from(fraction.len()).ok()?))
}

fn scale(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1_i128 << (10 * power), 1));
    let ten = |power: u32| 10_i128.checked_pow(power);
    match suffix {
        "n" => Some((1, ten(9)?)),
        "u" => Some((1, ten(6)?)),
        "m" => Some((1, ten(3)?)),
        "" => Some((1, 1)),
        "k" => Some((ten(3)?, 1)),
        "M" => Some((ten(6)?, 1)),
        "G" => Some((ten(9)?, 1)),
        "T" => Some((ten(12)?, 1)),
        "P" => Some((ten(15)?, 1)),
        "E" => Some((ten(18)?, 1)),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        exponent => match exponent.strip_prefix(['e', 'E'])?.parse::<i32>().ok()? {
            power @ 0..=18 => Some((ten(power.unsigned_abs())?, 1)),
            power @ -18..0 => Some((1, ten(power.unsigned_abs())?)),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(containers: &str) -> Pod {
        serde_json::from_str(&format!(r#"{{"spec":{{"containers":{containers}}}}}"#)).unwrap()
    }

    #[test]
    fn quantities_round_up_as_the_kubelet_rounds_them() {
        let q = |text: &str| Quantity(text.to_owned());
        for (text, units) in [
            ("128Mi", 134_217_728),
            ("1k", 1000),
            ("1.5Gi", 1_610_612_736),
            ("1e3", 1000),
            ("100m", 1),
            ("0", 0),
            ("12E0", 12),
            ("1E", 1_000_000_000_000_000_000),
        ] {
            assert_eq!(whole(&q(text)), Some(units), "{text}");
        }
        assert_eq!(milli(&q("0.1")), Some(100));
        assert_eq!(milli(&q("1u")), Some(1));
        assert_eq!(milli(&q("250m")), Some(250));
        for bad in ["", "x", "1.2.3", "1Q", "--1", "1e99", "9999999999999999999999Ei"] {
            assert_eq!(whole(&q(bad)), None, "{bad}");
        }
    }

    #[test]
    fn qos_classes_follow_requests_and_limits() {
        assert_eq!(qos(&pod(r#"[{"name":"a"}]"#)), Qos::BestEffort);
        let guaranteed = r#"[{"name":"a","resources":{"requests":{"cpu":"1","memory":"1Gi"},"limits":{"cpu":"1000m","memory":"1024Mi"}}}]"#;
        assert_eq!(qos(&pod(guaranteed)), Qos::Guaranteed);
        assert_eq!(
            qos(&pod(r#"[{"name":"a","resources":{"requests":{"cpu":"1"}}}]"#)),
            Qos::Burstable
        );
        let one_without = r#"[{"name":"a","resources":{"requests":{"cpu":"1","memory":"1"},"limits":{"cpu":"1","memory":"1"}}},{"name":"b"}]"#;
        assert_eq!(qos(&pod(one_without)), Qos::Burstable);
    }

    #[test]
    fn shares_quotas_and_scores_keep_the_kubelets_bounds() {
        assert_eq!(
            [0, 1, 100, 1000, 10_000_000].map(cpu_shares),
            [2, 2, 102, 1024, 262_144]
        );
        assert_eq!([0, 1, 50, 500].map(cpu_quota), [0, 1000, 5000, 50_000]);
        let burstable = pod(r#"[{"name":"a","resources":{"requests":{"memory":"1Gi"}}}]"#);
        let container = &burstable.spec.as_ref().unwrap().containers[0];
        assert_eq!(oom_score(&burstable, container, 4 << 30), 750);
        assert_eq!(oom_score(&burstable, container, 1 << 30), 3);
        assert_eq!(oom_score(&burstable, container, 1 << 60), 999);
    }

    #[test]
    fn a_pods_own_cgroup_is_limited_only_when_every_container_is() {
        let both = r#"[{"name":"a","resources":{"requests":{"cpu":"100m"},"limits":{"memory":"64Mi","cpu":"1"}}},
                       {"name":"b","resources":{"limits":{"memory":"64Mi"}}}]"#;
        let limits = pod_limits(&pod(both));
        assert_eq!(
            limits,
            PodLimits {
                cpu_shares: 102,
                cpu_quota_us: None,
                memory: Some(128 << 20)
            }
        );
        assert_eq!(pod_limits(&pod(r#"[{"name":"a"}]"#)).cpu_shares, 2);
    }

    #[test]
    fn the_greatest_init_container_counts_when_it_asks_for_more() {
        let pod: Pod = serde_json::from_str(
            r#"{"spec":{"initContainers":[{"name":"i","resources":{"requests":{"cpu":"2"}}}],
                "containers":[{"name":"a","resources":{"requests":{"cpu":"1","memory":"1"}}}]}}"#,
        )
        .unwrap();
        assert_eq!(
            pod_requests(&pod),
            Amounts {
                cpu_milli: Some(2000),
                memory: Some(1)
            }
        );
    }
}
