//! One client means ill, by the shipped broker settings; the other devices go on.
//!
//! Of attack 21 on a node (clients of the site's broker), where each is tried:
//!
//! | attack | test |
//! |---|---|
//! | anonymous or foreign client, forged result, reader of `$hw/#` | `access.rs`: the shipped settings let a device speak for itself alone |
//! | 256 MiB payload, `QoS` 2 flood and open handshakes, retained spam, topic with `#` or NUL, takeover of a client id | here |
//! | larger than edgecore takes, at a broker without a limit | `main.rs`: a large message is taken …, on 3.1.1 … |
//! | malformed, non-UTF-8, too large a value, unknown device | `main.rs`: what is not taken is refused by name … |
//! | edgecore away while others publish | here: what a thousand a second say … |
//! | hostile messages of a `tombolo/mqtt` device | `tests/drivers/mqtt.rs` |
//! | a slave that hangs or talks nonsense | `tests/drivers/modbus.rs` |
//! | a mapper that hangs, or refuses | `tests/dmi/main.rs` |
//!
//! Traps of other implementations, where each is tried:
//!
//! | trap | test |
//! |---|---|
//! | reports while offline are dropped | `core/tests/flash.rs`, end to end in `e2e/devices.rs` and `e2e/counters.rs` |
//! | one report a second for all mappers | `tests/dmi/main.rs`: reports are taken … without a limit |
//! | a report without `observedDesired`, `reported` or a registration without its mapper is a crash | `dmi/service/tests.rs`, `dmi/roster/tests.rs` |
//! | a mapper's new socket is not kept; a restart of edgecore forgets mappers | `tests/dmi/main.rs`: a registration outlives edgecore … |
//! | namespaces called `dev`, `device`, `events` | `mqtt/topic.rs` |
//! | values are short, ASCII, without spaces | here: a value is any text |
//! | numbers in `configData` lose digits, lists and objects are dropped | `dmi/message/tests.rs` |
//! | the time last online is forgotten at offline | `main.rs`: twins, states and memberships … |
//! | clean sessions, nothing is buffered | `main.rs`: what was taken and not answered …, after a restart of the broker … |

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::QoS;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::access::shipped;
use crate::broker::Broker;
use crate::speaker::Speaker;
use crate::twins::Fake;
use crate::{Bridge, LAMP, pki, update};

const PUMP: &str = "device/pump";
/// As a user of the broker has it, for the broker's own clients.
const AS_LAMP: [&str; 4] = ["-u", "device/lamp", "-P", "secret"];
const SOON: Duration = Duration::from_secs(30);

/// The shipped settings, a bridge, and a pump that is well-behaved.
struct Site {
    broker: Broker,
    credentials: PathBuf,
    twins: Arc<Fake>,
    bridge: Bridge,
    pump: Speaker,
}

impl Site {
    async fn begin() -> Self {
        let mut credentials = PathBuf::new();
        let broker = Broker::with(|port, dir| {
            credentials = dir.join("broker");
            pki::private(&credentials, "username: edgecore\npassword: secret\n");
            shipped(port, dir, &["edgecore", "device/lamp", PUMP])
        })
        .await;
        let twins = Fake::with(&["device/lamp", PUMP]);
        let bridge = Bridge::start_as(broker.port, &twins, Some(credentials.clone())).await;
        let pump = Speaker::connect(broker.port, PUMP).await;
        Self {
            broker,
            credentials,
            twins,
            bridge,
            pump,
        }
    }

    /// The pump is answered, and edgecore's connection is the first one still.
    async fn goes_on(&self) {
        let said = self.pump.answered();
        self.pump.say(said as u64 + 1, QoS::AtLeastOnce).await;
        self.pump.until_answered(said + 1).await;
        assert_eq!(self.bridge.counters.read().reconnects, 0);
    }
}

/// The lamp's connection, packet by packet, in MQTT 3.1.1.
struct Raw(TcpStream);

impl Raw {
    async fn connect(port: u16) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut body = b"\x00\x04MQTT\x04\xc2\x00\x3c".to_vec();
        for text in ["lamp", "device/lamp", "secret"] {
            body.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
            body.extend(text.as_bytes());
        }
        stream.write_all(&packet(0x10, &body)).await.unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [0x20, 2, 0, 0]);
        Self(stream)
    }

    /// Publishes; a number is there for `QoS` 1 and 2.
    async fn publish(&mut self, flags: u8, topic: &[u8], number: u16, payload: &[u8]) {
        let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
        body.extend(topic);
        body.extend(number.to_be_bytes());
        body.extend(payload);
        self.0.write_all(&packet(0x30 | flags, &body)).await.unwrap();
    }

    /// Whether the broker ends the connection.
    async fn ends(mut self) -> bool {
        let ended = async { while !matches!(self.0.read(&mut [0; 4096]).await, Ok(0) | Err(_)) {} };
        timeout(SOON, ended).await.is_ok()
    }
}

/// Kind and flags, length, body.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut left = body.len();
    while left >= 0x80 {
        packet.push(u8::try_from(left & 0x7f).unwrap() | 0x80);
        left >>= 7;
    }
    packet.push(u8::try_from(left).unwrap());
    packet.extend(body);
    packet
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_256_mib_ends_its_sender_before_anybody_holds_it() {
    let site = Site::begin().await;
    let mut lamp = Raw::connect(site.broker.port).await;
    // The longest that can be announced.
    lamp.0.write_all(b"\x32\xff\xff\xff\x7f").await.unwrap();
    let chunk = vec![b'x'; 64 << 10];
    let mut taken = 0;
    while taken < 256 << 20 {
        match timeout(SOON, lamp.0.write(&chunk)).await.unwrap() {
            Ok(written) => taken += written,
            Err(_) => break,
        }
    }
    assert!(taken < 32 << 20, "{taken} bytes were read of it");
    site.goes_on().await;
    assert!(
        site.broker.peak_kib() < 64 << 10,
        "{} KiB",
        site.broker.peak_kib()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_with_a_wildcard_a_nul_or_no_text_ends_its_sender_alone() {
    let site = Site::begin().await;
    for end in [
        &b"#"[..],
        b"+/x",
        b"twin/update\0",
        b"\0",
        b"twin/\xff\xfe",
        b"twin/\xed\xa0\x80",
    ] {
        let topic = [LAMP.as_bytes(), b"/", end].concat();
        let mut lamp = Raw::connect(site.broker.port).await;
        lamp.publish(2, &topic, 1, update("h", "h").as_bytes()).await;
        assert!(lamp.ends().await, "{}", topic.escape_ascii());
        site.goes_on().await;
    }
    assert!(!site.twins.journal().contains(&"h".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_qos_2_holds_up_no_other_and_open_handshakes_reach_nobody() {
    const FLOOD: usize = 5_000;
    let site = Site::begin().await;
    let mut raw = Raw::connect(site.broker.port).await;
    let topic = format!("{LAMP}/twin/update");
    for number in 1..=4_000 {
        raw.publish(4, topic.as_bytes(), number, update("open", "open").as_bytes())
            .await;
    }
    site.goes_on().await;
    drop(raw);
    let lamp = Speaker::connect(site.broker.port, "device/lamp").await;
    let flood = async {
        for number in (1..).take(FLOOD) {
            lamp.say(number, QoS::ExactlyOnce).await;
        }
    };
    let others = async {
        for _ in 0..20 {
            site.goes_on().await;
        }
    };
    tokio::join!(flood, others);
    lamp.until_answered(FLOOD).await;
    let journal = site.twins.journal();
    assert!(!journal.contains(&"open".to_owned()));
    assert!(journal.contains(&FLOOD.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_device_has_retained_changes_nothing_for_a_node_that_comes() {
    let site = Site::begin().await;
    let payloads = [
        ("twin/update", update("spam", "spam")),
        ("twin/get", "{}".to_owned()),
        ("state/update", r#"{"state":"online"}"#.to_owned()),
        ("twin/update/result", update("forged", "forged")),
        ("x", "x".repeat(200_000)),
    ];
    let Site {
        broker,
        credentials,
        twins,
        bridge,
        pump,
    } = site;
    bridge.kill().await;
    for (end, payload) in &payloads {
        let topic = format!("{LAMP}/{end}");
        let words = [&AS_LAMP[..], &["-r"]].concat();
        broker.try_publish(&topic, payload.as_bytes(), &words).await;
    }
    // What came while it was away is delivered as sent; it is what a new subscription brings that is old.
    let bridge = Bridge::start_as(broker.port, &twins, Some(credentials.clone())).await;
    bridge.until(|counted| counted.messages_in >= 3).await;
    sleep(Duration::from_millis(500)).await;
    let before = twins.journal();
    bridge.kill().await;
    // Whoever ends the node's session makes its subscriptions new ones.
    let words = ["-u", "edgecore", "-P", "secret"];
    assert!(broker.try_publish("$hw/events/none", b"x", &words).await);
    let bridge = Bridge::start_as(broker.port, &twins, Some(credentials.clone())).await;
    bridge.until(|counted| counted.retained_ignored == 3).await;
    assert_eq!(twins.journal(), before);
    let site = Site {
        broker,
        credentials,
        twins,
        bridge,
        pump,
    };
    site.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_device_can_take_over_the_node_s_name_or_another_device_s() {
    let site = Site::begin().await;
    for name in ["edgecore", "edgecore-pump-7", PUMP] {
        let words = [&AS_LAMP[..], &["-i", name]].concat();
        let topic = format!("{LAMP}/twin/update");
        assert!(
            site.broker
                .try_publish(&topic, update(name, name).as_bytes(), &words)
                .await
        );
        site.goes_on().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_broker_that_lets_it_happen_a_takeover_is_survived() {
    let (broker, twins) = (Broker::open("").await, Fake::with(&["device/lamp"]));
    let bridge = Bridge::start(broker.port, &twins).await;
    let topic = format!("{LAMP}/twin/update");
    let mut reader = broker.subscribe(&format!("{topic}/result"), &[]).await;
    for round in 1..=3 {
        // It takes the session too, and with it the subscriptions.
        assert!(broker.try_publish("x", b"x", &["-i", "edgecore-pump-7"]).await);
        bridge
            .until(|counted| counted.subscribed && counted.reconnects == round)
            .await;
        let mark = format!("after {round}");
        broker.publish(&topic, update(&mark, &mark)).await;
        assert_eq!(reader.next().await.1["event_id"], mark);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_any_text() {
    let site = Site::begin().await;
    let bridge = &site.bridge;
    let long = "y".repeat(600);
    let values = [
        "",
        " two words ",
        r#"{"a": [1, "b"]}"#,
        "21,5 °C ünï",
        "\u{0}\n\"",
        &long,
    ];
    for value in values {
        let words = [&AS_LAMP[..], &["-i", "lamp"]].concat();
        let topic = format!("{LAMP}/twin/update");
        let taken = bridge.counters.read().messages_in;
        assert!(
            site.broker
                .try_publish(&topic, update("e", value).as_bytes(), &words)
                .await
        );
        bridge.until(|counted| counted.messages_in > taken).await;
    }
    site.goes_on().await;
    let mut journal = site.twins.journal();
    journal.pop();
    assert_eq!(journal, values);
    assert_eq!(json!(bridge.counters.read().refused), 0);
}

/// A thousand messages a second for so long, half a minute of it without edgecore.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_thousand_a_second_say_while_the_node_is_away_for_half_a_minute_is_all_answered() {
    const SPEAKERS: usize = 20;
    const AWAY: Duration = Duration::from_secs(30);
    // 20 of them, each 20 ms.
    const PACE: Duration = Duration::from_millis(20);
    let names: Vec<String> = (0..SPEAKERS).map(|number| format!("device/d{number}")).collect();
    let mut users: Vec<&str> = names.iter().map(String::as_str).collect();
    let twins = Fake::with(&users);
    users.push("edgecore");
    let mut credentials = PathBuf::new();
    let broker = Broker::with(|port, dir| {
        credentials = dir.join("broker");
        pki::private(&credentials, "username: edgecore\npassword: secret\n");
        shipped(port, dir, &users)
    })
    .await;
    let bridge = Bridge::start_as(broker.port, &twins, Some(credentials.clone())).await;
    let mut speakers = Vec::new();
    for name in &names {
        speakers.push(Speaker::connect(broker.port, name).await);
    }
    let say = async {
        let mut ticks = interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (began, mut number) = (Instant::now(), 0);
        while began.elapsed() < AWAY + Duration::from_secs(3) {
            ticks.tick().await;
            number += 1;
            for speaker in &speakers {
                speaker.say(number, QoS::AtLeastOnce).await;
            }
        }
        number
    };
    let be_away = async {
        sleep(Duration::from_secs(1)).await;
        bridge.kill().await;
        sleep(AWAY).await;
        Bridge::start_as(broker.port, &twins, Some(credentials.clone())).await
    };
    let (number, bridge) = tokio::join!(say, be_away);
    for speaker in &speakers {
        speaker.until_answered(usize::try_from(number).unwrap()).await;
    }
    println!(
        "{} messages, the broker's peak {} KiB",
        number * SPEAKERS as u64,
        broker.peak_kib()
    );
    let counted = bridge.counters.read();
    assert_eq!(
        (counted.broker_dropped, counted.refused, counted.dropped_in),
        (0, 0, 0)
    );
}
