//! Manifests that are right, and what is said of those that are not.

use serde_json::{Value, json};

use super::*;
use crate::devices::merge;

fn plug() -> Value {
    json!({
        "metadata": {"name": "plug", "namespace": "hall", "uid": "u"},
        "spec": {
            "protocol": {"protocolName": "tombolo/http", "configData": {"url": "http://10.0.0.8", "credentials": "shelly"}},
            "properties": [
                {
                    "name": "power", "collectCycle": 5000,
                    "visitors": {"configData": {
                        "read": {"url": "/rpc/Switch.GetStatus?id=0", "path": "$.output"},
                        "write": {"url": "/rpc/Switch.Set", "template": "{\"id\": 0, \"on\": {{ json }}}"}
                    }}
                },
                {"name": "watts", "visitors": {"configData": {"read": {"url": "/rpc/Switch.GetStatus?id=0", "path": "$.apower"}}}}
            ]
        }
    })
}

fn found(manifest: Value) -> Found {
    read(&merge(&serde_json::from_value(manifest).unwrap(), None))
}

fn wrong(manifest: Value) -> String {
    let told = |mistake: &Mistake| format!("{:?}: {}", mistake.property, mistake.text);
    let mistakes = found(manifest).mistakes;
    mistakes.iter().map(told).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_whole_device_is_read() {
    let Found {
        endpoint,
        settled,
        mistakes,
    } = found(plug());
    assert_eq!(mistakes, []);
    let (endpoint, settled) = (endpoint.unwrap(), settled.unwrap());
    assert_eq!(endpoint.place.to_string(), "http://10.0.0.8");
    assert_eq!(
        (endpoint.namespace.as_str(), endpoint.credentials.as_deref()),
        ("hall", Some("shelly"))
    );
    let (power, watts) = (&settled.properties["power"], &settled.properties["watts"]);
    assert_eq!((power.cycle, watts.cycle), (Duration::from_secs(5), CYCLE));
    assert_eq!(power.reads[0].0, watts.reads[0].0);
    let write = power.write.as_ref().unwrap();
    assert_eq!(
        (&write.method, write.content_type.to_str().unwrap()),
        (&Method::POST, "application/json")
    );
}

#[test]
fn what_a_device_must_not_have_is_refused() {
    for (key, value, part) in [
        (
            "password",
            json!("x"),
            "None: protocol.configData.password is not read",
        ),
        ("token", json!("x"), "None: protocol.configData.token is not read"),
        (
            "url",
            json!("http://x/rpc"),
            "None: protocol.configData.url is \"http://x/rpc\"; write http://host",
        ),
        (
            "url",
            json!("http://admin:hidden@x"),
            "without a path, a user or a password",
        ),
        ("url", Value::Null, "None: protocol.configData.url is missing"),
        (
            "timeout",
            json!(5),
            "timeout must be a whole number from 100 to 60000",
        ),
        (
            "push",
            json!({"token": "x"}),
            "None: protocol.configData.push.token is not read",
        ),
        (
            "push",
            json!({}),
            "None: protocol.configData.push.credentials is missing",
        ),
        (
            "utl",
            json!("x"),
            "protocol.configData.utl is not known; did you mean url?",
        ),
    ] {
        let mut manifest = plug();
        let config = manifest["spec"]["protocol"]["configData"]
            .as_object_mut()
            .unwrap();
        if value.is_null() {
            config.remove(key);
        } else {
            config.insert(key.to_owned(), value);
        }
        assert!(found(manifest.clone()).settled.is_none());
        let wrong = wrong(manifest);
        assert!(
            wrong.contains(part) && !wrong.contains("hidden"),
            "{part} in {wrong}"
        );
    }
}

#[test]
fn each_mistake_names_property_and_key_and_the_other_properties_are_served() {
    for (key, value, part) in [
        (
            "read",
            json!({"path": "$.a"}),
            "Some(\"power\"): visitors.configData.read[0].url is missing",
        ),
        (
            "read",
            json!({"url": "status"}),
            "a path such as /status is meant",
        ),
        (
            "read",
            json!({"url": "/a", "path": "$["}),
            "read[0].path \"$[\" is no JSON path",
        ),
        (
            "read",
            json!({"url": "/cm?password=x"}),
            "read[0].url has a secret in its query",
        ),
        (
            "write",
            json!({"url": "/a", "method": "DELETE"}),
            "write.method must be GET, POST, PUT or PATCH",
        ),
        (
            "write",
            json!({"url": "{{ value }}"}),
            "write.url must begin with /",
        ),
        (
            "write",
            json!({"url": "/x?token={{ value }}"}),
            "write.url has a secret",
        ),
        (
            "push",
            json!({"path": "$.a"}),
            "push needs protocol.configData.push",
        ),
    ] {
        let mut manifest = plug();
        manifest["spec"]["properties"][0]["visitors"]["configData"][key] = value;
        let settled = found(manifest.clone()).settled.unwrap();
        assert_eq!(settled.properties.into_keys().collect::<Vec<_>>(), ["watts"]);
        let wrong = wrong(manifest);
        assert!(wrong.contains(part), "{part} in {wrong}");
    }
}

#[test]
fn a_device_may_push_and_be_asked_or_push_alone() {
    let mut manifest = plug();
    manifest["spec"]["protocol"]["configData"]["push"] = json!({"credentials": "plug"});
    manifest["spec"]["properties"][1]["visitors"]["configData"] = json!({"push": {"path": "$.watts"}});
    assert_eq!(wrong(manifest.clone()), "");
    let config = manifest["spec"]["protocol"]["configData"]
        .as_object_mut()
        .unwrap();
    config.remove("url");
    let found = found(manifest);
    assert!(found.endpoint.is_none());
    assert_eq!(found.mistakes.len(), 2, "power can neither be read nor written");
    let settled = found.settled.unwrap();
    assert_eq!(settled.push.as_deref(), Some("plug"));
    assert!(settled.properties.contains_key("watts") && !settled.asked);
}
