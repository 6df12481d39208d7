//! Environments, held against what the kubelet makes of the same pods.

use super::super::spec::testing::{FakeObjects, container, facts, pod};
use super::*;

fn objects() -> FakeObjects {
    FakeObjects::default()
        .config_map("ns", "settings", &[("mode", "fast"), ("level", "3")])
        .secret("ns", "keys", &[("token", b"t0p")])
        .service("default", "kubernetes", "10.96.0.1", &[("https", 443)])
        .service("ns", "my-db", "10.96.0.9", &[("sql", 5432)])
        .service("ns", "headless", "None", &[("x", 1)])
}

fn environment(container_json: &str) -> Result<Environment, EnvError> {
    let pod = pod(r#"{"nodeName":"edge-1","serviceAccountName":"sa"}"#);
    environment_of(&pod, container_json)
}

fn environment_of(pod: &Pod, container_json: &str) -> Result<Environment, EnvError> {
    let pod_ips = ["10.86.0.7".to_owned(), "fd00::7".to_owned()];
    let (facts, objects, container) = (facts(), objects(), container(container_json));
    let input = EnvInput {
        facts: &facts,
        objects: &objects,
        pod,
        container: &container,
        pod_ips: &pod_ips,
    };
    build(&input, &mut Room::default())
}

#[test]
fn references_expand_to_what_is_declared_before_and_to_services() {
    let env = environment(
        r#"{"name":"c","env":[{"name":"A","value":"1"},{"name":"B","value":"$(A)-$(C)-$$(A)"},{"name":"C","value":"x"},
            {"name":"D","value":"$(MY_DB_SERVICE_HOST) $(mode)"}],
            "envFrom":[{"configMapRef":{"name":"settings"}}]}"#,
    )
    .unwrap();
    assert_eq!(env.value("B"), Some("1-$(C)-$(A)"));
    assert_eq!(env.value("D"), Some("10.96.0.9 fast"));
    let names: Vec<_> = env
        .key_values()
        .into_iter()
        .map(|pair| pair.key)
        .take(6)
        .collect();
    assert_eq!(names, ["A", "B", "C", "D", "level", "mode"]);
}

/// The error of a container whose variables are these.
fn too_long(env: &serde_json::Value) -> String {
    let container = serde_json::json!({"name": "c", "env": env}).to_string();
    let error = environment(&container).unwrap_err();
    assert!(matches!(error, EnvError::TooLong(_)), "{error}");
    error.to_string()
}

#[test]
fn variables_that_multiply_each_other_are_refused_before_they_fill_the_memory() {
    let env = serde_json::json!([
        {"name": "A", "value": "x".repeat(64 << 10)},
        {"name": "B", "value": "$(A)".repeat(20)},
        {"name": "C", "value": "$(B)".repeat(200)},
    ]);
    assert_eq!(
        too_long(&env),
        "$(B) in variable \"C\" makes environment, command and arguments longer than 2 MiB together"
    );
}

#[test]
fn an_object_that_is_named_again_and_again_counts_each_time() {
    let large = "x".repeat(1 << 20);
    let objects = objects().config_map("ns", "large", &[("k", &large)]);
    let facts = facts();
    let told = |container_json: &serde_json::Value| {
        let input = EnvInput {
            facts: &facts,
            objects: &objects,
            pod: &pod("{}"),
            container: &container(&container_json.to_string()),
            pod_ips: &[],
        };
        build(&input, &mut Room::default()).unwrap_err().to_string()
    };
    let key = |n: u32| {
        let key = serde_json::json!({"name": "large", "key": "k"});
        serde_json::json!({"name": format!("V{n}"), "valueFrom": {"configMapKeyRef": key}})
    };
    let env: Vec<_> = (1..=3).map(key).collect();
    let error = told(&serde_json::json!({"name": "c", "env": env}));
    assert!(error.starts_with("variable \"V2\" "), "{error}");
    let from = |n: u32| serde_json::json!({"prefix": format!("P{n}_"), "configMapRef": {"name": "large"}});
    let env_from: Vec<_> = (1..=3).map(from).collect();
    let error = told(&serde_json::json!({"name": "c", "envFrom": env_from}));
    assert!(error.starts_with("variable \"P2_k\" "), "{error}");
}

#[test]
fn the_containers_own_word_wins_over_env_from_and_services() {
    let env = environment(
        r#"{"name":"c","env":[{"name":"mode","value":"mine"},{"name":"KUBERNETES_SERVICE_HOST","value":"h"}],
            "envFrom":[{"configMapRef":{"name":"settings"}},{"prefix":"K_","secretRef":{"name":"keys"}}]}"#,
    )
    .unwrap();
    assert_eq!(env.value("mode"), Some("mine"));
    assert_eq!(env.value("level"), Some("3"));
    assert_eq!(env.value("K_token"), Some("t0p"));
    assert_eq!(env.value("KUBERNETES_SERVICE_HOST"), Some("h"));
}

#[test]
fn fields_of_the_pod_and_the_node_are_told() {
    let env = environment(
        r#"{"name":"c","env":[
            {"name":"NAME","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}},
            {"name":"NS","valueFrom":{"fieldRef":{"fieldPath":"metadata.namespace"}}},
            {"name":"LABEL","valueFrom":{"fieldRef":{"fieldPath":"metadata.labels['app']"}}},
            {"name":"NONE","valueFrom":{"fieldRef":{"fieldPath":"metadata.annotations['none']"}}},
            {"name":"NODE","valueFrom":{"fieldRef":{"fieldPath":"spec.nodeName"}}},
            {"name":"SA","valueFrom":{"fieldRef":{"fieldPath":"spec.serviceAccountName"}}},
            {"name":"IP","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}},
            {"name":"IPS","valueFrom":{"fieldRef":{"fieldPath":"status.podIPs"}}},
            {"name":"HOST","valueFrom":{"fieldRef":{"fieldPath":"status.hostIP"}}}]}"#,
    )
    .unwrap();
    let expected = [
        ("NAME", "web-0"),
        ("NS", "ns"),
        ("LABEL", "web"),
        ("NONE", ""),
        ("NODE", "edge-1"),
        ("SA", "sa"),
        ("IP", "10.86.0.7"),
        ("IPS", "10.86.0.7,fd00::7"),
        ("HOST", "192.168.7.2"),
    ];
    for (name, value) in expected {
        assert_eq!(env.value(name), Some(value), "{name}");
    }
}

#[test]
fn a_container_is_told_what_it_may_use() {
    let env = environment(
        r#"{"name":"c","resources":{"requests":{"memory":"3Mi"}},"env":[
            {"name":"ASKED","valueFrom":{"resourceFieldRef":{"resource":"requests.memory","divisor":"1Ki"}}},
            {"name":"MOST","valueFrom":{"resourceFieldRef":{"resource":"limits.cpu","divisor":"0"}}}]}"#,
    )
    .unwrap();
    assert_eq!(env.value("ASKED"), Some("3072"));
    assert_eq!(env.value("MOST"), Some("4"));
    let other = environment(
        r#"{"name":"c","env":[{"name":"X","valueFrom":{"resourceFieldRef":{"containerName":"x","resource":"limits.cpu"}}}]}"#,
    );
    assert_eq!(other.unwrap_err().to_string(), "container x not found");
}

#[test]
fn service_links_have_the_kubelets_names() {
    let env = environment(r#"{"name":"c"}"#).unwrap();
    let expected = [
        ("MY_DB_SERVICE_HOST", "10.96.0.9"),
        ("MY_DB_SERVICE_PORT", "5432"),
        ("MY_DB_SERVICE_PORT_SQL", "5432"),
        ("MY_DB_PORT", "tcp://10.96.0.9:5432"),
        ("MY_DB_PORT_5432_TCP", "tcp://10.96.0.9:5432"),
        ("MY_DB_PORT_5432_TCP_PROTO", "tcp"),
        ("MY_DB_PORT_5432_TCP_PORT", "5432"),
        ("MY_DB_PORT_5432_TCP_ADDR", "10.96.0.9"),
        ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
    ];
    for (name, value) in expected {
        assert_eq!(env.value(name), Some(value), "{name}");
    }
    assert_eq!(env.value("HEADLESS_SERVICE_HOST"), None);
}

#[test]
fn without_service_links_only_the_api_server_is_named() {
    let env = environment_of(&pod(r#"{"enableServiceLinks":false}"#), r#"{"name":"c"}"#).unwrap();
    assert_eq!(env.value("KUBERNETES_SERVICE_HOST"), Some("10.96.0.1"));
    assert_eq!(env.value("MY_DB_SERVICE_HOST"), None);
}

#[test]
fn what_is_missing_and_not_optional_is_an_error_in_the_kubelets_words() {
    let one = |source: &str| {
        environment(&format!(
            r#"{{"name":"c","env":[{{"name":"X","valueFrom":{source}}}]}}"#
        ))
    };
    let message = |source: &str| one(source).unwrap_err().to_string();
    assert_eq!(
        message(r#"{"configMapKeyRef":{"name":"none","key":"k"}}"#),
        r#"configmap "none" not found"#
    );
    assert_eq!(
        message(r#"{"secretKeyRef":{"name":"none","key":"k"}}"#),
        r#"secret "none" not found"#
    );
    assert_eq!(
        message(r#"{"configMapKeyRef":{"name":"settings","key":"k"}}"#),
        "couldn't find key k in ConfigMap ns/settings"
    );
    assert_eq!(
        message(r#"{"secretKeyRef":{"name":"keys","key":"k"}}"#),
        "couldn't find key k in Secret ns/keys"
    );
    assert_eq!(
        message(r#"{"fieldRef":{"fieldPath":"spec.x"}}"#),
        "unsupported fieldPath: spec.x"
    );
    let optional = one(r#"{"configMapKeyRef":{"name":"none","key":"k","optional":true}}"#).unwrap();
    assert_eq!(optional.value("X"), None);
}

#[test]
fn an_optional_reference_still_waits_for_an_object_that_nobody_has_spoken_of() {
    let pod = pod("{}");
    let (facts, objects) = (facts(), objects().unknown("later"));
    let container =
        container(r#"{"name":"c","envFrom":[{"configMapRef":{"name":"later","optional":true}}]}"#);
    let input = EnvInput {
        facts: &facts,
        objects: &objects,
        pod: &pod,
        container: &container,
        pod_ips: &[],
    };
    assert!(matches!(
        build(&input, &mut Room::default()),
        Err(EnvError::NotHere { .. })
    ));
}

#[test]
fn maps_of_metadata_are_quoted_lines() {
    let mut pod = pod("{}");
    pod.metadata.annotations = Some(
        [
            ("b".to_owned(), "x\n\"y\"".to_owned()),
            ("a".to_owned(), "é\\".to_owned()),
        ]
        .into(),
    );
    assert_eq!(
        metadata_field(&pod, "metadata.annotations").unwrap(),
        "a=\"é\\\\\"\nb=\"x\\n\\\"y\\\"\""
    );
}
