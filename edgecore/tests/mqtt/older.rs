//! The bridge at a broker that speaks 3.1.1 alone.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::broker::Broker;
use crate::old::Old;
use crate::twins::Fake;
use crate::{Bridge, LAMP, update};

#[tokio::test(flavor = "multi_thread")]
async fn on_3_1_1_a_message_that_is_too_large_is_passed_over() {
    let (broker, twins) = (Broker::open("").await, Fake::with(&["device/lamp"]));
    let old = Old::of(broker.port).await;
    let bridge = Bridge::start(old.port, &twins).await;
    let topic = format!("{LAMP}/twin/update");
    let mut reader = broker.subscribe(&format!("{topic}/result"), &[]).await;
    broker.publish(&topic, update("large", &"x".repeat(20_000))).await;
    assert_eq!(reader.next().await.1["event_id"], "large");
    broker
        .publish(&topic, update("huge", &"x".repeat(3_000_000)))
        .await;
    broker.publish(&topic, update("after", "1")).await;
    assert_eq!(reader.next().await.1["event_id"], "after");
    let counted = bridge.counters.read();
    assert_eq!(
        (counted.too_large, counted.sessions_dropped, counted.reconnects),
        (1, 0, 0)
    );
    bridge.kill().await;
    // It was acknowledged, as all else.
    let bridge = Bridge::start(old.port, &twins).await;
    broker.publish(&topic, update("last", "2")).await;
    assert_eq!(reader.next_but("after").await["event_id"], "last");
    assert_eq!(bridge.counters.read().too_large, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_3_1_1_what_cannot_be_read_costs_the_session_and_the_next_one_is_kept() {
    let (broker, twins) = (Broker::open("").await, Fake::with(&["device/lamp"]));
    let old = Old::of(broker.port).await;
    let topic = format!("{LAMP}/twin/update");
    let mut reader = broker.subscribe(&format!("{topic}/result"), &[]).await;
    let bridge = Bridge::start(old.port, &twins).await;
    old.spoil();
    // One that drops the session, and one that begins another.
    old.until_accepted(3).await;
    bridge
        .until(|counted| counted.sessions_dropped == 1 && counted.connected && counted.reconnects == 1)
        .await;
    sleep(Duration::from_millis(500)).await;
    broker.publish(&topic, update("after", "1")).await;
    assert_eq!(reader.next().await.1["event_id"], "after");
    bridge.kill().await;
    broker.publish(&topic, update("away", "2")).await;
    let bridge = Bridge::start(old.port, &twins).await;
    assert_eq!(reader.next_but("after").await["event_id"], "away");
    assert_eq!(bridge.counters.read().sessions_dropped, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_refuses_mqtt_5_and_does_not_hang_up_is_understood_at_once() {
    let (broker, twins) = (Broker::open("").await, Fake::with(&["device/lamp"]));
    let (old, began) = (Old::patient(broker.port).await, Instant::now());
    let _bridge = Bridge::start(old.port, &twins).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}
