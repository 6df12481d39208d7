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

use super::eviction;
use super::resources::{self, Qos};
use super::spec::{self, NodeFacts};

const MEMORY_PRESSURE: &str = "MemoryPressure";
/// The taint that the cluster sets for it.
const MEMORY_TAINT: &str = "node.kubernetes.io/memory-pressure";

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

/// Judges a pod that is new on a node under these pressures. One that ran before is not asked: it would be lost
/// with a reboot, and perhaps nobody is there to send another.
pub fn admit_new(pod: &Pod, pressures: &[&str]) -> Result<(), Rejection> {
    let only_memory = pressures == [MEMORY_PRESSURE];
    let may_stay = || only_memory && (resources::qos(pod) != Qos::BestEffort || tolerates(pod, MEMORY_TAINT));
    if pressures.is_empty() || eviction::is_critical(pod) || may_stay() {
        return Ok(());
    }
    Err(Rejection {
        reason: eviction::REASON,
        message: eviction::admission_words(pressures),
    })
}

fn tolerates(pod: &Pod, taint: &str) -> bool {
    let tolerations = spec::spec(pod).and_then(|spec| spec.tolerations.as_deref());
    tolerations.unwrap_or_default().iter().any(|toleration| {
        let said = |word: &Option<String>| word.clone().unwrap_or_default();
        let (key, effect) = (said(&toleration.key), said(&toleration.effect));
        let exists = said(&toleration.operator) == "Exists";
        let same_key = key == taint || (key.is_empty() && exists);
        let same_effect = effect.is_empty() || effect == "NoSchedule";
        same_key && same_effect && (exists || said(&toleration.value).is_empty())
    })
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
    fn under_memory_pressure_only_what_asks_for_nothing_is_refused() {
        let (memory, disk) = (["MemoryPressure"], ["DiskPressure"]);
        let refused = |spec: &str, pressures: &[&str]| {
            let verdict = admit_new(&pod(spec), pressures);
            verdict
                .err()
                .map(|rejection| (rejection.reason, rejection.message))
        };
        let best_effort = r#"{"containers":[{"name":"c"}]}"#;
        let burstable = r#"{"containers":[{"name":"c","resources":{"requests":{"memory":"1Mi"}}}]}"#;
        let tolerant = r#"{"containers":[{"name":"c"}],
            "tolerations":[{"key":"node.kubernetes.io/memory-pressure","operator":"Exists","effect":"NoSchedule"}]}"#;
        let critical = r#"{"containers":[{"name":"c"}],"priority":2000000000}"#;
        assert_eq!(refused(best_effort, &[]), None);
        assert_eq!(
            refused(best_effort, &memory),
            Some(("Evicted", "The node had condition: [MemoryPressure]. ".to_owned()))
        );
        for spared in [burstable, tolerant, critical] {
            assert_eq!(refused(spared, &memory), None, "{spared}");
        }
        for refused_too in [best_effort, burstable, tolerant] {
            assert!(refused(refused_too, &disk).is_some(), "{refused_too}");
        }
        assert_eq!(refused(critical, &disk), None);
        assert_eq!(
            refused(burstable, &["MemoryPressure", "DiskPressure"]).unwrap().1,
            "The node had condition: [MemoryPressure DiskPressure]. "
        );
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
