//! Whether a pod that came to this node is admitted, as the kubelet's admission decides it.
//!
//! Pure: [`admit`] gets the node, the pod and those admitted before it. A pod that is not admitted fails at
//! once and for ever; nothing of it is made. What this node does not honour at all is another matter
//! (`features`): such a pod waits.
//!
//! **Invariant:** the verdict depends on nothing but what is handed in, and the first objection counts, in
//! the kubelet's order.

mod ports;
mod sysctls;

use k8s_openapi::api::core::v1::{AppArmorProfile, Pod};

use super::spec::{self, NodeFacts};

/// Why a pod is not admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The status's and the event's.
    pub reason: &'static str,
    /// In the kubelet's words.
    pub message: String,
}

/// Judges `pod`, given the other pods that were admitted and have not ended. `pending` says that the pod
/// has not been seen running.
pub fn admit<'a>(
    facts: &NodeFacts,
    pod: &Pod,
    pending: bool,
    others: impl Iterator<Item = &'a Pod>,
) -> Result<(), Rejection> {
    sysctls::check(pod, facts.kernel)?;
    check_groups_policy(facts, pod, pending)?;
    ports::check(pod, others)?;
    check_app_armor(facts, pod, pending)
}

/// A runtime that does not know the policy keeps a pod from starting; one that runs already is left alone, for
/// it may only be that the runtime has not answered yet.
fn check_groups_policy(facts: &NodeFacts, pod: &Pod, pending: bool) -> Result<(), Rejection> {
    let spec = spec::spec(pod).filter(|_| pending);
    let context = spec.and_then(|spec| spec.security_context.as_ref());
    let policy = context.and_then(|context| context.supplemental_groups_policy.as_deref());
    if policy != Some("Strict") || facts.abilities.supplemental_groups_policy() {
        return Ok(());
    }
    Err(Rejection {
        reason: "SupplementalGroupsPolicyNotSupported",
        message: "SupplementalGroupsPolicy=Strict is not supported in this node".to_owned(),
    })
}

/// A profile that the kernel cannot enforce keeps a pod from starting; one that runs already is left alone.
fn check_app_armor(facts: &NodeFacts, pod: &Pod, pending: bool) -> Result<(), Rejection> {
    let Some(spec) = spec::spec(pod).filter(|_| pending) else {
        return Ok(());
    };
    let of_pod = spec
        .security_context
        .as_ref()
        .and_then(|context| context.app_armor_profile.as_ref());
    let of_containers = spec::all_containers(pod).filter_map(|container| {
        let context = container.security_context.as_ref()?;
        context.app_armor_profile.as_ref()
    });
    let profiles: Vec<&AppArmorProfile> = of_pod.into_iter().chain(of_containers).collect();
    let refused = |why: &str| {
        Err(Rejection {
            reason: "AppArmor",
            message: format!("Cannot enforce AppArmor: {why}"),
        })
    };
    if !profiles.iter().any(|profile| profile.type_ != "Unconfined") {
        return Ok(());
    }
    if !facts.app_armor {
        return refused("AppArmor is not enabled on the host");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::spec::testing::{facts, pod};
    use super::*;
    use crate::runtime::Known;

    fn verdict(facts: &NodeFacts, spec: &str) -> Result<(), String> {
        admit(facts, &pod(spec), true, std::iter::empty()).map_err(|rejection| rejection.message)
    }

    #[test]
    fn strict_groups_need_a_runtime_that_knows_them() {
        let facts = facts();
        let strict = r#"{"securityContext":{"supplementalGroupsPolicy":"Strict"}}"#;
        assert_eq!(
            verdict(&facts, strict).unwrap_err(),
            "SupplementalGroupsPolicy=Strict is not supported in this node"
        );
        let merge = r#"{"securityContext":{"supplementalGroupsPolicy":"Merge"}}"#;
        assert_eq!(verdict(&facts, merge), Ok(()));
        assert_eq!(
            admit(&facts, &pod(strict), false, std::iter::empty()),
            Ok(()),
            "it runs"
        );
        facts.abilities.learn(Known {
            supplemental_groups_policy: true,
            ..Known::default()
        });
        assert_eq!(verdict(&facts, strict), Ok(()));
    }

    #[test]
    fn an_apparmor_profile_needs_a_kernel_that_enforces_it_before_the_pod_starts() {
        let mut facts = facts();
        let of_pod = r#"{"securityContext":{"appArmorProfile":{"type":"RuntimeDefault"}}}"#;
        let of_container = r#"{"containers":[{"name":"c","securityContext":{"appArmorProfile":{"type":"Localhost","localhostProfile":"p"}}}]}"#;
        let unconfined = r#"{"securityContext":{"appArmorProfile":{"type":"Unconfined"}}}"#;
        for spec in [of_pod, of_container] {
            assert_eq!(
                verdict(&facts, spec).unwrap_err(),
                "Cannot enforce AppArmor: AppArmor is not enabled on the host"
            );
            assert_eq!(admit(&facts, &pod(spec), false, std::iter::empty()), Ok(()));
        }
        assert_eq!(verdict(&facts, unconfined), Ok(()));
        facts.app_armor = true;
        assert_eq!(verdict(&facts, of_pod), Ok(()));
    }
}
