//! Payloads of every source, and what is said of what is missing.

use super::super::super::spec::testing::{FakeObjects, facts, pod};
use super::*;

fn objects() -> FakeObjects {
    let objects = FakeObjects::default().config_map("ns", "settings", &[("a", "1"), ("b", "2")]);
    objects.secret("ns", "keys", &[("k", b"\xff\x00")]).config_map(
        "ns",
        "kube-root-ca.crt",
        &[("ca.crt", "CA")],
    )
}

fn volume_of(json: &str) -> Result<Payload, String> {
    volume_in(&pod(r#"{"serviceAccountName":"sa"}"#), json)
}

fn volume_in(pod: &Pod, json: &str) -> Result<Payload, String> {
    let volume: Volume = serde_json::from_str(&format!(r#"{{"name":"v",{json}}}"#)).unwrap();
    let tokens = token_requests(pod, &volume)
        .into_iter()
        .map(|request| (request, "jwt".to_owned()))
        .collect();
    let objects = objects().unknown("later");
    let sources = Sources {
        objects: &objects,
        pod,
        allocatable: &facts().allocatable,
        tokens: &tokens,
    };
    payload(&sources, &volume).map(Option::unwrap_or_default)
}

fn text(payload: &Payload, path: &str) -> (String, u32) {
    let file = &payload[path];
    (String::from_utf8_lossy(&file.bytes).into_owned(), file.mode)
}

#[test]
fn keys_items_and_modes_are_honoured() {
    let all = volume_of(r#""configMap":{"name":"settings","defaultMode":256}"#).unwrap();
    assert_eq!(text(&all, "a"), ("1".to_owned(), 0o400));
    assert_eq!(all.len(), 2);
    let items = r#""configMap":{"name":"settings","items":[{"key":"a","path":"d/x","mode":384},{"key":"b","path":"y"}]}"#;
    let some = volume_of(items).unwrap();
    assert_eq!(text(&some, "d/x"), ("1".to_owned(), 0o600));
    assert_eq!(text(&some, "y"), ("2".to_owned(), 0o644));
    let secret = volume_of(r#""secret":{"secretName":"keys"}"#).unwrap();
    assert_eq!(secret["k"].bytes, b"\xff\x00");
}

#[test]
fn what_is_missing_is_told_in_the_kubelets_words_unless_it_is_optional() {
    let error = |json: &str| volume_of(json).unwrap_err();
    assert_eq!(
        error(r#""configMap":{"name":"none"}"#),
        r#"configmap "none" not found"#
    );
    assert_eq!(
        error(r#""secret":{"secretName":"none"}"#),
        r#"secret "none" not found"#
    );
    let key = r#""configMap":{"name":"settings","items":[{"key":"z","path":"z"}]}"#;
    assert_eq!(error(key), "configmap references non-existent config key: z");
    let key = r#""secret":{"secretName":"keys","items":[{"key":"z","path":"z"}]}"#;
    assert_eq!(error(key), "references non-existent secret key: z");
    assert!(error(r#""configMap":{"name":"later","optional":true}"#).contains("has not arrived"));
    let optional = r#""configMap":{"name":"none","optional":true,"items":[{"key":"z","path":"z"}]}"#;
    assert_eq!(volume_of(optional).unwrap(), Payload::new());
}

#[test]
fn the_default_token_volume_holds_token_ca_and_namespace() {
    let json = r#""projected":{"defaultMode":420,"sources":[
        {"serviceAccountToken":{"expirationSeconds":3607,"path":"token"}},
        {"configMap":{"name":"kube-root-ca.crt","items":[{"key":"ca.crt","path":"ca.crt"}]}},
        {"downwardAPI":{"items":[{"path":"namespace","fieldRef":{"apiVersion":"v1","fieldPath":"metadata.namespace"}}]}}]}"#;
    let files = volume_of(json).unwrap();
    assert_eq!(text(&files, "token"), ("jwt".to_owned(), 0o644));
    assert_eq!(text(&files, "ca.crt"), ("CA".to_owned(), 0o644));
    assert_eq!(text(&files, "namespace"), ("ns".to_owned(), 0o644));
    let grouped = volume_in(&pod(r#"{"securityContext":{"fsGroup":2000}}"#), json).unwrap();
    assert_eq!(grouped["token"].mode, 0o600);
}

#[test]
fn a_token_belongs_to_the_user_that_all_containers_run_as() {
    let json = r#""projected":{"sources":[{"serviceAccountToken":{"path":"token"}}]}"#;
    let token = |spec: &str| volume_in(&pod(spec), json).unwrap()["token"].clone();
    let same = token(
        r#"{"securityContext":{"runAsUser":5},"containers":[{"name":"a"},{"name":"b","securityContext":{"runAsUser":5}}]}"#,
    );
    assert_eq!((same.uid, same.mode), (Some(5), 0o600));
    let other = token(r#"{"containers":[{"name":"a","securityContext":{"runAsUser":5}},{"name":"b"}]}"#);
    assert_eq!((other.uid, other.mode), (None, 0o644));
}

#[test]
fn what_a_token_is_asked_for_is_the_pod_and_its_account() {
    let pod = pod(r#"{"serviceAccountName":"sa"}"#);
    let json =
        r#"{"name":"v","projected":{"sources":[{"serviceAccountToken":{"audience":"vault","path":"t"}}]}}"#;
    let requests = token_requests(&pod, &serde_json::from_str(json).unwrap());
    let expected = TokenRequest {
        namespace: "ns".to_owned(),
        service_account: "sa".to_owned(),
        audiences: vec!["vault".to_owned()],
        expiration_seconds: 3600,
        pod_name: "web-0".to_owned(),
        pod_uid: "u-1".to_owned(),
    };
    assert_eq!(requests, [expected]);
}

#[test]
fn a_containers_resources_are_told_by_downward_api_and_projected_volumes() {
    let item = r#"{"items":[{"path":"cpu","mode":256,"resourceFieldRef":{"containerName":"c","resource":"limits.cpu","divisor":"1m"}}]}"#;
    let pod = pod(r#"{"containers":[{"name":"c","resources":{"limits":{"cpu":"250m"}}}]}"#);
    for json in [
        format!(r#""downwardAPI":{item}"#),
        format!(r#""projected":{{"sources":[{{"downwardAPI":{item}}}]}}"#),
    ] {
        assert_eq!(
            text(&volume_in(&pod, &json).unwrap(), "cpu"),
            ("250".to_owned(), 0o400)
        );
    }
    let other = r#""downwardAPI":{"items":[{"path":"cpu","resourceFieldRef":{"containerName":"x","resource":"limits.cpu"}}]}"#;
    assert_eq!(volume_in(&pod, other).unwrap_err(), "container x not found");
}

#[test]
fn later_projections_win_and_pod_metadata_is_told() {
    let json = r#""projected":{"sources":[{"configMap":{"name":"settings"}},
        {"secret":{"name":"keys","items":[{"key":"k","path":"a"}]}},
        {"downwardAPI":{"items":[{"path":"labels","mode":256,"fieldRef":{"fieldPath":"metadata.labels"}}]}}]}"#;
    let files = volume_of(json).unwrap();
    assert_eq!(files["a"].bytes, b"\xff\x00");
    assert_eq!(text(&files, "labels"), ("app=\"web\"".to_owned(), 0o400));
}
