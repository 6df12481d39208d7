//! What the broker delivers once more after a power cut: it may have forgotten that it was taken, and what came
//! since.

use edgecore::devices::Observation;
use protocol::devices::DeviceName;
use serde_json::json;

use crate::mqtt::{lamp, value};
use crate::node::Node;
use crate::pretender::{Pretender, Said};

const BEFORE: &[Said] = &[
    ("zigbee2mqtt/lamp/availability", r#"{"state": "offline"}"#),
    ("zigbee2mqtt/lamp", r#"{"state": "ON"}"#),
];
const AFTER: &[Said] = &[("zigbee2mqtt/other", r#"{"state": "ON"}"#)];

#[tokio::test]
async fn after_a_power_cut_what_the_nodes_broker_delivers_first_once_more_is_old_news() {
    let broker = Pretender::start(BEFORE, AFTER).await;
    let (name, other) = (DeviceName::new("hall", "lamp"), DeviceName::new("hall", "other"));
    let node = Node::after_a_power_cut(broker.port, [lamp("lamp"), lamp("other")]);
    node.twins.until(&other, "power", &value("true")).await;
    broker.until_acknowledged(&[1, 2, 3]).await;
    // It counts where nothing else is known.
    let old = Observation::Retained("true".into());
    assert_eq!(node.twins.observed(&name), [("power".to_owned(), old)]);
    assert_eq!(node.twins.states(&name), []);
    assert_eq!(node.counters.read().retained_ignored, 2);
    node.stop().await;
}

#[tokio::test]
async fn without_a_power_cut_what_the_broker_delivers_once_more_is_news() {
    let broker = Pretender::start(BEFORE, AFTER).await;
    let name = DeviceName::new("hall", "lamp");
    let node = Node::start(broker.port, [lamp("lamp"), lamp("other")]);
    node.twins.until(&name, "power", &value("true")).await;
    broker.until_acknowledged(&[1, 2, 3]).await;
    assert_eq!(node.counters.read().retained_ignored, 0);
    node.stop().await;
}

#[tokio::test]
async fn a_subscription_that_was_not_granted_is_made_again_and_from_its_answer_on_all_is_news() {
    const NEWS: &[Said] = &[("zigbee2mqtt/lamp", r#"{"state": "ON"}"#)];
    for refuses in [false, true] {
        let broker = Pretender::hanging_up(refuses, NEWS).await;
        let name = DeviceName::new("hall", "lamp");
        // Its availability alone would be asked for at each connection.
        let mut silent = lamp("lamp");
        let config = &mut silent["spec"]["protocol"]["configData"];
        config.as_object_mut().unwrap().remove("availability");
        let node = Node::after_a_power_cut(broker.port, [silent]);
        node.twins.until(&name, "power", &value("true")).await;
        node.stop().await;
    }
}

#[tokio::test]
async fn a_broker_elsewhere_has_not_lost_its_power() {
    let broker = Pretender::start(BEFORE, AFTER).await;
    let name = DeviceName::new("hall", "lamp");
    let mut elsewhere = lamp("lamp");
    let address = format!("mqtt://127.0.0.1:{}", broker.port);
    elsewhere["spec"]["protocol"]["configData"]["broker"] = json!(address);
    let node = Node::after_a_power_cut(1883, [elsewhere]);
    node.twins.until(&name, "power", &value("true")).await;
    node.stop().await;
}
