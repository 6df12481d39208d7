//! What of a spec passes, and what is refused by its path.

use super::*;
use serde_json::json;

fn refused(spec: &Value) -> Vec<String> {
    check(&json!({ "spec": spec }))
        .err()
        .map(|unsupported| unsupported.paths)
        .unwrap_or_default()
}

fn refused_in_container(fields: &Value) -> Vec<String> {
    refused(&json!({ "containers": [fields] }))
}

/// What the API server makes of a bare busybox pod.
fn defaulted() -> Value {
    json!({
        "volumes": [{"name": "kube-api-access-x", "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]}}],
        "containers": [{"name": "c", "image": "busybox", "resources": {}, "imagePullPolicy": "Always",
            "volumeMounts": [{"name": "kube-api-access-x", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "securityContext": {"capabilities": {}},
            "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"},
                {"resourceName": "memory", "restartPolicy": "RestartContainer"}]}],
        "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
        "serviceAccountName": "default", "serviceAccount": "default", "nodeName": "edge-1",
        "securityContext": {}, "schedulerName": "default-scheduler", "priority": 0,
        "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
        "enableServiceLinks": true, "preemptionPolicy": "PreemptLowerPriority",
        "affinity": {"nodeAffinity": {"anything": [1, {"deep": true}]}}
    })
}

#[test]
fn what_the_api_server_defaults_passes() {
    assert_eq!(refused(&defaulted()), Vec::<String>::new());
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table reads best in one piece")]
fn every_feature_that_is_not_honoured_is_refused_by_its_path() {
    for (field, value, path) in [
        (
            "lifecycle",
            json!({"stopSignal": "SIGUSR1", "preStop": {"exec": {"command": ["x"]}}}),
            "lifecycle.stopSignal",
        ),
        (
            "restartPolicyRules",
            json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [1]}}]),
            "restartPolicyRules[0].action (RestartAllContainers)",
        ),
        ("volumeDevices", json!([{"name": "x"}]), "volumeDevices"),
        (
            "env",
            json!([{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.gpu"}}}]),
            "env[0].valueFrom.resourceFieldRef.resource (limits.gpu)",
        ),
        (
            "livenessProbe",
            json!({"udpSocket": {"port": 1}}),
            "livenessProbe.udpSocket",
        ),
        (
            "resources",
            json!({"limits": {"hugepages-2Mi": "2Mi", "example.org/gpu": "1"}}),
            "resources.limits.example.org/gpu",
        ),
        (
            "resources",
            json!({"claims": [{"name": "x"}]}),
            "resources.claims",
        ),
        (
            "securityContext",
            json!({"windowsOptions": {}}),
            "securityContext.windowsOptions",
        ),
    ] {
        let fields: serde_json::Map<_, _> = [(field.to_owned(), value)].into_iter().collect();
        let expected = vec![format!("spec.containers[0].{path}")];
        assert_eq!(refused_in_container(&Value::Object(fields)), expected);
    }
    for (field, value, path) in [
        (
            "overhead",
            json!({"example.org/x": "1"}),
            "overhead.example.org/x",
        ),
        ("resourceClaims", json!([{}]), "resourceClaims"),
        ("hostnameOverride", json!("x"), "hostnameOverride"),
        (
            "volumes",
            json!([{"name": "a", "persistentVolumeClaim": {"claimName": "x"}}]),
            "volumes[0].persistentVolumeClaim",
        ),
        (
            "volumes",
            json!([{"name": "a", "emptyDir": {"medium": "HugePages"}}]),
            "volumes[0].emptyDir.medium (HugePages)",
        ),
        (
            "securityContext",
            json!({"windowsOptions": {}}),
            "securityContext.windowsOptions",
        ),
        ("somethingNew", json!({}), "somethingNew"),
    ] {
        let fields: serde_json::Map<_, _> = [(field.to_owned(), value)].into_iter().collect();
        assert_eq!(refused(&Value::Object(fields)), vec![format!("spec.{path}")]);
    }
}

#[test]
fn hooks_are_honoured_whatever_they_do() {
    let post_start = json!({"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}});
    for pre_stop in [
        json!({"sleep": {"seconds": 0}}),
        json!({"tcpSocket": {"port": 80}}),
    ] {
        let lifecycle = json!({"postStart": post_start, "preStop": pre_stop});
        assert_eq!(
            refused_in_container(&json!({ "lifecycle": lifecycle })),
            Vec::<String>::new()
        );
    }
}

#[test]
fn sidecars_and_restart_rules_are_honoured() {
    let sidecar = json!({"name": "s", "restartPolicy": "Always", "startupProbe": {"exec": {"command": ["x"]}},
        "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}});
    let rules = json!([{"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [0]}}]);
    let main = json!({"name": "m", "restartPolicy": "Never", "restartPolicyRules": rules});
    assert_eq!(
        refused(&json!({"initContainers": [sidecar], "containers": [main]})),
        Vec::<String>::new()
    );
}

#[test]
fn volumes_and_what_containers_write_may_be_limited() {
    let volumes = json!([{"name": "a", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "b", "emptyDir": {"sizeLimit": "1Mi"}}]);
    assert_eq!(refused(&json!({ "volumes": volumes })), Vec::<String>::new());
    let resources = json!({"limits": {"ephemeral-storage": "1Mi"}});
    assert_eq!(
        refused_in_container(&json!({ "resources": resources })),
        Vec::<String>::new()
    );
}

#[test]
fn what_says_nothing_is_not_refused() {
    assert_eq!(
        refused(&json!({"imagePullSecrets": [], "runtimeClassName": null, "hostnameOverride": ""})),
        Vec::<String>::new()
    );
}

#[test]
fn a_long_list_is_told_in_part() {
    let containers: Vec<_> = (0..40).map(|_| json!({"volumeDevices": [{}]})).collect();
    let error = check(&json!({"spec": {"containers": containers}})).unwrap_err();
    assert_eq!(error.paths.len(), 40);
    assert!(error.to_string().ends_with("and 24 more"), "{error}");
}

#[test]
fn a_container_added_for_debugging_does_not_make_the_pod_refused() {
    let debug = json!({"name": "debugger-1", "image": "i", "stdin": true, "targetContainerName": "c"});
    assert_eq!(
        refused(&json!({"ephemeralContainers": [debug]})),
        Vec::<String>::new()
    );
}

#[test]
fn a_pod_that_wants_users_of_its_own_is_refused() {
    assert_eq!(refused(&json!({"hostUsers": false})), ["spec.hostUsers (false)"]);
    assert_eq!(refused(&json!({"hostUsers": true})), Vec::<String>::new());
}
