//! `tombolo/http` that asks: web servers on loopback.

use std::time::Duration;

use edgecore::devices::Observation;
use protocol::devices::{DeviceName, DeviceState};
use serde_json::{Value, json};

use crate::node::Node;
use crate::server::{Server, Web};

/// Shelly's second generation: JSON-RPC over HTTP.
const SHELLY: &str = r#"{"id":0,"source":"init","output":false,"apower":8.9,"voltage":237.5,"current":0.067,
    "aenergy":{"total":6.532,"by_minute":[45.199,47.141,88.397],"minute_ts":1626935779},
    "temperature":{"tC":23.5,"tF":74.4}}"#;

pub(crate) fn device(name: &str, config: &Value, visitors: &[(&str, Value)]) -> Value {
    let property = |(name, visitor): &(&str, Value)| json!({"name": name, "collectCycle": 200, "confirmTimeout": 3000, "visitors": {"configData": visitor}});
    json!({
        "metadata": {"name": name, "namespace": "hall", "uid": name},
        "spec": {
            "protocol": {"protocolName": "tombolo/http", "configData": config},
            "properties": visitors.iter().map(property).collect::<Vec<_>>()
        }
    })
}

pub(crate) fn at(port: u16) -> Value {
    json!({"url": format!("http://127.0.0.1:{port}"), "timeout": 500})
}

pub(crate) fn value(text: &str) -> Observation {
    Observation::Value(text.to_owned())
}

pub(crate) fn fault(text: &str) -> Observation {
    Observation::Fault(text.to_owned())
}

pub(crate) fn name(device: &str) -> DeviceName {
    DeviceName::new("hall", device)
}

#[tokio::test]
async fn a_plug_is_asked_once_for_all_its_properties_and_set_and_read_back() {
    let status = "GET /rpc/Switch.GetStatus?id=0";
    let web = Web::with(&[
        (status, SHELLY),
        (
            r#"POST /rpc/Switch.Set {"id":0,"on":true}"#,
            r#"{"was_on":false}"#,
        ),
    ]);
    web.changes(
        r#"POST /rpc/Switch.Set {"id":0,"on":true}"#,
        status,
        &SHELLY.replace("\"output\":false", "\"output\":true"),
    );
    let server = Server::start(&web).await;
    let read = |path: &str| json!({"url": "/rpc/Switch.GetStatus?id=0", "path": path});
    let node = Node::start(
        1883,
        [device(
            "plug",
            &at(server.port),
            &[
                (
                    "power",
                    json!({"read": read("$.output"), "write": {"url": "/rpc/Switch.Set", "template": r#"{"id":0,"on":{{ json }}}"#}}),
                ),
                ("watts", json!({"read": read("$.apower")})),
                ("energy", json!({"read": read("$.aenergy.total"), "scale": 0.001})),
                ("temperature", json!({"read": read("$.temperature.tC")})),
                ("gone", json!({"read": read("$.nothing")})),
            ],
        )],
    );
    let (twins, plug) = (&node.twins, name("plug"));
    for (property, text) in [
        ("power", "false"),
        ("watts", "8.9"),
        ("energy", "0.006532"),
        ("temperature", "23.5"),
    ] {
        twins.until(&plug, property, &value(text)).await;
    }
    node.until_state(&plug, DeviceState::Online).await;
    let asked = web.count(status);
    let seen = |property: &str| {
        twins
            .observed(&plug)
            .iter()
            .filter(|(name, _)| name == property)
            .count()
    };
    assert!(asked <= seen("watts") + 1, "{asked} for {}", seen("watts"));
    twins.wish(&plug, "power", "true", 1);
    twins.until(&plug, "power", &value("true")).await;
    // A person at the button.
    web.answers(status, 200, SHELLY);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(web.count(r#"POST /rpc/Switch.Set {"id":0,"on":true}"#), 1);
    assert_eq!(seen("gone"), 0, "no match is no report");
    assert_eq!(twins.states(&plug), [DeviceState::Online]);
    node.stop().await;
}

/// A socket with Tasmota and a relay with `ESPHome`, behind one address.
fn tasmota_and_esphome() -> Web {
    let tasmota = r#"{"StatusSNS":{"Time":"2026-03-01T12:00:00","ENERGY":{"Power":42}}}"#;
    let web = Web::with(&[
        ("GET /cm?cmnd=Status%208", tasmota),
        ("GET /cm?cmnd=Power", r#"{"POWER":"OFF"}"#),
        ("GET /cm?cmnd=Power%20ON", r#"{"POWER":"ON"}"#),
        (
            "GET /switch/relay",
            r#"{"id":"switch-relay","value":false,"state":"OFF"}"#,
        ),
        ("POST /switch/relay/turn_on", ""),
        (
            "GET /sensor/outside",
            r#"{"id":"sensor-outside","value":19.94,"state":"19.9 °C"}"#,
        ),
    ]);
    web.changes(
        "GET /cm?cmnd=Power%20ON",
        "GET /cm?cmnd=Power",
        r#"{"POWER":"ON"}"#,
    );
    let on = r#"{"id":"switch-relay","value":true,"state":"ON"}"#;
    web.changes("POST /switch/relay/turn_on", "GET /switch/relay", on);
    web
}

#[tokio::test]
async fn tasmota_and_esphome_are_set_through_their_paths() {
    let web = tasmota_and_esphome();
    let server = Server::start(&web).await;
    let states = json!({"ON": true, "OFF": false});
    let node = Node::start(
        1883,
        [device(
            "both",
            &at(server.port),
            &[
                (
                    "watts",
                    json!({"read": {"url": "/cm?cmnd=Status%208", "path": "$.StatusSNS.ENERGY.Power", "timePath": "$.StatusSNS.Time"}}),
                ),
                (
                    "socket",
                    json!({"read": {"url": "/cm?cmnd=Power", "path": "$.POWER"}, "map": states, "write": {"method": "GET", "url": "/cm?cmnd=Power%20{{ value }}"}}),
                ),
                (
                    "outside",
                    json!({"read": {"url": "/sensor/outside", "path": "$.value"}}),
                ),
                (
                    "relay",
                    json!({"read": {"url": "/switch/relay", "path": "$.state"}, "map": states, "write": {"url": "/switch/relay/{{ value }}", "map": {"true": "turn_on", "false": "turn_off"}}}),
                ),
            ],
        )],
    );
    let (twins, both) = (&node.twins, name("both"));
    for (property, text) in [
        ("watts", "42"),
        ("socket", "false"),
        ("outside", "19.94"),
        ("relay", "false"),
    ] {
        twins.until(&both, property, &value(text)).await;
    }
    for (property, version) in [("socket", 1), ("relay", 2)] {
        twins.wish(&both, property, "true", version);
        twins.until(&both, property, &value("true")).await;
    }
    // Whatever somebody wishes, it stays one piece of the path.
    twins.wish(&both, "relay", "../admin?x=1", 3);
    for _ in 0..200 {
        if web.asked().iter().any(|asked| asked.contains("admin")) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        web.count("POST /switch/relay/..%2Fadmin%3Fx%3D1"),
        1,
        "{:?}",
        web.asked()
    );
    node.stop().await;
}

#[tokio::test]
async fn a_poll_that_fails_is_an_error_with_its_reason_and_never_the_old_value() {
    let web = Web::with(&[("GET /good", "21.5"), ("GET /text", "warm"), ("GET /bad", "1")]);
    web.answers("GET /moved", 302, "7");
    web.answers("GET /large", 200, &"9".repeat(65 * 1024));
    let server = Server::start(&web).await;
    let read = |url: &str| json!({"read": {"url": url}});
    let node = Node::start(
        1883,
        [device(
            "thing",
            &at(server.port),
            &[
                ("good", read("/good")),
                ("bad", read("/bad")),
                ("moved", read("/moved")),
                ("large", read("/large")),
                ("text", json!({"read": {"url": "/text", "path": "$.x"}})),
                (
                    "refused",
                    json!({"read": {"url": "/good"}, "write": {"url": "/nowhere"}}),
                ),
            ],
        )],
    );
    let (twins, thing) = (&node.twins, name("thing"));
    twins.until(&thing, "bad", &value("1")).await;
    web.answers("GET /bad", 500, "1");
    for (property, why) in [
        ("bad", "GET /bad: HTTP 500 Internal Server Error"),
        ("moved", "GET /moved: HTTP 302: redirects are not followed"),
        ("large", "GET /large: the answer is longer than 65536 bytes"),
        ("text", "GET /text: the payload is not JSON"),
    ] {
        twins.until(&thing, property, &fault(why)).await;
    }
    assert_eq!(web.count("GET /elsewhere"), 0);
    let bad: Vec<_> = twins
        .observed(&thing)
        .into_iter()
        .filter(|(name, _)| name == "bad")
        .collect();
    assert!(matches!(bad.last(), Some((_, Observation::Fault(_)))), "{bad:?}");
    twins.until(&thing, "good", &value("21.5")).await;
    node.until_state(&thing, DeviceState::Unhealthy).await;
    twins.wish(&thing, "refused", "7", 1);
    let why = "NotConfirmed: POST /nowhere: HTTP 404 Not Found";
    twins.until_given_up(&thing, "refused", 1, why).await;
    node.stop().await;
}

#[tokio::test]
async fn servers_that_hang_or_talk_nonsense_delay_no_other_and_one_that_comes_back_is_asked_again() {
    let web = Web::with(&[("GET /v", "1"), ("POST /v 2", "")]);
    web.changes("POST /v 2", "GET /v", "2");
    let server = Server::start(&web).await;
    let hangs = Server::pretender(Vec::new()).await;
    let nonsense = Server::pretender(b"garbage that is no HTTP\r\n\r\n".to_vec()).await;
    let drips = Server::pretender(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n1".to_vec()).await;
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let endless = Server::pretender(endless.into_bytes()).await;
    let visitors = [(
        "p",
        json!({"read": {"url": "/v"}, "write": {"url": "/v", "template": "{{ value }}"}}),
    )];
    let bad = [
        ("hangs", &hangs),
        ("nonsense", &nonsense),
        ("drips", &drips),
        ("endless", &endless),
    ];
    let mut all: Vec<_> = bad
        .iter()
        .map(|(name, server)| device(name, &at(server.port), &visitors))
        .collect();
    all.push(device("good", &at(server.port), &visitors));
    let node = Node::start(1883, all);
    for (device, _) in bad {
        node.until_state(&name(device), DeviceState::Offline).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (device, _) in bad {
        let observed = node.twins.observed(&name(device));
        let faults = observed
            .iter()
            .all(|(_, seen)| matches!(seen, Observation::Fault(_)));
        assert!(
            faults && observed.len() <= 6,
            "{device} is left alone between tries: {observed:?}"
        );
    }
    let good = node.twins.observed(&name("good"));
    assert!(
        good.len() >= 6 && good.iter().all(|(_, seen)| *seen == value("1")),
        "{good:?}"
    );

    let port = server.port;
    drop(server);
    node.until_state(&name("good"), DeviceState::Offline).await;
    node.twins.wish(&name("good"), "p", "2", 1);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _server = Server::at(port, &web, None).await;
    node.twins.until(&name("good"), "p", &value("2")).await;
    node.until_state(&name("good"), DeviceState::Online).await;
    node.stop().await;
}

#[tokio::test]
async fn cycles_that_cannot_be_kept_are_skipped() {
    let web = Web::with(&[("GET /v", "1")]);
    web.slow(Duration::from_millis(450));
    let server = Server::start(&web).await;
    let node = Node::start(
        1883,
        [device(
            "slow",
            &at(server.port),
            &[("p", json!({"read": {"url": "/v"}}))],
        )],
    );
    node.twins.until(&name("slow"), "p", &value("1")).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let asked = web.count("GET /v");
    assert!((2..=8).contains(&asked), "{asked}");
    assert!(node.twins.is_noted("PollOverrun: "));
    node.stop().await;
}

#[tokio::test]
async fn a_wish_that_is_taken_back_after_an_answer_was_lost_is_written() {
    let web = Web::with(&[("GET /v", "1"), ("POST /v 1", "")]);
    web.swallows("POST /v 2");
    let server = Server::start(&web).await;
    let write = json!({"url": "/v", "template": "{{ value }}"});
    let visitors = [("p", json!({"read": {"url": "/v"}, "write": write}))];
    let (thing, all) = (name("thing"), [device("thing", &at(server.port), &visitors)]);
    let node = Node::start(1883, all);
    node.twins.until(&thing, "p", &value("1")).await;
    node.twins.wish(&thing, "p", "2", 1);
    web.until_asked("POST /v 2").await;
    node.twins.wish(&thing, "p", "1", 2);
    web.until_asked("POST /v 1").await;
    node.stop().await;
}
