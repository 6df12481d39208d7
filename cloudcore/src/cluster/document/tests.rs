//! What a node may say of itself, and what becomes of it.

use super::*;

fn node() -> NodeName {
    "e1".parse().unwrap()
}

fn document(metadata: &Value, spec: &Value) -> Result<NodeDocument, DocumentError> {
    let status = json!({"conditions": [{"type": "Ready", "status": "True"}], "capacity": {"cpu": "2"},
        "allocatable": {"cpu": "2"}, "nodeInfo": {}, "addresses": [{"type": "InternalIP", "address": "6.6.6.6"}]});
    let text = json!({"metadata": metadata, "spec": spec, "status": status}).to_string();
    NodeDocument::parse(&node(), text.as_bytes())
}

#[test]
fn a_registration_carries_what_only_cloudcore_may_say() {
    let made = document(&json!({"labels": {"tombolo.dev/site": "pier"}}), &json!({})).unwrap();
    let made = made.registration(&node(), Some(&json!([])));
    let labels = &made["metadata"]["labels"];
    for label in [labels::OURS, labels::ROLE, labels::NO_LOAD_BALANCER] {
        assert_eq!(labels[label], "", "{label}");
    }
    assert_eq!(labels[labels::AUTONOMY], "true");
    assert_eq!(
        (&labels[labels::ZONE], &labels[labels::REGION]),
        (&json!("e1"), &json!("edge"))
    );
    assert_eq!(labels["tombolo.dev/site"], "pier");
    assert_eq!(made["spec"]["taints"][0]["key"], labels::ROLE);
    assert_eq!(
        made["status"]["addresses"],
        json!([]),
        "addresses are cloudcore's"
    );
}

#[test]
fn an_empty_list_of_taints_means_none() {
    let made = document(&json!({}), &json!({"taints": []}))
        .unwrap()
        .registration(&node(), Some(&json!([])));
    assert_eq!(made["spec"]["taints"], json!([]));
}

#[test]
fn what_a_node_may_not_say_of_itself_is_refused_by_name() {
    for label in [
        labels::OURS,
        labels::ROLE,
        "node-restriction.kubernetes.io/anything",
        "kubernetes.io/cluster-service",
        "sub.k8s.io/x",
    ] {
        let refused = document(&json!({"labels": {label: ""}}), &json!({})).unwrap_err();
        assert!(refused.to_string().contains(label), "{refused}");
    }
    for label in [
        "kubernetes.io/arch",
        "node.kubernetes.io/gpu",
        "x.kubelet.kubernetes.io/y",
        "notkubernetes.io/z",
        "plain",
    ] {
        assert!(
            document(&json!({"labels": {label: ""}}), &json!({})).is_ok(),
            "{label}"
        );
    }
}

#[test]
fn fields_that_others_assign_are_refused() {
    for field in ["ownerReferences", "finalizers"] {
        assert!(
            matches!(
                document(&json!({field: []}), &json!({})),
                Err(DocumentError::Malformed(_))
            ),
            "{field}"
        );
    }
    for field in ["podCIDR", "podCIDRs", "providerID", "configSource"] {
        assert!(
            matches!(
                document(&json!({}), &json!({field: "x"})),
                Err(DocumentError::Malformed(_))
            ),
            "{field}"
        );
    }
    let taint = json!({"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]});
    assert!(matches!(
        document(&json!({}), &taint),
        Err(DocumentError::Taint(_))
    ));
    assert!(matches!(
        document(&json!({"name": "w1"}), &json!({})),
        Err(DocumentError::OtherName(_))
    ));
}

#[test]
fn a_status_patch_keeps_foreign_conditions_and_drops_what_is_gone() {
    let current = json!({"metadata": {"uid": "u", "resourceVersion": "9"}, "status": {
        "conditions": [{"type": "Ready", "status": "Unknown"}, {"type": "NetworkUnavailable", "status": "False"}],
        "capacity": {"cpu": "2", "example.com/gpu": "1"}, "addresses": []}});
    let patch = document(&json!({}), &json!({}))
        .unwrap()
        .status_patch(&current, Some(&json!([])));
    assert_eq!(patch["metadata"], json!({"uid": "u", "resourceVersion": "9"}));
    assert_eq!(
        patch["status"]["conditions"],
        json!([{"type": "Ready", "status": "True"}, {"type": "NetworkUnavailable", "status": "False"}])
    );
    assert_eq!(
        patch["status"]["capacity"],
        json!({"cpu": "2", "example.com/gpu": null})
    );
    assert!(patch["status"].get("addresses").is_none(), "unchanged");
}

#[test]
fn a_pod_status_patch_is_whole_and_touches_nothing_of_others() {
    let current = json!({"metadata": {"uid": "u", "resourceVersion": "9"}, "status": {"conditions": [
        {"type": "example.com/gate", "status": "True"}, {"type": "Ready", "status": "False"},
        {"type": "PodResizePending", "status": "True"}]}});
    let reported = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
        "resourceClaimStatuses": [], "nominatedNodeName": "w1"});
    let patch = pod_status_patch(&current, reported.as_object().unwrap());
    let kinds: Vec<_> = patch["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["Ready", "example.com/gate"]);
    assert_eq!(
        patch["status"]["reason"],
        Value::Null,
        "a reason that is over is removed"
    );
    assert!(patch["status"].get("resourceClaimStatuses").is_none());
    assert!(patch["status"].get("nominatedNodeName").is_none());
}

#[test]
fn a_node_made_again_keeps_its_marks_and_nothing_that_was_assigned() {
    let deleted = json!({"metadata": {"name": "e1", "uid": "u", "labels": {labels::OURS: ""}, "annotations": {"a": "b"},
            "ownerReferences": [{}], "finalizers": ["x"], "resourceVersion": "3", "deletionTimestamp": "now"},
        "spec": {"podCIDR": "10.0.0.0/24", "unschedulable": true, "taints": [
            {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}, {"key": "edge", "effect": "NoSchedule"}]},
        "status": {"capacity": {"cpu": "2"}}});
    let made = reborn(&deleted);
    assert_eq!(
        made["metadata"],
        json!({"name": "e1", "labels": {labels::OURS: ""}, "annotations": {"a": "b"}})
    );
    assert_eq!(
        made["spec"],
        json!({"taints": [{"key": "edge", "effect": "NoSchedule"}], "unschedulable": true})
    );
    assert_eq!(made["status"]["capacity"]["cpu"], "2");
}
