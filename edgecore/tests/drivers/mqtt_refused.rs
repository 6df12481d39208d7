//! What the broker will not have: its ACL does not let the node set the device.

use std::time::Duration;

use edgecore::devices::Observation;
use protocol::devices::{DeviceName, DeviceState};
use serde_json::json;

use crate::broker::{Broker, Client};
use crate::folder::Folder;
use crate::mqtt::lamp;
use crate::node::Node;

#[tokio::test]
async fn a_write_that_the_broker_refuses_reaches_nobody_and_its_reason_is_told() {
    let folder = Folder::new("refused");
    folder.write("acl", "topic read #\ntopic write zigbee2mqtt/+/availability\n");
    let settings = format!("acl_file {}", folder.path().join("acl").display());
    let broker = Broker::configured("refused", &[], &settings).await;
    let mut devices = Client::connect(&broker, &["zigbee2mqtt/+/set"]).await;
    let manifests = [("once", 1), ("exactly", 2)].map(|(name, qos)| {
        let mut lamp = lamp(name);
        let visitor = &mut lamp["spec"]["properties"][0]["visitors"]["configData"];
        visitor["optimistic"] = json!(true);
        visitor["write"]["qos"] = json!(qos);
        lamp
    });
    let node = Node::start(broker.port, manifests);
    for name in ["once", "exactly"].map(|name| DeviceName::new("hall", name)) {
        let topic = format!("zigbee2mqtt/{}/availability", name.name);
        devices.publish(&topic, true, r#"{"state": "online"}"#).await;
        node.until_state(&name, DeviceState::Online).await;
        node.twins.wish(&name, "power", "true", 1);
        let why = "NotConfirmed: the broker refused it: NotAuthorized";
        node.twins.until_given_up(&name, "power", 1, why).await;
        let told = node.twins.observed(&name);
        let values = told
            .iter()
            .filter(|(_, seen)| matches!(seen, Observation::Value(_)));
        assert_eq!(values.count(), 0, "nothing of it came: {told:?}");
    }
    assert!(devices.is_quiet(Duration::from_millis(100)).await);
    node.stop().await;
}
