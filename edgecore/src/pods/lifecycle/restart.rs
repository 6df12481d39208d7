//! Which container is started again after which end.
//!
//! The first of a container's own rules that fits its exit code decides, else its own policy, else the pod's.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Pod};

use crate::pods::spec;

/// A restart policy, of a pod or of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever the exit code.
    Always,
    /// After an exit code that is not zero.
    OnFailure,
    /// Not at all.
    Never,
}

impl RestartPolicy {
    /// The pod's own; `Always` is the API's default.
    pub fn of(pod: &Pod) -> Self {
        let said = spec::spec(pod).and_then(|spec| spec.restart_policy.as_deref());
        said.and_then(Self::parse).unwrap_or(Self::Always)
    }

    /// The container's own, else the pod's.
    pub fn of_container(pod: &Pod, container: &Container) -> Self {
        let own = container.restart_policy.as_deref().and_then(Self::parse);
        own.unwrap_or_else(|| Self::of(pod))
    }

    /// Whether a container that ended with `exit_code` is started again.
    pub const fn restarts(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }

    fn parse(said: &str) -> Option<Self> {
        match said {
            "Always" => Some(Self::Always),
            "OnFailure" => Some(Self::OnFailure),
            "Never" => Some(Self::Never),
            _ => None,
        }
    }
}

/// Whether a container that ended with `exit_code` is started again.
pub fn restarts(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    let fitting = rules.iter().find(|rule| fits(rule, exit_code));
    fitting.is_some_and(|rule| rule.action == "Restart")
        || RestartPolicy::of_container(pod, container).restarts(exit_code)
}

fn fits(rule: &ContainerRestartRule, exit_code: i32) -> bool {
    let Some(codes) = &rule.exit_codes else {
        return false;
    };
    let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
    match codes.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_beats_the_containers_policy_and_that_the_pods() {
        let rules = json!([
            {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}},
            {"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [0, 1, 42]}},
        ]);
        let pod = json!({"metadata": {}, "spec": {"restartPolicy": "Always", "containers": []}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        for (container, restarted) in [
            (json!({"name": "c"}), [true, true, true, true]),
            (json!({"name": "c", "restartPolicy": "Never"}), [false; 4]),
            (
                json!({"name": "c", "restartPolicy": "OnFailure"}),
                [false, true, true, true],
            ),
            (
                json!({"name": "c", "restartPolicy": "Never", "restartPolicyRules": rules}),
                [false, false, true, true],
            ),
        ] {
            let spec: Container = serde_json::from_value(container.clone()).unwrap();
            assert_eq!(
                [0, 1, 42, 7].map(|code| restarts(&pod, &spec, code)),
                restarted,
                "{container}"
            );
        }
    }
}
