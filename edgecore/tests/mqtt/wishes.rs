//! What a device should be reaches it, whatever the broker and the answers do.

use std::time::Duration;

use edgecore::devices::{Clue, Observation, Origin, Report, Seen};
use protocol::devices::DeviceName;
use serde_json::json;
use tokio::time::sleep;

use super::broker::Broker;
use super::twins::Fake;
use super::{Bridge, LAMP, update};

/// The cluster wants this.
fn wish(value: &str) -> Report {
    Report {
        device: DeviceName::new("device", "lamp"),
        seen: vec![Seen {
            property: "power".to_owned(),
            observation: Observation::Wished(value.to_owned()),
            clue: Clue::default(),
        }],
        event_id: String::new(),
        origin: Origin::Node,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_of_before_the_start_or_without_a_broker_reaches_the_device_with_the_broker() {
    let (mut broker, twins) = (
        Broker::open("persistence true").await,
        Fake::with(&["device/lamp"]),
    );
    let delta = format!("{LAMP}/twin/update/delta");
    let mut lamp = broker.subscribe(&delta, &["-c", "-i", "lamp"]).await;
    twins.say(wish("ON"));
    let bridge = Bridge::start(broker.port, &twins).await;
    assert_eq!(lamp.next().await.1["delta"], json!({"power": "ON"}));
    assert!(lamp.is_silent().await, "once");

    let while_it_is_away = async {
        bridge.until(|counted| !counted.connected).await;
        twins.say(wish("DIM"));
    };
    tokio::join!(broker.restart(Duration::from_secs(2)), while_it_is_away);
    assert_eq!(lamp.next().await.1["delta"], json!({"power": "DIM"}));
    assert!(lamp.is_silent().await, "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_late_does_not_tell_an_older_wish_last() {
    let (broker, twins) = (Broker::open("").await, Fake::with(&["device/lamp"]));
    let _bridge = Bridge::start(broker.port, &twins).await;
    let delta = format!("{LAMP}/twin/update/delta");
    let mut lamp = broker.subscribe(&delta, &[]).await;
    twins.say(wish("ON"));
    assert_eq!(lamp.next().await.1["delta"], json!({"power": "ON"}));
    twins.stick(true);
    broker
        .publish(&format!("{LAMP}/twin/update"), update("e", "OFF"))
        .await;
    while twins.journal().is_empty() {
        sleep(Duration::from_millis(20)).await;
    }
    // The report is taken, but not on flash.
    twins.say(wish("DIM"));
    assert_eq!(lamp.next().await.1["delta"], json!({"power": "DIM"}));
    twins.stick(false);
    assert_eq!(lamp.next().await.1["delta"], json!({"power": "DIM"}));
}
