//! What devices really send, and what is made of it.

use serde_json::Value;

use super::super::config::read;
use super::super::testing::{allowed, device, lamp, served};
use super::*;
use crate::devices::drivers::driver::Unit;
use crate::devices::drivers::written::Written;

fn routes(manifests: Vec<Value>) -> Routes {
    let units = manifests.into_iter().map(|manifest| {
        let served = served(manifest);
        let reading = read(&served, &allowed());
        assert_eq!(reading.mistakes, []);
        let settings = Arc::new(reading.good.unwrap().1);
        (
            served.name(),
            Unit {
                settings,
                written: Written::of(&served),
                faulty: false,
            },
        )
    });
    Routes::new(&Arc::new(units.collect()))
}

fn decode(routes: &Routes, topic: &str, payload: &[u8], retained: bool) -> Option<Vec<Heard>> {
    routes.decode(topic, &Payload::new(payload), retained)
}

/// Each message of a file, and what of it must be heard.
fn plays(file: &str) {
    let file: Value = serde_json::from_str(file).unwrap();
    let visitors = file["device"]["visitors"].as_object().unwrap();
    let visitors: Vec<_> = visitors
        .iter()
        .map(|(name, visitor)| (name.as_str(), visitor.clone()))
        .collect();
    let routes = routes(vec![device("thing", &file["device"]["config"], &visitors)]);
    for message in file["messages"].as_array().unwrap() {
        let (topic, payload) = (
            message["topic"].as_str().unwrap(),
            message["payload"].as_str().unwrap(),
        );
        let retained = message["retained"].as_bool().unwrap_or(false);
        let heard = decode(&routes, topic, payload.as_bytes(), retained).unwrap();
        let (heard, times): (BTreeMap<_, _>, Vec<_>) = heard.into_iter().map(told).unzip();
        let expected: BTreeMap<String, Value> = message["heard"]
            .as_object()
            .unwrap()
            .clone()
            .into_iter()
            .collect();
        assert_eq!(heard, expected, "{topic} {payload}");
        if let Some(time) = message["time"].as_str() {
            assert!(times.contains(&Some(time.to_owned())), "{times:?}");
        }
    }
}

fn told(heard: Heard) -> ((String, Value), Option<String>) {
    match heard {
        Heard::Present(_, present) => (("present".to_owned(), present.into()), None),
        Heard::Seen {
            property,
            observation,
            clue,
            ..
        } => {
            let text = match observation {
                Observation::Value(value) => value,
                Observation::Retained(value) => format!("retained {value}"),
                Observation::Fault(_) => "fault".to_owned(),
                Observation::GivenUp { .. }
                | Observation::Settled { .. }
                | Observation::Wished(_)
                | Observation::Dropped => panic!("{observation:?}"),
            };
            ((property, text.into()), clue.device_timestamp)
        }
    }
}

#[test]
fn zigbee2mqtt_is_understood() {
    plays(include_str!("../payloads/zigbee2mqtt.json"));
}

#[test]
fn tasmota_is_understood() {
    plays(include_str!("../payloads/tasmota.json"));
}

#[test]
fn esphome_is_understood() {
    plays(include_str!("../payloads/esphome.json"));
}

#[test]
fn one_topic_tells_of_many_devices_and_is_listed_once() {
    let visitor = |path: &str| serde_json::json!({"read": {"topic": "tele/gateway", "path": path}});
    let config = serde_json::json!({});
    let routes = routes(vec![
        device("a", &config, &[("value", visitor("$.a"))]),
        device("b", &config, &[("value", visitor("$.b"))]),
    ]);
    assert_eq!(routes.topics().collect::<Vec<_>>(), [("tele/gateway", false)]);
    assert_eq!(
        decode(&routes, "tele/gateway", br#"{"a": 1, "b": 2}"#, false)
            .unwrap()
            .len(),
        2
    );
    assert_eq!(decode(&routes, "tele/other", b"1", false), None);
}

#[test]
fn a_payload_that_does_not_parse_is_an_error_and_an_old_one_is_nothing() {
    let routes = routes(vec![lamp()]);
    for payload in [b"{".as_slice(), b"\xff\xfe", b"ON"] {
        let heard = decode(&routes, "zigbee2mqtt/lamp", payload, false).unwrap();
        assert_eq!(heard.len(), 2);
        let is_fault = |heard: &Heard| {
            matches!(
                heard,
                Heard::Seen {
                    observation: Observation::Fault(_),
                    ..
                }
            )
        };
        assert!(heard.iter().all(is_fault), "{heard:?}");
        assert_eq!(decode(&routes, "zigbee2mqtt/lamp", payload, true), Some(vec![]));
    }
}
