//! The MQTT bridge against a real broker, spoken to by the broker's own clients.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod access;
mod broker;
mod hostile;
mod knock;
mod old;
mod older;
mod pki;
mod quiet;
mod speaker;
mod twins;
mod wishes;

use std::sync::Arc;
use std::time::Duration;

use edgecore::devices::mqtt::Mqtt;
use edgecore::devices::mqtt::{Counted, Counters, Setup, run};
use edgecore::devices::{Clue, Observation, Origin, Report, Seen};
use protocol::clock::Clock;
use protocol::devices::DeviceName;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use broker::Broker;
use twins::Fake;

const LAMP: &str = "$hw/events/device/device/lamp";

/// A bridge that runs until it is dropped.
struct Bridge {
    counters: Arc<Counters>,
    task: JoinSet<()>,
    stop: CancellationToken,
}

impl Bridge {
    async fn start(port: u16, twins: &Arc<Fake>) -> Self {
        Self::start_as(port, twins, None).await
    }

    async fn start_as(port: u16, twins: &Arc<Fake>, credentials: Option<std::path::PathBuf>) -> Self {
        let mut config = Mqtt::default();
        config.address.port = port;
        config.credentials = credentials;
        let bridge = Self::begin(config, twins);
        bridge.until(|counted| counted.subscribed).await;
        bridge
    }

    fn begin(config: Mqtt, twins: &Arc<Fake>) -> Self {
        let counters = Arc::new(Counters::default());
        let setup = Setup {
            config,
            node: "pump-7".to_owned(),
            lost_power: false,
            counters: Arc::clone(&counters),
        };
        let (mut task, stop) = (JoinSet::new(), CancellationToken::new());
        let twins: Arc<Fake> = Arc::clone(twins);
        task.spawn(run(setup, twins, Clock::system(), stop.clone()));
        Self { counters, task, stop }
    }

    async fn until(&self, is: impl Fn(&Counted) -> bool) {
        for _ in 0..600 {
            if is(&self.counters.read()) {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("still {:?}", self.counters.read());
    }

    /// As a power cut would end it.
    async fn kill(mut self) {
        self.task.shutdown().await;
    }
}

fn update(event_id: &str, value: &str) -> String {
    json!({"event_id": event_id, "timestamp": 1, "twin": {"power": {"actual": {"value": value}}}}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_answered_with_a_result_a_document_and_a_delta_while_a_wish_is_open() {
    let (broker, twins) = (Broker::open("").await, Fake::with(&["device/lamp"]));
    let _bridge = Bridge::start(broker.port, &twins).await;
    let mut reader = broker.subscribe(&format!("{LAMP}/#"), &[]).await;

    broker
        .publish(&format!("{LAMP}/twin/update"), update("e1", "OFF"))
        .await;
    let result = reader.next_of("/twin/update/result").await;
    assert_eq!(result["event_id"], "e1");
    assert_eq!(result["twin"]["power"]["actual"]["value"], "OFF");
    assert!(result["twin"]["power"]["actual"]["metadata"]["timestamp"].is_i64());
    let document = reader.next_of("/twin/update/document").await;
    assert_eq!(document["event_id"], "e1");
    assert!(document["twin"]["power"]["last"].is_null());
    assert!(reader.is_silent().await, "no wish, no delta");

    let wish = json!({"event_id": "e2", "twin": {"power": {"expected": {"value": "ON"}}}}).to_string();
    broker.publish(&format!("{LAMP}/twin/update"), wish).await;
    let delta = reader.next_of("/twin/update/delta").await;
    assert_eq!(delta["delta"], json!({"power": "ON"}));
    assert_eq!(delta["twin"]["power"]["actual"]["value"], "OFF");
    assert_ne!(delta["event_id"], "e2", "a delta has a mark of its own");

    broker
        .publish(&format!("{LAMP}/twin/update"), update("e3", "ON"))
        .await;
    assert_eq!(reader.next_of("/twin/update/document").await["event_id"], "e3");
    assert!(reader.is_silent().await, "the wish is met");

    let gone = json!({"event_id": "e4", "twin": {"power": null}}).to_string();
    broker.publish(&format!("{LAMP}/twin/update"), gone).await;
    let document = reader.next_of("/twin/update/document").await;
    assert!(document["twin"]["power"]["current"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn twins_states_and_memberships_are_told_to_who_asks_and_who_listens() {
    let (broker, twins) = (Broker::open("").await, Fake::with(&["device/lamp"]));
    let _bridge = Bridge::start(broker.port, &twins).await;
    let mut reader = broker.subscribe("$hw/events/#", &[]).await;

    let wish = json!({"event_id": "w", "twin": {"power": {"expected": {"value": "ON"}}}}).to_string();
    broker.publish(&format!("{LAMP}/twin/update"), wish).await;
    reader.next_of("/twin/update/delta").await;

    broker
        .publish(&format!("{LAMP}/twin/get"), r#"{"event_id":"g"}"#)
        .await;
    let twin = reader.next_of("/twin/get/result").await;
    assert_eq!(twin["event_id"], "g");
    assert_eq!(twin["twin"]["power"]["expected"]["value"], "ON");
    assert_eq!(reader.next_of("/delta").await["delta"], json!({"power": "ON"}));

    broker
        .publish(
            &format!("{LAMP}/state/update"),
            r#"{"event_id":"s","state":"online"}"#,
        )
        .await;
    let state = reader.next_of("/state/update/result").await;
    assert_eq!(
        (&state["device"]["name"], &state["device"]["state"]),
        (&json!("lamp"), &json!("online"))
    );
    assert_ne!(state["event_id"], "s");
    assert_eq!(reader.next_of("/delta").await["delta"], json!({"power": "ON"}));
    broker
        .publish(&format!("{LAMP}/state/update"), r#"{"state":"disconnected"}"#)
        .await;
    let state = reader.next_of("/state/update/result").await;
    assert_eq!(state["device"]["state"], "offline");
    assert!(
        state["device"]["lastOnlineTime"].is_string(),
        "it is not forgotten"
    );

    broker
        .publish("$hw/events/node/pump-7/membership/get", r#"{"event_id":"m"}"#)
        .await;
    let members = reader.next_of("/membership/get/result").await;
    assert_eq!(members["event_id"], "m");
    assert_eq!(members["devices"][0]["id"], "device/lamp");
    assert_eq!(members["devices"][0]["state"], "offline");

    twins.serve(&["device/lamp", "events/twin"]);
    let updated = reader.next_of("/membership/updated").await;
    assert_eq!(updated["added_devices"][0]["id"], "events/twin");
    twins.serve(&["events/twin"]);
    let updated = reader.next_of("/membership/updated").await;
    assert_eq!(updated["removed_devices"][0]["id"], "device/lamp");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_mappers_and_the_cluster_say_is_told_too() {
    let (broker, twins) = (Broker::open("").await, Fake::with(&["device/lamp"]));
    let _bridge = Bridge::start(broker.port, &twins).await;
    let mut reader = broker.subscribe(&format!("{LAMP}/#"), &[]).await;
    let report = |origin, observation| Report {
        device: DeviceName::new("device", "lamp"),
        seen: vec![Seen {
            property: "power".to_owned(),
            observation,
            clue: Clue::default(),
        }],
        event_id: "r".to_owned(),
        origin,
    };
    twins.say(report(Origin::Mapper, Observation::Value("OFF".to_owned())));
    assert_eq!(reader.next_of("/twin/update/result").await["event_id"], "r");
    assert_eq!(reader.next_of("/twin/update/document").await["event_id"], "r");
    twins.say(report(Origin::Node, Observation::Wished("ON".to_owned())));
    let (topic, _) = reader.next().await;
    assert!(topic.ends_with("/document"), "{topic}");
    assert_eq!(
        reader.next_of("/twin/update/delta").await["delta"],
        json!({"power": "ON"})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_taken_is_refused_by_name_and_the_others_go_on() {
    let (broker, twins) = (
        Broker::open("").await,
        Fake::with(&["device/lamp", "device/pump"]),
    );
    let bridge = Bridge::start(broker.port, &twins).await;
    let mut reader = broker
        .subscribe("$hw/events/device/+/+/twin/update/result", &[])
        .await;
    let topic = format!("{LAMP}/twin/update");

    for (payload, code) in [
        (b"{".to_vec(), 400),
        (b"\xff\xfe".to_vec(), 400),
        (br#"{"event_id":"x","twin":7}"#.to_vec(), 400),
        (
            br#"{"event_id":"x","twin":{"p":{"expected":{"value":"never"}}}}"#.to_vec(),
            400,
        ),
        (update("x", &"v".repeat(70_000)).into_bytes(), 413),
    ] {
        broker.publish(&topic, &payload).await;
        let (_, result) = reader.next().await;
        assert_eq!(result["code"], code, "{result}");
        assert!(result["reason"].is_string());
    }
    broker
        .publish("$hw/events/device/device/ghost/twin/update", update("x", "1"))
        .await;
    let (at, result) = reader.next().await;
    assert!(at.contains("/device/ghost/"), "{at}");
    assert_eq!((&result["code"], &result["event_id"]), (&json!(404), &json!("x")));

    broker
        .publish("$hw/events/device/device/pump/twin/update", update("ok", "1"))
        .await;
    assert_eq!(reader.next().await.1["event_id"], "ok");
    assert_eq!(bridge.counters.read().refused, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_message_is_old_and_changes_nothing() {
    let (broker, twins) = (Broker::open("").await, Fake::with(&["device/lamp"]));
    let topic = format!("{LAMP}/twin/update");
    assert!(
        broker
            .try_publish(&topic, update("old", "ON").as_bytes(), &["-r"])
            .await
    );
    let bridge = Bridge::start(broker.port, &twins).await;
    let mut reader = broker.subscribe(&format!("{topic}/result"), &[]).await;
    broker.publish(&topic, update("new", "OFF")).await;
    assert_eq!(reader.next().await.1["event_id"], "new");
    assert_eq!(twins.journal(), ["OFF"]);
    assert_eq!(bridge.counters.read().retained_ignored, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_message_is_taken_and_one_that_is_too_large_stops_nobody() {
    // No limit at the broker: it is the client's own that must hold.
    let (broker, twins) = (Broker::open("").await, Fake::with(&["device/lamp"]));
    let bridge = Bridge::start(broker.port, &twins).await;
    let topic = format!("{LAMP}/twin/update");
    let mut reader = broker.subscribe(&format!("{topic}/result"), &[]).await;
    broker.publish(&topic, update("large", &"x".repeat(20_000))).await;
    assert_eq!(reader.next().await.1["event_id"], "large");
    broker.publish(&topic, update("huge", &"x".repeat(300_000))).await;
    broker.publish(&topic, update("after", "1")).await;
    assert_eq!(reader.next().await.1["event_id"], "after");
    assert_eq!(
        bridge.counters.read().reconnects,
        0,
        "MQTT 5 does not even deliver it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_and_not_answered_when_the_node_died_is_answered_by_the_next() {
    let (broker, twins) = (Broker::open("").await, Fake::with(&["device/lamp"]));
    let topic = format!("{LAMP}/twin/update");
    let mut reader = broker.subscribe(&format!("{topic}/result"), &[]).await;
    let bridge = Bridge::start(broker.port, &twins).await;
    twins.stick(true);
    broker.publish(&topic, update("e1", "1")).await;
    broker.publish(&topic, update("e2", "2")).await;
    bridge.until(|counted| counted.messages_in == 2).await;
    while twins.journal().is_empty() {
        sleep(Duration::from_millis(20)).await;
    }
    assert!(reader.is_silent().await, "nothing is answered before it is taken");
    bridge.kill().await;
    twins.stick(false);
    broker.publish(&topic, update("e3", "3")).await;
    let _next = Bridge::start(broker.port, &twins).await;
    for event_id in ["e1", "e2", "e3"] {
        assert_eq!(reader.next().await.1["event_id"], event_id);
    }
    assert_eq!(
        twins.journal(),
        ["1", "3"],
        "what was taken is not taken again before the newest"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_of_the_broker_everything_goes_on_and_nothing_is_taken_twice() {
    let mut broker = Broker::open("persistence true").await;
    let twins = Fake::with(&["device/lamp"]);
    let bridge = Bridge::start(broker.port, &twins).await;
    let topic = format!("{LAMP}/twin/update");
    broker.publish(&topic, update("e1", "1")).await;
    while twins.journal().is_empty() {
        sleep(Duration::from_millis(20)).await;
    }
    twins.stick(true);
    broker.publish(&topic, update("e2", "2")).await;
    while twins.journal().len() < 2 {
        sleep(Duration::from_millis(20)).await;
    }
    // The second was taken, and its result is not even made.
    broker.restart(Duration::from_secs(1)).await;
    bridge
        .until(|counted| counted.connected && counted.reconnects == 1)
        .await;
    let mut reader = broker.subscribe(&format!("{topic}/result"), &[]).await;
    twins.stick(false);
    // The broker may have restarted before it heard that the first was taken.
    assert_eq!(reader.next_but("e1").await["event_id"], "e2");
    broker.publish(&topic, update("e3", "3")).await;
    assert_eq!(reader.next().await.1["event_id"], "e3");
    assert_eq!(twins.journal(), ["1", "2", "3"]);
    assert!(bridge.counters.read().repeats >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_it_tries_on_and_ends_when_it_is_told() {
    let twins = Fake::with(&[]);
    let mut config = Mqtt::default();
    config.address.port = 1;
    let mut bridge = Bridge::begin(config, &twins);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(bridge.counters.read(), Counted::default());
    bridge.stop.cancel();
    bridge.task.join_next().await.unwrap().unwrap();
}
