//! `tombolo/mqtt` against a real broker that speaks 3.1.1 alone.

use std::time::Duration;

use edgecore::devices::Observation;
use protocol::devices::{DeviceName, DeviceState};
use tokio::time::{Instant, sleep};

use crate::broker::{Broker, Client};
use crate::mqtt::{lamp, value};
use crate::node::Node;
use crate::old::Old;

const ON: &str = r#"{"state": "ON"}"#;
const OFF: &str = r#"{"state": "OFF"}"#;

async fn online(devices: &Client, names: &[&str]) {
    for name in names {
        let topic = format!("zigbee2mqtt/{name}/availability");
        devices.publish(&topic, true, r#"{"state": "online"}"#).await;
    }
}

fn huge() -> String {
    format!(r#"{{"state": "{}"}}"#, "x".repeat(3_000_000))
}

#[tokio::test]
async fn on_3_1_1_a_lamp_is_read_and_set_and_a_message_that_is_too_large_costs_nobody_the_connection() {
    let broker = Broker::start("old").await;
    let mut devices = Client::connect(&broker, &["zigbee2mqtt/lamp/set"]).await;
    online(&devices, &["lamp"]).await;
    let (old, name) = (Old::of(broker.port).await, DeviceName::new("hall", "lamp"));
    let node = Node::start(old.port, [lamp("lamp")]);
    node.until_state(&name, DeviceState::Online).await;
    devices.publish("zigbee2mqtt/lamp", false, ON).await;
    node.twins.until(&name, "power", &value("true")).await;

    devices.publish("zigbee2mqtt/lamp", false, huge()).await;
    let fault = "zigbee2mqtt/lamp: a message of more than 256 KiB was not taken";
    let fault = Observation::Fault(fault.to_owned());
    node.twins.until(&name, "power", &fault).await;
    devices.publish("zigbee2mqtt/lamp", false, OFF).await;
    node.twins.until(&name, "power", &value("false")).await;
    node.twins.wish(&name, "power", "true", 1);
    let set = ("zigbee2mqtt/lamp/set".to_owned(), r#"{"state":"ON"}"#.to_owned());
    assert_eq!(devices.next().await, set);
    node.stop().await;
    assert_eq!(old.accepted(), 1);

    // It was acknowledged: the broker does not deliver it again.
    let node = Node::start(old.port, [lamp("lamp")]);
    node.until_state(&name, DeviceState::Online).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(node.counters.read().too_large, 0);
    node.stop().await;
}

#[tokio::test]
async fn on_3_1_1_a_kept_message_that_is_too_large_is_passed_over_at_each_subscription() {
    let broker = Broker::start("kept-old").await;
    let devices = Client::connect(&broker, &[]).await;
    online(&devices, &["one", "other"]).await;
    devices.publish("zigbee2mqtt/one", true, huge()).await;
    let old = Old::of(broker.port).await;
    let (one, other) = (DeviceName::new("hall", "one"), DeviceName::new("hall", "other"));
    for connections in 1..3 {
        let node = Node::start(old.port, [lamp("one"), lamp("other")]);
        node.until_state(&one, DeviceState::Online).await;
        node.until_state(&other, DeviceState::Online).await;
        for (name, device) in [("one", &one), ("other", &other)] {
            devices.publish(&format!("zigbee2mqtt/{name}"), false, ON).await;
            node.twins.until(device, "power", &value("true")).await;
        }
        let counted = node.counters.read();
        assert_eq!((counted.too_large, counted.sessions_dropped), (1, 0));
        assert_eq!(old.accepted(), connections);
        node.stop().await;
    }
}

#[tokio::test]
async fn on_3_1_1_what_came_while_the_node_was_away_is_delivered_to_it() {
    let broker = Broker::start("away-old").await;
    let devices = Client::connect(&broker, &[]).await;
    let (old, name) = (Old::of(broker.port).await, DeviceName::new("hall", "lamp"));
    online(&devices, &["lamp"]).await;
    let node = Node::start(old.port, [lamp("lamp")]);
    node.until_state(&name, DeviceState::Online).await;
    node.stop().await;
    devices.publish("zigbee2mqtt/lamp", false, ON).await;
    let node = Node::start(old.port, [lamp("lamp")]);
    node.twins.until(&name, "power", &value("true")).await;
    node.stop().await;
    // What was taken was acknowledged.
    let node = Node::start(old.port, [lamp("lamp")]);
    node.until_state(&name, DeviceState::Online).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(node.twins.observed(&name), []);
    node.stop().await;
}

#[tokio::test]
async fn on_3_1_1_a_session_that_had_to_be_dropped_is_counted_and_the_next_one_is_kept() {
    let broker = Broker::start("spoilt-old").await;
    let devices = Client::connect(&broker, &[]).await;
    let (old, name) = (Old::of(broker.port).await, DeviceName::new("hall", "lamp"));
    online(&devices, &["lamp"]).await;
    let node = Node::start(old.port, [lamp("lamp")]);
    node.until_state(&name, DeviceState::Online).await;
    old.spoil();
    // One that drops the session, and one that begins another.
    old.until_accepted(3).await;
    assert_eq!(node.counters.read().sessions_dropped, 1);
    while node.twins.observed(&name).is_empty() {
        devices.publish("zigbee2mqtt/lamp", false, OFF).await;
        sleep(Duration::from_millis(50)).await;
    }
    node.stop().await;
    devices.publish("zigbee2mqtt/lamp", false, ON).await;
    let next = Node::start(old.port, [lamp("lamp")]);
    next.twins.until(&name, "power", &value("true")).await;
    next.stop().await;
}

#[tokio::test]
async fn a_broker_that_refuses_mqtt_5_and_does_not_hang_up_is_understood_at_once() {
    let broker = Broker::start("patient-old").await;
    let devices = Client::connect(&broker, &[]).await;
    online(&devices, &["lamp"]).await;
    let (old, began) = (Old::patient(broker.port).await, Instant::now());
    let node = Node::start(old.port, [lamp("lamp")]);
    let name = DeviceName::new("hall", "lamp");
    node.until_state(&name, DeviceState::Online).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    node.stop().await;
}
