//! What clients write is read, and what they are told is what they know.

use std::collections::BTreeMap;

use proptest::prelude::*;
use protocol::devices::{DeviceName, DeviceState, TwinValue};
use serde_json::{Value, json};

use super::*;
use crate::devices::{Clue, Observation, Seen, Standing, TwinChange, TwinView};

fn seen(property: &str, observation: Observation) -> Seen {
    Seen {
        property: property.to_owned(),
        observation,
        clue: Clue::default(),
    }
}

fn value(text: &str) -> Observation {
    Observation::Value(text.to_owned())
}

fn twin_value(value: &str, metadata: &[(&str, &str)]) -> TwinValue {
    TwinValue {
        value: value.to_owned(),
        metadata: metadata
            .iter()
            .map(|(key, text)| ((*key).to_owned(), (*text).to_owned()))
            .collect(),
    }
}

fn read(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn an_update_as_clients_of_kubeedge_send_it_is_read() {
    let payload = json!({
        "event_id": "e1", "timestamp": 1_700_000_000_000_u64,
        "twin": {
            "temperature": {
                "actual": {"value": "26", "metadata": {"timestamp": 1_700_000_000_001_u64}},
                "optional": false, "metadata": {"type": "int"}
            },
            "power": {"expected": {"value": "ON", "metadata": {"timestamp": "1700"}}, "metadata": {"type": "deleted"}},
            "gone": null
        }
    });
    let update = update(payload.to_string().as_bytes()).unwrap();
    assert_eq!(update.event_id, "e1");
    assert_eq!(update.timestamp.as_deref(), Some("1700000000000"));
    let clue = |timestamp: &str, type_: &str| Clue {
        device_timestamp: Some(timestamp.to_owned()),
        type_: Some(type_.to_owned()),
        ..Clue::default()
    };
    assert_eq!(
        update.seen,
        [
            seen("gone", Observation::Dropped),
            // The type `deleted` removes nothing: from MQTT only null does.
            Seen {
                clue: clue("1700", "deleted"),
                ..seen("power", Observation::Wished("ON".to_owned()))
            },
            Seen {
                clue: clue("1700000000001", "int"),
                ..seen("temperature", value("26"))
            },
        ]
    );
}

#[test]
fn values_may_be_long_have_spaces_be_json_or_any_alphabet() {
    let long = "x".repeat(20_000);
    for text in [
        "a b",
        "{\"a\": [1, 2]}",
        "Füllstand 堆積 ✓",
        "\u{0}\n\"",
        "",
        &long,
    ] {
        let payload = json!({"twin": {"p": {"actual": {"value": text}}}}).to_string();
        assert_eq!(update(payload.as_bytes()).unwrap().seen, [seen("p", value(text))]);
    }
}

#[test]
fn a_value_that_is_no_text_is_kept_as_it_was_written() {
    for raw in [
        "1.50",
        "-0",
        "12345678901234567890123",
        "true",
        "[1,  2]",
        "{\"a\":1e400}",
    ] {
        let payload = format!("{{\"twin\":{{\"p\":{{\"actual\":{{\"value\":{raw}}}}}}}}}");
        let update = update(payload.as_bytes()).unwrap();
        assert_eq!(update.seen, [seen("p", value(raw))]);
        assert_eq!(update.timestamp, None);
    }
}

#[test]
fn a_time_that_was_left_unset_tells_no_updates_apart() {
    for (raw, read) in [
        ("0", None),
        ("-1", None),
        ("0.0", None),
        ("null", None),
        ("\"\"", None),
        ("\"soon\"", None),
        ("{}", None),
        ("1.5", Some("1.5")),
        ("\"17\"", Some("17")),
    ] {
        let payload = format!("{{\"timestamp\":{raw},\"twin\":{{}}}}");
        assert_eq!(
            update(payload.as_bytes()).unwrap().timestamp.as_deref(),
            read,
            "{raw}"
        );
    }
}

#[test]
fn a_reason_does_not_repeat_all_that_was_sent() {
    let payload = json!({ "twin": "ä".repeat(100_000) }).to_string();
    let malformed = update(payload.as_bytes()).unwrap_err();
    assert!(malformed.to_string().len() > 100_000);
    let failure = failure("e", 5, malformed.code(), &malformed.to_string());
    assert!(failure.len() < 1000, "{}", failure.len());
    assert!(read(&failure)["reason"].as_str().unwrap().ends_with('ä'));
}

#[test]
fn a_side_without_a_value_says_nothing() {
    let payload =
        r#"{"twin":{"a":{},"b":{"actual":null},"c":{"actual":{"value":null}},"d":{"expected":{}}}}"#;
    assert_eq!(update(payload.as_bytes()).unwrap().seen, []);
}

#[test]
fn what_is_malformed_is_refused_with_its_code() {
    let code = |payload: &[u8]| update(payload).unwrap_err().code();
    assert_eq!(code(b"\xff\xfe"), 400);
    assert_eq!(update(b"\xff").unwrap_err(), Malformed::NotUtf8);
    for payload in [
        "",
        "{",
        "[]",
        "{}",
        r#"{"twin":null}"#,
        r#"{"twin":[]}"#,
        r#"{"twin":{"p":1}}"#,
        r#"{"twin":{"p":{"actual":"26"}}}"#,
        r#"{"twin":{},"event_id":7}"#,
        r#"{"twin":{"p":{"actual":{"value":"\ud800"}}}}"#,
        r#"{"twin":{}} x"#,
    ] {
        assert_eq!(code(payload.as_bytes()), 400, "{payload}");
    }
    let deep = format!(
        "{{\"twin\":{{\"p\":{{\"actual\":{{\"value\":{}",
        "[".repeat(100_000)
    );
    assert_eq!(code(deep.as_bytes()), 400);
    let long = json!({"event_id": "x".repeat(2000), "twin": {}}).to_string();
    assert_eq!(code(long.as_bytes()), 413);
    let mut twin = serde_json::Map::new();
    twin.insert("n".repeat(2000), Value::Null);
    assert_eq!(code(json!({"twin": twin}).to_string().as_bytes()), 413);
}

#[test]
fn a_state_is_read_by_its_name_and_disconnected_is_offline() {
    let of = |name: &str| {
        let payload = json!({"event_id": "e", "timestamp": "1", "state": name}).to_string();
        state(payload.as_bytes()).unwrap()
    };
    assert_eq!(of("online"), ("e".to_owned(), Some(DeviceState::Online)));
    assert_eq!(of("disconnected").1, Some(DeviceState::Offline));
    assert_eq!(of("exploded").1, None);
    assert!(state(b"{}").is_err());
}

#[test]
fn a_question_may_have_no_mark_and_no_body() {
    assert_eq!(event_id(b"").unwrap(), "");
    assert_eq!(event_id(b"{}").unwrap(), "");
    assert_eq!(event_id(br#"{"event_id":"q"}"#).unwrap(), "q");
    assert!(event_id(b"what?").is_err());
}

fn view() -> TwinView {
    TwinView {
        expected: Some(twin_value("30", &[("timestamp", "2"), ("source", "local")])),
        actual: Some(twin_value(
            "26",
            &[
                ("timestamp", "1"),
                ("type", "int"),
                ("quality", "good"),
                ("version", "9"),
            ],
        )),
        type_: "int".to_owned(),
    }
}

#[test]
fn a_result_shows_both_sides_with_times_as_numbers() {
    let told = read(&result("e1", 7, [("temperature", &view())].into_iter()));
    assert_eq!(
        told,
        json!({"event_id": "e1", "timestamp": 7, "twin": {"temperature": {
            "expected": {"value": "30", "metadata": {"timestamp": 2, "source": "local"}},
            "actual": {"value": "26", "metadata": {"timestamp": 1, "quality": "good"}},
            "optional": true, "metadata": {"type": "int"}
        }}})
    );
}

#[test]
fn a_failure_has_a_code_and_a_reason() {
    let told = read(&failure("e1", 7, 404, "no device a/b"));
    assert_eq!(
        told,
        json!({"event_id": "e1", "timestamp": 7, "code": 404, "reason": "no device a/b"})
    );
}

#[test]
fn a_delta_holds_every_wish_and_names_the_unmet_ones() {
    let wished = BTreeMap::from([("temperature".to_owned(), view())]);
    let unmet = BTreeMap::from([("temperature".to_owned(), "30".to_owned())]);
    let told = read(&delta("d", 7, &wished, &unmet));
    assert_eq!(told["delta"], json!({"temperature": "30"}));
    assert_eq!(told["twin"]["temperature"]["expected"]["value"], "30");
}

#[test]
fn a_document_shows_what_was_and_what_is() {
    let change = TwinChange {
        last: None,
        current: Some(view()),
    };
    let gone = TwinChange {
        last: Some(TwinView::default()),
        current: None,
    };
    let told = read(&document("e", 7, [("t", &change), ("g", &gone)].into_iter()));
    assert_eq!(told["twin"]["t"]["last"], Value::Null);
    assert_eq!(told["twin"]["t"]["current"]["actual"]["value"], "26");
    assert_eq!(told["twin"]["g"]["last"]["metadata"]["type"], "string");
    assert_eq!(told["twin"]["g"]["current"], Value::Null);
}

#[test]
fn states_and_memberships_show_when_a_device_was_last_seen() {
    let device = DeviceName::new("hall", "lamp");
    let told = read(&state_result("e", 7, &device, (DeviceState::Offline, Some(0))));
    assert_eq!(
        told["device"],
        json!({"name": "lamp", "state": "offline", "lastOnlineTime": "1970-01-01T00:00:00Z"})
    );
    let lamp = Member {
        device,
        standing: Some(Standing {
            state: DeviceState::Offline,
            last_online: Some(0),
        }),
    };
    let listed = json!({"id": "hall/lamp", "name": "lamp", "description": "", "state": "offline",
        "last_online": "1970-01-01T00:00:00Z", "attributes": {}});
    let told = read(&membership("e", 7, std::slice::from_ref(&lamp)));
    assert_eq!(
        told,
        json!({"event_id": "e", "timestamp": 7, "devices": [listed]})
    );
    let told = read(&membership_updated("e", 7, &[], &[lamp]));
    assert_eq!(
        (&told["added_devices"], &told["removed_devices"][0]),
        (&json!([]), &listed)
    );
    assert_eq!(
        read(&device_updated("e", 7)),
        json!({"event_id": "e", "timestamp": 7, "attributes": {}})
    );
}

proptest! {
    #[test]
    fn whatever_comes_is_read_or_refused(payload in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = update(&payload);
        let _ = state(&payload);
        let _ = event_id(&payload);
    }

    #[test]
    fn what_a_client_is_told_it_could_have_said(
        values in proptest::collection::btree_map(".{1,20}", (".{0,40}", ".{0,40}"), 0..6), mark in ".{0,20}"
    ) {
        let views: BTreeMap<String, TwinView> = values.iter().map(|(name, (expected, actual))| {
            let view = TwinView {
                expected: Some(twin_value(expected, &[])),
                actual: Some(twin_value(actual, &[])),
                type_: String::new(),
            };
            (name.clone(), view)
        }).collect();
        let told = result(&mark, 1, views.iter().map(|(name, view)| (name.as_str(), view)));
        let back = update(&told).unwrap();
        prop_assert_eq!(back.event_id, mark);
        let said: Vec<(String, Observation)> =
            back.seen.into_iter().map(|seen| (seen.property, seen.observation)).collect();
        let expected: Vec<(String, Observation)> = values.into_iter().flat_map(|(name, (expected, actual))| {
            [(name.clone(), Observation::Wished(expected)), (name, Observation::Value(actual))]
        }).collect();
        prop_assert_eq!(said, expected);
    }
}
