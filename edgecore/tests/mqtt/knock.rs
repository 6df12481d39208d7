//! Whoever looks how the broker receives the node leaves its session as it was.

use std::path::{Path, PathBuf};
use std::time::Duration;

use edgecore::devices::mqtt::{Answer, Knock, Mqtt, knock};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::access::shipped;
use crate::broker::Broker;
use crate::old::Old;
use crate::twins::Fake;
use crate::{Bridge, LAMP, pki};

const LOGIN: [&str; 4] = ["-u", "device/lamp", "-P", "secret"];

/// The shipped broker, and edgecore's credentials for it.
async fn site() -> (Broker, PathBuf) {
    let mut credentials = PathBuf::new();
    let broker = Broker::with(|port, dir| {
        credentials = dir.join("broker");
        pki::private(&credentials, "username: edgecore\npassword: secret\n");
        shipped(port, dir, &["edgecore", "device/lamp"])
    });
    let broker = broker.await;
    (broker, credentials)
}

fn at(port: u16, credentials: &Path) -> Mqtt {
    let mut config = Mqtt {
        credentials: Some(credentials.to_owned()),
        ..Mqtt::default()
    };
    config.address.port = port;
    config
}

fn well() -> Knock {
    Knock {
        own: Answer::LetIn,
        stranger: Some(Answer::Refused),
        has_login: true,
    }
}

/// The lamp says a value of a property of that name: updates of one property may be taken as one.
async fn say(broker: &Broker, value: &str, words: &[&str]) {
    let twin = json!({"twin": {value: {"actual": {"value": value}}}}).to_string();
    let topic = format!("{LAMP}/twin/update");
    assert!(broker.try_publish(&topic, twin.as_bytes(), words).await);
}

async fn until_taken(twins: &Fake, values: &[&str]) {
    let patience = Instant::now() + Duration::from_secs(10);
    loop {
        let mut taken = twins.journal();
        taken.sort_unstable();
        if taken == values {
            return;
        }
        assert!(Instant::now() < patience, "{taken:?}, not {values:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_node_that_is_away_still_waits_after_the_knock() {
    let (broker, credentials) = site().await;
    let twins = Fake::with(&["device/lamp"]);
    let bridge = Bridge::start_as(broker.port, &twins, Some(credentials.clone())).await;
    bridge.kill().await;
    say(&broker, "1", &LOGIN).await;
    let knocked = knock(&at(broker.port, &credentials), "pump-7", false).await;
    assert_eq!(knocked, Ok(well()));
    say(&broker, "2", &LOGIN).await;
    let _bridge = Bridge::start_as(broker.port, &twins, Some(credentials)).await;
    until_taken(&twins, &["1", "2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_at_a_broker_of_3_1_1_waits_too() {
    let (broker, twins) = (Broker::open("").await, Fake::with(&["device/lamp"]));
    let old = Old::of(broker.port).await;
    Bridge::start(old.port, &twins).await.kill().await;
    say(&broker, "1", &[]).await;
    let mut config = Mqtt::default();
    config.address.port = old.port;
    let knocked = knock(&config, "pump-7", false).await.unwrap();
    assert_eq!(
        (knocked.own, knocked.stranger),
        (Answer::LetIn, Some(Answer::LetIn))
    );
    say(&broker, "2", &[]).await;
    let _bridge = Bridge::start(old.port, &twins).await;
    until_taken(&twins, &["1", "2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_in_stays_in() {
    let (broker, credentials) = site().await;
    let twins = Fake::with(&["device/lamp"]);
    let bridge = Bridge::start_as(broker.port, &twins, Some(credentials.clone())).await;
    let knocked = knock(&at(broker.port, &credentials), "pump-7", true).await;
    assert_eq!(knocked, Ok(well()), "a stranger is still asked for");
    say(&broker, "1", &LOGIN).await;
    until_taken(&twins, &["1"]).await;
    assert_eq!(bridge.counters.read().reconnects, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told() {
    let (broker, credentials) = site().await;
    let wrong = credentials.with_file_name("wrong");
    pki::private(&wrong, "username: edgecore\npassword: other\n");
    let knocked = knock(&at(broker.port, &wrong), "pump-7", false).await.unwrap();
    assert_eq!(knocked.own, Answer::Refused);
}
