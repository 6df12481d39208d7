//! What is read of a report, and the documents that show it.

use protocol::object::{Kind, ObjectKey, Revision};

use super::*;
use crate::cluster::KnownDevice;
use crate::devices::document::{Base, created, other_owners, patched, twins};

pub(in super::super) fn pump() -> KnownDevice {
    KnownDevice {
        key: ObjectKey::new(Kind::Device, "n", "pump"),
        uid: "u".into(),
        revision: Revision(5),
        node: "e1".into(),
        model: Some(ObjectKey::new(Kind::DeviceModel, "n", "m")),
        state: None,
        status: None,
        content: (Digest::of(b""), None),
        is_here: true,
    }
}

fn device(properties: &[&str]) -> Device {
    let properties: Vec<Value> = properties.iter().map(|name| json!({ "name": name })).collect();
    serde_json::from_value(json!({ "spec": { "properties": properties } })).unwrap()
}

fn twin(name: &str, value: &str, at: &str) -> Value {
    json!({ "propertyName": name, "reported": { "value": value, "metadata": { "timestamp": at, "quality": "good" } } })
}

fn report(status: &Value, properties: &[&str]) -> Report {
    Report::read(status.to_string().as_bytes(), &device(properties), None).unwrap()
}

#[test]
fn a_property_that_the_device_has_not_leaves_the_twins() {
    let said = json!({ "twins": [twin("t", "1", "1"), twin("gone", "2", "1")], "state": "online" });
    let base = Base {
        uid: "s".into(),
        revision: "7".into(),
    };
    let patch = patched(&pump(), &report(&said, &["t", "other"]), &base, None);
    assert_eq!(patch["status"]["twins"], json!([twin("t", "1", "1")]));
    assert_eq!(patch["status"]["state"], "online");
    assert_eq!(patch["metadata"]["resourceVersion"], "7");
    assert!(patch["metadata"].get("ownerReferences").is_none());
    let none = patched(&pump(), &report(&said, &[]), &base, Some(&[]));
    assert_eq!(none["status"]["twins"], json!([]), "the list is written, empty");
    assert_eq!(none["metadata"]["ownerReferences"][0]["uid"], "u");
}

#[test]
fn a_status_without_a_device_is_adopted_beside_whatever_else_owns_it() {
    let base = Base {
        uid: "s".into(),
        revision: "7".into(),
    };
    let said = report(&json!({ "twins": [] }), &[]);
    let owners_of = |owners: Value| {
        let found = json!({ "metadata": { "ownerReferences": owners } }).to_string();
        let others = other_owners(found.as_bytes());
        patched(&pump(), &said, &base, others.as_deref())["metadata"]["ownerReferences"].take()
    };
    let site = json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "site", "uid": "c" });
    let owned = owners_of(json!([site.clone(), { "kind": "Device", "name": "pump", "uid": "u" }]));
    assert_eq!((owned[0].clone(), owned[1]["uid"].clone()), (site, json!("u")));
    assert_eq!(
        (owned[1]["controller"].clone(), owned[2].clone()),
        (json!(true), Value::Null)
    );
    assert_eq!(
        owned[1]["blockOwnerDeletion"], false,
        "it takes no right on Devices"
    );
    assert_eq!(owners_of(Value::Null)[0]["uid"], "u");
    let managed = json!([{ "kind": "App", "name": "a", "uid": "a", "controller": true }]);
    assert_eq!(owners_of(managed), Value::Null, "there is one manager at most");
}

#[test]
fn a_property_that_only_the_model_has_is_shown_and_one_that_nobody_has_is_not() {
    let model: DeviceModel =
        serde_json::from_value(json!({ "spec": { "properties": [{ "name": "of-model" }] } })).unwrap();
    let said = json!({ "twins": [twin("own", "1", "1"), twin("of-model", "2", "1"), twin("x", "3", "1")] });
    let read = |model| Report::read(said.to_string().as_bytes(), &device(&["own"]), model).unwrap();
    let names = |report: &Report| -> Vec<String> {
        let twins = report.twins().iter();
        twins.map(|twin| twin.property_name.clone()).collect()
    };
    assert_eq!(names(&read(Some(&model))), ["own", "of-model"]);
    assert_eq!(names(&read(None)), ["own"]);
}

fn aged(value: &str, version: u64, quality: &str) -> Value {
    json!({ "value": value, "metadata": { "version": version.to_string(), "quality": quality } })
}

#[test]
fn of_a_value_from_before_a_boot_the_newer_one_is_shown_and_it_is_stale() {
    let names = ["t", "older", "newer", "same", "broken", "missing"];
    let mut twins_said: Vec<Value> = names.iter().map(|name| json!({ "propertyName": name })).collect();
    twins_said[0] = twin("t", "2", "9");
    let said = json!({ "twins": twins_said, "left": {
        "older": aged("1", 5, "stale"), "newer": aged("9", 7, "stale"), "same": aged("3", 6, "error"),
        "broken": aged("1", 5, "stale"), "missing": aged("4", 6, "stale"), "unknown": aged("5", 6, "stale"),
    } });
    let said = report(&said, &names);
    assert!(said.leaves_some());
    let shown = |name: &str, reported: Value| json!({ "propertyName": name, "reported": reported });
    let answer = json!({ "status": { "twins": [
        shown("older", aged("2", 6, "good")), shown("newer", aged("8", 6, "good")),
        shown("same", aged("3", 6, "good")), shown("broken", aged("2", 6, "error")), twin("x", "8", "1"),
    ] } });
    let filled = said.over(&twins(answer.to_string().as_bytes(), "e1"));
    assert_eq!(
        filled.status()["twins"],
        json!([
            twin("t", "2", "9"),
            shown("older", aged("2", 6, "stale")),
            shown("newer", aged("9", 7, "stale")),
            shown("same", aged("3", 6, "error")),
            shown("broken", aged("2", 6, "error")),
            shown("missing", aged("4", 6, "stale")),
        ])
    );
    assert!(!filled.leaves_some() && filled.status().get("left").is_none());
    assert_eq!(filled.values, said.values, "what was said is the same");
    assert_eq!(twins(b"{}", "e1"), []);
    let mut moved = answer;
    moved["metadata"] = json!({ "labels": { "tombolo.dev/node": "e2" } });
    assert_eq!(
        twins(moved.to_string().as_bytes(), "e1"),
        [],
        "another node counts by another clock"
    );
}

#[test]
fn a_state_that_is_not_to_be_shown_any_more_is_taken_away() {
    let base = Base {
        uid: "s".into(),
        revision: "7".into(),
    };
    let patch = patched(&pump(), &report(&json!({ "twins": [] }), &[]), &base, None);
    assert_eq!(
        patch["status"],
        json!({ "twins": [], "state": null, "lastOnlineTime": null })
    );
    let said = report(&json!({ "twins": [], "state": "online" }), &[]);
    let patch = patched(&pump(), &said, &base, None);
    assert_eq!(patch["status"], json!({ "twins": [], "state": "online" }));
}

#[test]
fn the_glance_names_each_value_and_has_an_end() {
    let twins: Vec<Value> = (0..100)
        .map(|number| twin(&format!("p{number}"), "1\n2", "1"))
        .collect();
    let names: Vec<String> = (0..100).map(|number| format!("p{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let glance = report(&json!({ "twins": twins }), &names).glance();
    assert!(
        glance.starts_with("p0=12 p1=12 ") && glance.ends_with(" …"),
        "{glance}"
    );
    assert!(glance.len() <= GLANCE + " …".len());
}

#[test]
fn extensions_are_never_written() {
    let said = json!({ "twins": [], "extensions": { "x": 1 } });
    let created = created(&pump(), Some(&report(&said, &[])));
    assert_eq!(created["status"], json!({ "twins": [] }));
}

#[test]
fn times_alone_are_no_change_of_a_value() {
    let at = |time: &str, value: &str| {
        report(
            &json!({ "twins": [twin("t", value, time)], "lastOnlineTime": time }),
            &["t"],
        )
    };
    let (first, later, other) = (at("1", "a"), at("2", "a"), at("1", "b"));
    assert_ne!(first.whole, later.whole);
    assert_eq!(first.values, later.values);
    assert_ne!(first.values, other.values);
}

#[test]
fn what_cannot_be_read_is_said() {
    for bad in ["[", r#"{"twins":{}}"#] {
        assert!(Report::read(bad.as_bytes(), &device(&[]), None).is_err(), "{bad}");
    }
}

#[test]
fn a_model_whose_name_is_no_label_leaves_the_status_without_that_label() {
    let mut pump = pump();
    for (name, fits) in [("Thermostat v2", false), ("-t", false), ("t.1_a-B", true)] {
        pump.model = Some(ObjectKey::new(Kind::DeviceModel, "n", name));
        let made = created(&pump, None);
        let label = &made["metadata"]["labels"]["tombolo.dev/model"];
        assert_eq!(label.as_str(), fits.then_some(name), "{name}");
    }
}

#[test]
fn a_status_belongs_to_its_device_and_says_where_it_is() {
    let made = created(&pump(), None);
    assert_eq!(
        made["metadata"]["labels"],
        json!({ "tombolo.dev/node": "e1", "tombolo.dev/model": "m" })
    );
    assert_eq!(made["metadata"]["ownerReferences"][0]["controller"], true);
    let mut long = pump();
    long.node = "x".repeat(64);
    assert_eq!(
        created(&long, None)["metadata"]["labels"],
        json!({ "tombolo.dev/model": "m" })
    );
}
