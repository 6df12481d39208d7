//! Which labels and taints a node may set of itself: what edgecore takes from its configuration, and cloudcore from a
//! node. As Kubernetes' `NodeRestriction` has it. Pure.

/// Labels in Kubernetes' own domains that a node may set.
const OWN: [&str; 9] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// Domains of labels that are the node's own.
const OWN_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
/// The domains that are not, with what is below them.
const KUBERNETES: [&str; 2] = ["kubernetes.io", "k8s.io"];
/// Domains of taints that controllers read as facts about a node.
const CLUSTER_TAINTS: [&str; 3] = [
    "node.kubernetes.io",
    "node-restriction.kubernetes.io",
    "node.cloudprovider.kubernetes.io",
];

/// Whether a node may set a label of itself.
pub fn may_set_label(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else {
        return true;
    };
    let below = |domains: &[&str]| domains.iter().any(|of| is_below(domain, of));
    !below(&KUBERNETES) || OWN.contains(&key) || below(&OWN_DOMAINS)
}

/// Whether a node may set a taint of itself: not those that controllers read as facts.
pub fn may_set_taint(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    !CLUSTER_TAINTS.contains(&domain)
}

fn is_below(domain: &str, of: &str) -> bool {
    domain
        .strip_suffix(of)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_sets_what_is_its_own_and_what_is_nobodys() {
        for own in [
            "rack",
            "example.com/rack",
            "notkubernetes.io/rack",
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
            "node.kubernetes.io/exclude-from-external-load-balancers",
            "sub.node.kubernetes.io/x",
            "kubelet.kubernetes.io/x",
        ] {
            assert!(may_set_label(own), "{own}");
        }
        for other in [
            "kubernetes.io/x",
            "k8s.io/x",
            "node-restriction.kubernetes.io/tier",
            "node-role.kubernetes.io/edge",
            "sub.k8s.io/x",
        ] {
            assert!(!may_set_label(other), "{other}");
        }
    }

    #[test]
    fn a_node_does_not_set_the_taints_that_controllers_set() {
        assert!(may_set_taint("dedicated") && may_set_taint("node-role.kubernetes.io/edge"));
        assert!(!may_set_taint("node.kubernetes.io/unreachable"));
        assert!(!may_set_taint("node-restriction.kubernetes.io/x"));
    }
}
