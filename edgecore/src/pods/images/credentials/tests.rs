//! Pull secrets as they are written, and the images that they count for.

use k8s_openapi::ByteString;
use serde_json::{Value, json};

use super::*;

fn secret(kind: &str, key: &str, json: &[u8]) -> Arc<Secret> {
    let mut secret = Secret {
        type_: Some(format!("kubernetes.io/{kind}")),
        data: Some([(key.to_owned(), ByteString(json.to_vec()))].into()),
        ..Secret::default()
    };
    secret.metadata.name = Some("pull".to_owned());
    Arc::new(secret)
}

fn config(auths: &Value) -> Arc<Secret> {
    let json = json!({ "auths": auths }).to_string();
    secret("dockerconfigjson", ".dockerconfigjson", json.as_bytes())
}

fn login(name: &str) -> Value {
    json!({"username": name, "password": "p"})
}

/// The users that are tried, in order.
fn tried(secrets: &[Arc<Secret>], image: &str) -> Vec<String> {
    let logins = Keyring::of(secrets).unwrap().logins(image);
    logins.into_iter().map(|login| login.auth.username).collect()
}

#[test]
fn both_types_of_secret_and_both_ways_to_write_a_login_are_read() {
    let auth = base64::engine::general_purpose::STANDARD.encode("robot:s3:cret");
    let unpadded = auth.trim_end_matches('=').to_owned();
    for auth in [auth, unpadded] {
        let logins = Keyring::of(&[config(&json!({"r.example.com": {"auth": auth}}))])
            .unwrap()
            .logins("r.example.com/a:1");
        assert_eq!(
            (logins[0].auth.username.as_str(), logins[0].auth.password.as_str()),
            ("robot", "s3:cret")
        );
    }
    let old = secret(
        "dockercfg",
        ".dockercfg",
        json!({"r.example.com": {"username": "old", "password": "p", "email": "e"}})
            .to_string()
            .as_bytes(),
    );
    assert_eq!(tried(&[old], "r.example.com/a"), ["old"]);
    let other = secret("tls", ".dockerconfigjson", b"{");
    let empty = secret("dockerconfigjson", ".dockerconfigjson", b"");
    assert!(tried(&[other, empty], "r.example.com/a").is_empty());
}

#[test]
fn the_longest_match_is_tried_first_and_several_secrets_in_turn() {
    let first = config(&json!({"r.example.com": login("host"), "r.example.com/team/app": login("app")}));
    let second =
        config(&json!({"https://r.example.com/v2/team": login("team"), "r.example.com": login("host2")}));
    let secrets = [first, second];
    assert_eq!(
        tried(&secrets, "r.example.com/team/app:1"),
        ["app", "team", "host", "host2"]
    );
    assert_eq!(
        tried(&secrets, "r.example.com/other@sha256:00"),
        ["host", "host2"]
    );
    assert!(tried(&secrets, "q.example.com/team/app").is_empty());
}

#[test]
fn a_host_may_have_wildcards_and_its_port_must_agree() {
    let secrets = [config(
        &json!({"*.example.com": login("any"), "r?.example.com:5000": login("port")}),
    )];
    assert_eq!(tried(&secrets, "r1.example.com/a"), ["any"]);
    assert_eq!(tried(&secrets, "r1.example.com:5000/a"), ["port"]);
    assert!(tried(&secrets, "a.b.example.com/a").is_empty());
    assert!(tried(&secrets, "example.com/a").is_empty());
    assert!(tried(&secrets, "r12.example.com:5000/a").is_empty());
}

#[test]
fn wildcards_that_could_be_tried_in_more_ways_than_anybody_can_wait_for_are_answered() {
    let many = |n: usize| format!("{}b.example.com", "*a".repeat(n));
    let secrets = [config(&json!({many(60): login("many")}))];
    let long = "a".repeat(120);
    assert!(tried(&secrets, &format!("{long}.example.com/a")).is_empty());
    assert_eq!(tried(&secrets, &format!("{long}b.example.com/a")), ["many"]);
    let longer_than_any_host = [config(&json!({many(125): login("no")}))];
    let host = format!("{}b.example.com", "a".repeat(125));
    assert!(tried(&longer_than_any_host, &format!("{host}/a")).is_empty());
}

#[test]
fn a_wildcard_takes_as_much_as_the_rest_leaves_it() {
    for (glob, text, fit) in [
        ("", "", true),
        ("", "a", false),
        ("*", "", true),
        ("**", "a", true),
        ("a", "", false),
        ("a*", "a", true),
        ("*ab", "aab", true),
        ("*ab", "aba", false),
        ("a*b*c", "abcbc", true),
        ("a*b*c", "acb", false),
        ("*?", "", false),
        ("?*b", "bb", true),
        ("*a?*", "xab", true),
        ("*a?*", "xa", false),
    ] {
        assert_eq!(fits(glob.as_bytes(), text.as_bytes()), fit, "{glob} {text}");
    }
}

#[test]
fn dockers_hub_goes_by_all_its_names() {
    for place in ["https://index.docker.io/v1/", "index.docker.io", "docker.io"] {
        let secrets = [config(&json!({place: login("hub")}))];
        for image in [
            "busybox",
            "team/app:1",
            "docker.io/team/app",
            "index.docker.io/busybox:1",
        ] {
            assert_eq!(tried(&secrets, image), ["hub"], "{place} {image}");
        }
        assert!(tried(&secrets, "localhost/app").is_empty());
        assert!(tried(&secrets, "r.example.com/app").is_empty());
    }
    let library = [config(
        &json!({"docker.io/library": login("library"), "index.docker.io": login("hub")}),
    )];
    assert_eq!(tried(&library, "busybox"), ["library"]);
    assert_eq!(tried(&library, "team/app"), ["hub"]);
}

#[test]
fn a_secret_that_cannot_be_read_is_named_without_its_content() {
    let told = |secret: Arc<Secret>| Keyring::of(&[secret]).err().unwrap().to_string();
    let broken = secret(
        "dockerconfigjson",
        ".dockerconfigjson",
        br#"{"auths":{"r":"hunter2"}}"#,
    );
    let error = told(broken);
    assert!(
        error.contains("\"pull\"") && !error.contains("hunter2"),
        "{error}"
    );
    let error = told(config(&json!({"r": {"auth": "hunter2!"}})));
    assert!(
        error.contains("not base64") && !error.contains("hunter2"),
        "{error}"
    );
    let colonless = base64::engine::general_purpose::STANDARD.encode("hunter2");
    assert!(told(config(&json!({"r": {"auth": colonless}}))).contains("username:password"));
    let login = Login {
        username: "robot".to_owned(),
        password: "hunter2".to_owned(),
    };
    assert_eq!(format!("{login:?}"), "Login");
}
