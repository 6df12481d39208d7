//! Which files of a cgroup say what. Pure.
//!
//! v1 spreads a cgroup over controllers, v2 has one directory. **Invariant:** a value is written only into
//! the controller that has the file.

use std::borrow::Cow;

use super::super::resources::{HugePages, PodLimits, QUOTA_PERIOD_US, page_size};
use super::systemd::{Property, Value};

/// A hundredth of the period.
const PER_CENT_US: i64 = QUOTA_PERIOD_US / 100;

/// One value: the controller, its file, what is written.
pub(super) type Setting = (&'static str, Cow<'static, str>, String);

/// The settings under v1.
pub(super) fn v1(limits: &PodLimits) -> Vec<Setting> {
    let mut settings = vec![("cpu", "cpu.shares".into(), limits.cpu_shares.to_string())];
    if let Some(quota) = limits.cpu_quota_us.filter(|quota| *quota > 0) {
        settings.push(("cpu", "cpu.cfs_period_us".into(), QUOTA_PERIOD_US.to_string()));
        settings.push(("cpu", "cpu.cfs_quota_us".into(), quota.to_string()));
    }
    if let Some(memory) = limits.memory.filter(|memory| *memory > 0) {
        settings.push(("memory", "memory.limit_in_bytes".into(), memory.to_string()));
    }
    settings
}

/// The settings under v2.
pub(super) fn v2(limits: &PodLimits) -> Vec<Setting> {
    let mut settings = vec![("cpu", "cpu.weight".into(), weight(limits.cpu_shares).to_string())];
    if let Some(quota) = limits.cpu_quota_us.filter(|quota| *quota > 0) {
        settings.push(("cpu", "cpu.max".into(), format!("{quota} {QUOTA_PERIOD_US}")));
    }
    if let Some(memory) = limits.memory.filter(|memory| *memory > 0) {
        settings.push(("memory", "memory.max".into(), memory.to_string()));
    }
    settings
}

/// The limits as systemd can express them: it counts per cents of a CPU, and they are rounded up as the runtime
/// rounds them. What is written into files must be the same, or systemd would change it later.
pub(super) fn as_systemd_counts(limits: PodLimits) -> PodLimits {
    let cpu_quota_us = limits.cpu_quota_us.map(|quota| per_cents(quota) * PER_CENT_US);
    PodLimits {
        cpu_quota_us,
        ..limits
    }
}

/// The settings as properties of a slice under v2.
pub(super) fn systemd_v2(limits: &PodLimits) -> Vec<Property> {
    let weight = ("CPUWeight", Value::Number(weight(limits.cpu_shares)));
    properties(limits, weight, "MemoryMax")
}

/// The same under v1.
pub(super) fn systemd_v1(limits: &PodLimits) -> Vec<Property> {
    let shares = ("CPUShares", Value::Number(limits.cpu_shares));
    properties(limits, shares, "MemoryLimit")
}

fn properties(limits: &PodLimits, weight: Property, memory: &'static str) -> Vec<Property> {
    let positive = |limit: Option<i64>| {
        limit
            .and_then(|limit| u64::try_from(limit).ok())
            .filter(|limit| *limit > 0)
    };
    let quota = positive(limits.cpu_quota_us.map(per_cents));
    // Per second of time, in microseconds.
    let quota = quota.map(|per_cents| ("CPUQuotaPerSecUSec", Value::Number(per_cents * 10_000)));
    let memory = positive(limits.memory).map(|bytes| (memory, Value::Number(bytes)));
    [Some(weight), quota, memory].into_iter().flatten().collect()
}

fn per_cents(quota_us: i64) -> i64 {
    quota_us.max(0).saturating_add(PER_CENT_US - 1) / PER_CENT_US
}

/// The controller of huge pages.
pub(super) const HUGE_PAGES: &str = "hugetlb";

/// The limits of huge pages under v1.
pub(super) fn huge_pages_v1(pages: &HugePages) -> Vec<Setting> {
    huge_pages(pages, "limit_in_bytes")
}

/// The same under v2.
pub(super) fn huge_pages_v2(pages: &HugePages) -> Vec<Setting> {
    huge_pages(pages, "max")
}

fn huge_pages(pages: &HugePages, file: &str) -> Vec<Setting> {
    let setting = |(size, limit): (&u64, &u64)| {
        let file = format!("hugetlb.{}.{file}", page_size(*size));
        (HUGE_PAGES, file.into(), limit.to_string())
    };
    pages.iter().map(setting).collect()
}

/// Shares 2..262144 as weight 1..10000.
pub(super) fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PodLimits = PodLimits {
        cpu_shares: 1024,
        cpu_quota_us: Some(50_000),
        memory: Some(64 << 20),
    };

    #[test]
    fn shares_become_weights_as_the_kubelet_maps_them() {
        assert_eq!(
            [0, 2, 1024, 262_144, u64::MAX].map(weight),
            [1, 1, 39, 10_000, 10_000]
        );
    }

    #[test]
    fn huge_pages_have_a_file_for_each_size() {
        let pages = HugePages::from([(2 << 20, 4 << 20), (1 << 30, 0)]);
        let told = |settings: Vec<Setting>| -> Vec<String> {
            settings
                .into_iter()
                .map(|(_, file, value)| format!("{file}={value}"))
                .collect()
        };
        assert_eq!(
            told(huge_pages_v1(&pages)),
            [
                "hugetlb.2MB.limit_in_bytes=4194304",
                "hugetlb.1GB.limit_in_bytes=0"
            ]
        );
        assert_eq!(
            told(huge_pages_v2(&pages)),
            ["hugetlb.2MB.max=4194304", "hugetlb.1GB.max=0"]
        );
    }

    #[test]
    fn both_versions_get_the_same_limits() {
        let written = |settings: Vec<Setting>| -> Vec<String> {
            settings
                .into_iter()
                .map(|(_, file, value)| format!("{file}={value}"))
                .collect()
        };
        let v1_expected = [
            "cpu.shares=1024",
            "cpu.cfs_period_us=100000",
            "cpu.cfs_quota_us=50000",
            "memory.limit_in_bytes=67108864",
        ];
        assert_eq!(written(v1(&LIMITS)), v1_expected);
        assert_eq!(
            written(v2(&LIMITS)),
            ["cpu.weight=39", "cpu.max=50000 100000", "memory.max=67108864"]
        );
        let property = |name, value| (name, Value::Number(value));
        let (quota, memory) = (property("CPUQuotaPerSecUSec", 500_000), 64 << 20);
        assert_eq!(
            systemd_v2(&LIMITS),
            [
                property("CPUWeight", 39),
                quota.clone(),
                property("MemoryMax", memory)
            ]
        );
        assert_eq!(
            systemd_v1(&LIMITS),
            [
                property("CPUShares", 1024),
                quota,
                property("MemoryLimit", memory)
            ]
        );
        let none = PodLimits {
            cpu_shares: 2,
            ..PodLimits::default()
        };
        assert_eq!(
            (v1(&none).len(), v2(&none).len(), systemd_v2(&none).len()),
            (1, 1, 1)
        );
    }

    #[test]
    fn systemd_rounds_a_quota_up_and_so_do_the_files() {
        let odd = PodLimits {
            cpu_quota_us: Some(12_345),
            ..LIMITS
        };
        assert_eq!(as_systemd_counts(odd).cpu_quota_us, Some(13_000));
        assert_eq!(
            systemd_v2(&odd)[1],
            ("CPUQuotaPerSecUSec", Value::Number(130_000))
        );
        assert_eq!(as_systemd_counts(LIMITS), LIMITS);
    }
}
