//! Differences that are no bugs, each with its reason.

use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use regex::Regex;

/// Those that every pod shows: (path, reason). `*` stands for anything.
pub(crate) const EVERYWHERE: &[(&str, &str)] = &[
    (
        "cri.CreateContainer*annotations[io.kubernetes.container.hash]",
        "each agent reads only its own hashes",
    ),
    (
        "cri.RunPodSandbox*annotations[kubernetes.io/config.*]",
        "where a kubelet had the pod from, for its own use",
    ),
    (
        "cri.PullImage*annotations[kubernetes.io/config.*]",
        "where a kubelet had the pod from, for its own use",
    ),
    (
        "events[Warning Unhealthy * probe errored and resulted in unknown state: *]",
        "a probe that was cut short by the container's end; each agent has other words for it, or none",
    ),
    ("events[Warning FailedMount *not registered]", KUBELETS_CACHES),
    (
        "events[Warning FailedMount *failed to fetch token: * is forbidden: *",
        "the API server may let a kubelet have a pod before it lets it have the pod's token",
    ),
    (
        "events[Warning FailedMount *cache: timed out waiting for the condition]",
        KUBELETS_CACHES,
    ),
    ("status.resources*", POD_RESOURCES),
    ("status.allocatedResources*", POD_RESOURCES),
    ("at its end.resources*", POD_RESOURCES),
    ("at its end.allocatedResources*", POD_RESOURCES),
];

const KUBELETS_CACHES: &str = "a kubelet may start a pod before it has heard of its objects";

const POD_RESOURCES: &str =
    "what the kubelet reads back from the pod's cgroup; edgecore has no resources of pods as a whole";

/// A path pattern, and why a difference there is none to mend.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pattern: Regex,
    /// For the table.
    pub(crate) why: String,
}

impl Rule {
    /// A rule for paths that match; `*` stands for anything.
    pub(crate) fn new(path: &str, why: &str) -> Result<Self> {
        let pattern = regex::escape(path).replace(r"\*", ".*");
        Ok(Self {
            pattern: Regex::new(&format!("(?s)^{pattern}$"))?,
            why: why.to_owned(),
        })
    }

    /// Whether it is about that path.
    pub(crate) fn covers(&self, path: &str) -> bool {
        self.pattern.is_match(path)
    }
}

impl FromStr for Rule {
    type Err = anyhow::Error;

    /// `path = why`
    fn from_str(text: &str) -> Result<Self> {
        let (path, why) = text.split_once(" = ").context("write: path = why")?;
        ensure!(!why.trim().is_empty(), "a documented difference has a reason");
        Self::new(path.trim(), why.trim())
    }
}

/// [`EVERYWHERE`] as rules.
pub(crate) fn everywhere() -> Vec<Rule> {
    EVERYWHERE
        .iter()
        .filter_map(|(path, why)| Rule::new(path, why).ok())
        .collect()
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_star_stands_for_anything_and_the_rest_for_itself() {
        let rule: Rule = "cri.*.annotations[a.b] = other words".parse().unwrap();
        assert!(rule.covers("cri.CreateContainer.annotations[a.b]"));
        assert!(!rule.covers("cri.CreateContainer.annotations[aXb]"));
        assert_eq!(rule.why, "other words");
    }

    #[test]
    fn a_rule_without_a_reason_is_refused() {
        assert!("status.x".parse::<Rule>().is_err());
        assert!("status.x =  ".parse::<Rule>().is_err());
    }

    #[test]
    fn the_shared_rules_can_be_read() {
        assert_eq!(everywhere().len(), EVERYWHERE.len());
    }
}
