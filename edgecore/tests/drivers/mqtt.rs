//! `tombolo/mqtt` against a real broker.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use edgecore::devices::Observation;
use protocol::devices::{DeviceName, DeviceState};
use serde_json::{Value, json};

use crate::broker::{Broker, Client};
use crate::node::Node;
use crate::relay::Relay;

pub(crate) fn lamp(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "hall", "uid": "u"},
        "spec": {
            "protocol": {
                "protocolName": "tombolo/mqtt",
                "configData": {
                    "baseTopic": format!("zigbee2mqtt/{name}"),
                    "availability": {"topic": "~/availability", "path": "$.state"}
                }
            },
            "properties": [{
                "name": "power", "confirmTimeout": 3000,
                "visitors": {"configData": {
                    "read": {"path": "$.state"}, "map": {"ON": true, "OFF": false},
                    "write": {"topic": "~/set", "template": "{\"state\":{{ value | tojson }}}"}
                }}
            }]
        }
    })
}

pub(crate) fn value(text: &str) -> Observation {
    Observation::Value(text.to_owned())
}

#[tokio::test]
async fn a_lamp_is_read_and_set_and_a_person_at_the_switch_wins() {
    let broker = Broker::start("lamp").await;
    let mut devices = Client::connect(&broker, &["zigbee2mqtt/lamp/set"]).await;
    devices
        .publish("zigbee2mqtt/lamp", true, r#"{"state": "OFF"}"#)
        .await;
    devices
        .publish("zigbee2mqtt/lamp/availability", true, r#"{"state": "online"}"#)
        .await;
    let (node, name) = (
        Node::start(broker.port, [lamp("lamp")]),
        DeviceName::new("hall", "lamp"),
    );

    node.until_state(&name, DeviceState::Online).await;
    let old = Observation::Retained("false".into());
    node.twins.until(&name, "power", &old).await;

    node.twins.wish(&name, "power", "true", 1);
    let set = ("zigbee2mqtt/lamp/set".to_owned(), r#"{"state":"ON"}"#.to_owned());
    assert_eq!(devices.next().await, set);
    devices
        .publish("zigbee2mqtt/lamp", true, r#"{"state": "ON"}"#)
        .await;
    node.twins.until(&name, "power", &value("true")).await;

    devices
        .publish("zigbee2mqtt/lamp", true, r#"{"state": "OFF"}"#)
        .await;
    node.twins.until(&name, "power", &value("false")).await;
    assert!(devices.is_quiet(Duration::from_secs(3)).await);
    node.stop().await;
}

#[tokio::test]
async fn a_wish_waits_for_a_device_that_is_away_and_an_unanswered_one_is_not_confirmed() {
    let broker = Broker::start("away").await;
    let mut devices = Client::connect(&broker, &["zigbee2mqtt/lamp/set"]).await;
    devices
        .publish("zigbee2mqtt/lamp/availability", true, r#"{"state": "offline"}"#)
        .await;
    let (node, name) = (
        Node::start(broker.port, [lamp("lamp")]),
        DeviceName::new("hall", "lamp"),
    );
    node.twins.wish(&name, "power", "true", 1);
    assert!(devices.is_quiet(Duration::from_secs(3)).await);
    assert_eq!(node.twins.states(&name), [DeviceState::Offline]);

    devices
        .publish("zigbee2mqtt/lamp/availability", true, r#"{"state": "online"}"#)
        .await;
    assert_eq!(devices.next().await.1, r#"{"state":"ON"}"#);
    node.twins.until_given_up(&name, "power", 1, "NotConfirmed").await;
    node.stop().await;
}

#[tokio::test]
async fn after_a_restart_of_the_broker_everything_goes_on() {
    let mut broker = Broker::start("restart").await;
    let mut devices = Client::connect(&broker, &["zigbee2mqtt/lamp/set"]).await;
    let (node, name) = (
        Node::start(broker.port, [lamp("lamp")]),
        DeviceName::new("hall", "lamp"),
    );
    devices
        .publish("zigbee2mqtt/lamp/availability", true, r#"{"state": "online"}"#)
        .await;
    node.until_state(&name, DeviceState::Online).await;
    broker.restart().await;
    devices = {
        drop(devices);
        Client::connect(&broker, &["zigbee2mqtt/lamp/set"]).await
    };
    devices
        .publish("zigbee2mqtt/lamp", false, r#"{"state": "ON"}"#)
        .await;
    node.twins.until(&name, "power", &value("true")).await;
    node.twins.wish(&name, "power", "false", 2);
    assert_eq!(devices.next().await.1, r#"{"state":"OFF"}"#);
    // The broker kept the session; what it had retained is no news.
    assert_eq!(node.twins.states(&name), [DeviceState::Online]);
    node.stop().await;
}

#[tokio::test]
async fn a_device_that_was_back_before_the_node_is_there_and_is_set() {
    let broker = Broker::start("back").await;
    let relay = Relay::to(broker.port).await;
    let mut devices = Client::connect(&broker, &["zigbee2mqtt/lamp/set", "mark"]).await;
    let availability = "zigbee2mqtt/lamp/availability";
    devices
        .publish(availability, true, r#"{"state": "online"}"#)
        .await;
    let (node, name) = (
        Node::start(relay.port, [lamp("lamp")]),
        DeviceName::new("hall", "lamp"),
    );
    node.until_state(&name, DeviceState::Online).await;
    relay.cut().await;
    // Its will the broker keeps for the node, and that it is back the broker does not.
    devices
        .publish(availability, true, r#"{"state": "offline"}"#)
        .await;
    devices
        .publish("zigbee2mqtt/lamp", false, r#"{"state": "OFF"}"#)
        .await;
    devices
        .publish_once(availability, true, r#"{"state": "online"}"#)
        .await;
    devices.publish("mark", false, "").await;
    assert_eq!(devices.next().await.0, "mark");
    relay.mend();
    node.twins.until(&name, "power", &value("false")).await;
    node.twins.wish(&name, "power", "true", 1);
    assert_eq!(devices.next().await.1, r#"{"state":"ON"}"#);
    node.until_state(&name, DeviceState::Online).await;
    node.stop().await;
}

#[tokio::test]
async fn what_could_not_be_kept_the_broker_keeps() {
    let broker = Broker::start("unacked").await;
    let devices = Client::connect(&broker, &[]).await;
    let (lamp_one, name) = (lamp("lamp"), DeviceName::new("hall", "lamp"));
    let node = Node::start(broker.port, [lamp_one.clone()]);
    devices
        .publish("zigbee2mqtt/lamp/availability", true, r#"{"state": "online"}"#)
        .await;
    node.until_state(&name, DeviceState::Online).await;
    devices
        .publish("zigbee2mqtt/lamp", false, r#"{"state": "OFF"}"#)
        .await;
    node.twins.until(&name, "power", &value("false")).await;
    node.twins.refuse_next(1000);
    devices
        .publish("zigbee2mqtt/lamp", false, r#"{"state": "ON"}"#)
        .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    node.stop().await;
    let node = Node::start(broker.port, [lamp_one]);
    node.twins.until(&name, "power", &value("true")).await;
    // What had been kept is not said again.
    assert_eq!(node.twins.observed(&name), [("power".to_owned(), value("true"))]);
    node.stop().await;
}

#[tokio::test]
async fn hostile_messages_cost_their_device_alone() {
    let broker = Broker::start("hostile").await;
    let devices = Client::connect(&broker, &[]).await;
    let (one, other) = (DeviceName::new("hall", "one"), DeviceName::new("hall", "other"));
    let node = Node::start(broker.port, [lamp("one"), lamp("other")]);
    for name in ["one", "other"] {
        let topic = format!("zigbee2mqtt/{name}/availability");
        devices.publish(&topic, true, r#"{"state": "online"}"#).await;
    }
    node.until_state(&one, DeviceState::Online).await;
    node.until_state(&other, DeviceState::Online).await;

    devices
        .publish("zigbee2mqtt/one", false, vec![b'['; 200 * 1024])
        .await;
    let fault = Observation::Fault("zigbee2mqtt/one: the payload is not JSON".into());
    node.twins.until(&one, "power", &fault).await;
    devices
        .publish("zigbee2mqtt/one", false, vec![b' '; 300 * 1024])
        .await;
    devices.publish("zigbee2mqtt/one", false, vec![0xff; 100]).await;
    devices
        .publish("zigbee2mqtt/other", false, r#"{"state": "ON"}"#)
        .await;
    node.twins.until(&other, "power", &value("true")).await;
    devices
        .publish("zigbee2mqtt/one", false, r#"{"state": "ON"}"#)
        .await;
    node.twins.until(&one, "power", &value("true")).await;
    node.stop().await;
}

#[tokio::test]
async fn devices_come_and_go_on_one_connection() {
    let broker = Broker::start("fleet").await;
    let devices = Client::connect(&broker, &[]).await;
    let (one, other) = (DeviceName::new("hall", "one"), DeviceName::new("hall", "other"));
    let node = Node::start(broker.port, [lamp("one")]);
    devices
        .publish("zigbee2mqtt/one/availability", true, r#"{"state": "online"}"#)
        .await;
    node.until_state(&one, DeviceState::Online).await;
    node.twins.serve([lamp("one"), lamp("other")]);
    devices
        .publish("zigbee2mqtt/other/availability", true, r#"{"state": "online"}"#)
        .await;
    node.until_state(&other, DeviceState::Online).await;
    devices
        .publish("zigbee2mqtt/other", false, r#"{"state": "ON"}"#)
        .await;
    node.twins.until(&other, "power", &value("true")).await;
    node.twins.serve([lamp("other")]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    devices
        .publish("zigbee2mqtt/one", false, r#"{"state": "ON"}"#)
        .await;
    devices
        .publish("zigbee2mqtt/other", false, r#"{"state": "OFF"}"#)
        .await;
    node.twins.until(&other, "power", &value("false")).await;
    assert_eq!(node.twins.observed(&one), []);
    node.stop().await;
}

#[tokio::test]
async fn namespaces_share_a_login_that_they_may_use_and_others_learn_nothing() {
    let users = [("drivers", "secret"), ("devices", "other")];
    let broker = Broker::with("login", &users).await;
    let devices = Client::login(&broker, &[], Some(users[1])).await;
    let folder = std::env::temp_dir().join(format!("tombolo-logins-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("site");
    std::fs::write(
        &file,
        "namespaces: [hall, lab]\nuser: drivers\npassword: secret\n",
    )
    .unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let of = |namespace: &str| {
        let mut lamp = lamp(namespace);
        lamp["metadata"]["namespace"] = json!(namespace);
        lamp["spec"]["protocol"]["configData"]["credentials"] = json!("site");
        lamp
    };
    let node = Node::with(broker.port, &folder, [of("hall"), of("lab"), of("street")]);
    let name = |namespace: &str| DeviceName::new(namespace, namespace);
    let refused = "there are no credentials site that namespace street may use";
    let refused = Observation::Fault(refused.to_owned());
    node.twins.until(&name("street"), "power", &refused).await;
    for namespace in ["hall", "lab"] {
        let topic = format!("zigbee2mqtt/{namespace}/availability");
        devices.publish(&topic, true, r#"{"state": "online"}"#).await;
        node.until_state(&name(namespace), DeviceState::Online).await;
    }
    for namespace in ["hall", "lab", "street"] {
        let topic = format!("zigbee2mqtt/{namespace}");
        devices.publish(&topic, false, r#"{"state": "ON"}"#).await;
    }
    for namespace in ["hall", "lab"] {
        node.twins.until(&name(namespace), "power", &value("true")).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for namespace in ["hall", "lab"] {
        assert_eq!(
            node.twins.states(&name(namespace)),
            [DeviceState::Online],
            "{namespace}"
        );
    }
    let street = node.twins.observed(&name("street"));
    assert!(street.iter().all(|(_, seen)| *seen == refused), "{street:?}");
    node.stop().await;
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_message_that_the_broker_would_not_take_is_refused_and_costs_nobody_the_connection() {
    let broker = Broker::configured("narrow", &[], "max_packet_size 2000").await;
    let mut devices = Client::connect(&broker, &["zigbee2mqtt/lamp/set"]).await;
    devices
        .publish("zigbee2mqtt/lamp/availability", true, r#"{"state": "online"}"#)
        .await;
    let (node, name) = (
        Node::start(broker.port, [lamp("lamp")]),
        DeviceName::new("hall", "lamp"),
    );
    node.until_state(&name, DeviceState::Online).await;
    node.twins.wish(&name, "power", &"x".repeat(2000), 1);
    let refused = "NotConfirmed: the broker takes no message so large";
    node.twins.until_given_up(&name, "power", 1, refused).await;
    node.twins.wish(&name, "power", "true", 2);
    assert_eq!(devices.next().await.1, r#"{"state":"ON"}"#);
    assert_eq!(node.twins.states(&name), [DeviceState::Online]);
    node.stop().await;
}

#[tokio::test]
async fn a_broker_that_wants_to_hear_of_its_clients_often_hears_of_the_driver() {
    // It hangs up after 15 s without a word.
    let broker = Broker::configured("quiet", &[], "max_keepalive 10").await;
    let node = Node::start(broker.port, [lamp("lamp")]);
    tokio::time::sleep(Duration::from_secs(28)).await;
    let log = broker.log();
    let connections = log.matches("New client connected").count();
    assert!(connections == 1 && !log.contains("disconnecting"), "{log}");
    node.stop().await;
}

#[tokio::test]
async fn what_the_broker_has_not_acknowledged_counts_for_nothing_and_is_written_again() {
    let broker = Broker::start("dead").await;
    let relay = Relay::to(broker.port).await;
    let topics = ["zigbee2mqtt/lamp/set", "zigbee2mqtt/blind/set"];
    let mut devices = Client::connect(&broker, &topics).await;
    let mut blind = lamp("blind");
    blind["spec"]["properties"][0]["visitors"]["configData"]["optimistic"] = json!(true);
    let node = Node::start(relay.port, [lamp("lamp"), blind]);
    let names = ["lamp", "blind"].map(|name| DeviceName::new("hall", name));
    for name in &names {
        let topic = format!("zigbee2mqtt/{}/availability", name.name);
        devices.publish(&topic, true, r#"{"state": "online"}"#).await;
        node.until_state(name, DeviceState::Online).await;
    }
    relay.dies();
    for name in &names {
        node.twins.wish(name, "power", "true", 1);
    }
    // Longer than `confirmTimeout`.
    assert!(devices.is_quiet(Duration::from_secs(5)).await);
    for name in &names {
        assert_eq!(node.twins.observed(name), [], "{name}");
    }
    relay.mend();
    let mut set = [devices.next().await, devices.next().await].map(|(topic, _)| topic);
    set.sort_unstable_by(|one, other| other.cmp(one));
    assert_eq!(set, topics);
    node.twins.until(&names[1], "power", &value("true")).await;
    devices
        .publish("zigbee2mqtt/lamp", false, r#"{"state": "ON"}"#)
        .await;
    node.twins.until(&names[0], "power", &value("true")).await;
    node.stop().await;
}
