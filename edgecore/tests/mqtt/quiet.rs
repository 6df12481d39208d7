//! A link on which nothing happens for long.

use std::time::Duration;

use tokio::time::sleep;

use crate::Bridge;
use crate::broker::Broker;
use crate::twins::Fake;

/// This broker hangs up after 15 s without a word, in which a client that goes by what it offered itself would
/// have said nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_wants_to_hear_of_its_clients_often_hears_of_the_bridge() {
    let (broker, twins) = (
        Broker::open("max_keepalive 10").await,
        Fake::with(&["device/lamp"]),
    );
    let bridge = Bridge::start(broker.port, &twins).await;
    sleep(Duration::from_secs(28)).await;
    let counted = bridge.counters.read();
    assert_eq!((counted.connected, counted.reconnects), (true, 0));
}
