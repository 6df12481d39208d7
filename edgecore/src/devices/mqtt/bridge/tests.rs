//! What the bridge decides, message by message, without a broker.

use std::collections::BTreeMap;

use protocol::devices::TwinValue;
use serde_json::{Value, json};

use super::*;
use crate::devices::mqtt::answers::Wishes;
use crate::devices::mqtt::lanes::{Batch, Work};
use crate::devices::{Refused, Standing, TwinChange, TwinView};

mod again;
mod bounds;

const UPDATE: &str = "$hw/events/device/hall/lamp/twin/update";

fn bridge() -> Bridge {
    let mut bridge = Bridge::new("pump-7".to_owned(), Arc::default());
    bridge.connected(false, 256 << 10);
    bridge
}

fn message(topic: &str, payload: &Value, packet: u16) -> Message {
    Message {
        topic: topic.to_owned(),
        payload: Bytes::from(payload.to_string()),
        too_large: false,
        packet: Some(packet),
        repeat: false,
        retained: false,
    }
}

fn update(event_id: &str, value: &str) -> Value {
    json!({"event_id": event_id, "twin": {"power": {"actual": {"value": value}}}})
}

fn unmet() -> Wishes {
    Wishes {
        wished: BTreeMap::new(),
        delta: BTreeMap::from([("power".to_owned(), "ON".to_owned())]),
    }
}

/// What the twins would tell of a batch.
fn told(batch: &Batch) -> Arc<Told> {
    let changes = batch.seen.iter().map(|seen| {
        let current = TwinView {
            actual: Some(TwinValue::default()),
            ..TwinView::default()
        };
        let change = TwinChange {
            last: None,
            current: Some(current),
        };
        (seen.property.clone(), change)
    });
    Arc::new(Told {
        device: DeviceName::new("hall", "lamp"),
        event_id: String::new(),
        origin: Origin::Mqtt,
        timestamp: 5,
        changes: changes.collect(),
        wished: BTreeMap::new(),
        delta: BTreeMap::from([("power".to_owned(), "ON".to_owned())]),
    })
}

/// Does the next job as twins would that take everything.
fn work(bridge: &mut Bridge) -> usize {
    let Some(Job { device, work }) = bridge.next_job() else {
        panic!("nothing is due")
    };
    let Work::Update(batch) = work else {
        panic!("it is no update")
    };
    let (told, last) = (told(&batch), batch.messages.len() - 1);
    let outcomes = batch.messages.into_iter().enumerate().map(|(at, message)| {
        let outcome = Outcome::Reported {
            event_id: message.event_id,
            properties: message.properties,
            wishes: (at == last).then(unmet),
            told: Arc::clone(&told),
        };
        (message.arrival, outcome)
    });
    let outcomes: Vec<_> = outcomes.collect();
    let count = outcomes.len();
    bridge.done(Done { device, outcomes }, 5);
    count
}

/// Everything that is due to be published: the end of the topic and the mark.
fn published(bridge: &mut Bridge) -> Vec<(String, Value)> {
    let next = || bridge.next_outgoing(5);
    std::iter::from_fn(next)
        .map(|outgoing| {
            let payload: Value = serde_json::from_slice(&outgoing.payload).unwrap();
            let end = outgoing.topic.rsplit('/').next().unwrap_or_default().to_owned();
            (end, payload)
        })
        .collect()
}

fn ends(published: &[(String, Value)]) -> Vec<&str> {
    published.iter().map(|(end, _)| end.as_str()).collect()
}

#[test]
fn an_update_is_acknowledged_once_the_broker_has_its_result() {
    let mut bridge = bridge();
    bridge.message(&message(UPDATE, &update("e", "1"), 9), 5);
    assert_eq!(work(&mut bridge), 1);
    assert_eq!(ends(&published(&mut bridge)), ["result", "document", "delta"]);
    assert_eq!(bridge.next_ack(), None);
    for packet in 1..=3 {
        bridge.sent(packet);
    }
    bridge.acknowledged(2);
    assert_eq!(bridge.next_ack(), None, "the document is not the result");
    bridge.acknowledged(1);
    assert_eq!(bridge.next_ack(), Some(9));
}

#[test]
fn a_device_that_is_behind_gets_one_report_and_every_answer() {
    let mut bridge = bridge();
    bridge.message(&message(UPDATE, &update("e0", "0"), 1), 5);
    let Some(first) = bridge.next_job() else {
        panic!("nothing is due")
    };
    for (packet, value) in [(2, "1"), (3, "2"), (4, "3")] {
        bridge.message(&message(UPDATE, &update(value, value), packet), 5);
    }
    bridge.done(
        Done {
            device: first.device,
            outcomes: Vec::new(),
        },
        5,
    );
    assert_eq!(work(&mut bridge), 3);
    let published = published(&mut bridge);
    assert_eq!(
        ends(&published),
        [
            "result", "document", "result", "document", "result", "document", "delta"
        ]
    );
    let marks: Vec<&Value> = published
        .iter()
        .step_by(2)
        .take(3)
        .map(|(_, payload)| &payload["event_id"])
        .collect();
    assert_eq!(marks, ["1", "2", "3"]);
}

#[test]
fn after_a_loss_the_result_goes_out_again_and_the_repeat_is_acknowledged_with_it() {
    let mut bridge = bridge();
    let first = message(UPDATE, &update("e", "1"), 9);
    bridge.message(&first, 5);
    work(&mut bridge);
    published(&mut bridge);
    bridge.sent(1);
    bridge.lost();
    assert!(bridge.next_outgoing(5).is_none(), "there is nobody to send it to");
    bridge.connected(true, 256 << 10);
    bridge.message(
        &Message {
            repeat: true,
            packet: Some(2),
            ..first
        },
        5,
    );
    assert_eq!(bridge.next_job(), None, "it was taken");
    assert_eq!(ends(&published(&mut bridge)), ["result", "document", "delta"]);
    assert_eq!(bridge.next_ack(), None);
    bridge.sent(1);
    bridge.acknowledged(1);
    assert_eq!(bridge.next_ack(), Some(2));
    assert_eq!(bridge.counters.read().repeats, 1);
}

#[test]
fn refusals_have_their_codes() {
    let device = DeviceName::new("hall", "lamp");
    for (refused, code) in [
        (Refused::UnknownDevice(device.clone()), 404),
        (Refused::Unavailable("the disk is full".to_owned()), 500),
        (
            Refused::TooLarge {
                what: "power".to_owned(),
                bytes: 2,
                limit: 1,
            },
            413,
        ),
        (
            Refused::BadWish {
                property: "power".to_owned(),
                value: "9".to_owned(),
                reason: "it is read only".to_owned(),
            },
            400,
        ),
    ] {
        let mut bridge = bridge();
        bridge.message(&message(UPDATE, &update("e", "1"), 9), 5);
        let Some(Job {
            work: Work::Update(batch),
            ..
        }) = bridge.next_job()
        else {
            panic!("nothing is due")
        };
        let arrival = batch.messages[0].arrival;
        let outcomes = vec![(arrival, Outcome::Refused("e".to_owned(), refused))];
        let device = device.clone();
        bridge.done(Done { device, outcomes }, 5);
        let published = published(&mut bridge);
        assert_eq!(
            (ends(&published), &published[0].1["code"]),
            (vec!["result"], &json!(code))
        );
        assert_eq!(bridge.counters.read().refused, 1);
    }
}

#[test]
fn a_state_that_is_no_state_has_no_answer_and_a_device_that_comes_hears_what_it_missed() {
    let topic = "$hw/events/device/hall/lamp/state/update";
    let mut bridge = bridge();
    bridge.message(&message(topic, &json!({"state": "exploded"}), 1), 5);
    assert_eq!(bridge.next_ack(), Some(1));
    for (packet, state, told) in [
        (2, "online", vec!["result", "delta"]),
        (3, "unhealthy", vec!["result"]),
    ] {
        bridge.message(&message(topic, &json!({ "state": state }), packet), 5);
        let Some(Job {
            device,
            work: Work::State(arrival, state),
        }) = bridge.next_job()
        else {
            panic!("nothing is due")
        };
        let standing = Standing {
            state,
            last_online: None,
        };
        let outcomes = vec![(arrival, Outcome::Stated(state, Ok(standing), unmet()))];
        bridge.done(Done { device, outcomes }, 5);
        assert_eq!(ends(&published(&mut bridge)), told);
        assert_eq!(bridge.next_ack(), Some(packet));
    }
}

#[test]
fn an_answer_that_the_broker_would_not_take_is_told_shorter() {
    let mut bridge = bridge();
    bridge.connected(true, 300);
    let get = "$hw/events/device/hall/lamp/twin/get";
    bridge.message(&message(get, &json!({"event_id": "g"}), 1), 5);
    let Some(Job {
        device,
        work: Work::Get(arrival, mark),
    }) = bridge.next_job()
    else {
        panic!("nothing is due")
    };
    let value = TwinValue {
        value: "x".repeat(1000),
        ..TwinValue::default()
    };
    let view = TwinView {
        actual: Some(value),
        ..TwinView::default()
    };
    let twin = Some(BTreeMap::from([("power".to_owned(), view.clone())]));
    let outcomes = vec![(arrival, Outcome::Got(mark, twin, Wishes::default()))];
    bridge.done(Done { device, outcomes }, 5);
    let published_now = published(&mut bridge);
    assert_eq!(published_now[0].1["code"], 413);
    assert_eq!(published_now[0].1["event_id"], "g");

    // The document of a large value is not sent at all.
    let change = TwinChange {
        last: None,
        current: Some(view),
    };
    let told = Told {
        device: DeviceName::new("hall", "lamp"),
        event_id: "r".to_owned(),
        origin: Origin::Driver,
        timestamp: 5,
        changes: BTreeMap::from([("power".to_owned(), change)]),
        wished: BTreeMap::new(),
        delta: BTreeMap::new(),
    };
    bridge.told(&told, &Wishes::default());
    assert_eq!(published(&mut bridge), []);
    assert_eq!(bridge.counters.read().dropped_out, 2);
}

#[test]
fn what_others_said_is_told_and_what_came_from_here_is_not_told_twice() {
    let mut bridge = bridge();
    let batch = Batch::one(
        1,
        payload::update(update("e", "1").to_string().as_bytes()).unwrap(),
    );
    let by = |origin| Told {
        origin,
        ..Told::clone(&told(&batch))
    };
    bridge.told(&by(Origin::Mqtt), &unmet());
    assert_eq!(published(&mut bridge), []);
    bridge.told(&by(Origin::Mapper), &unmet());
    assert_eq!(ends(&published(&mut bridge)), ["result", "document", "delta"]);
    bridge.told(&by(Origin::Driver), &unmet());
    assert_eq!(ends(&published(&mut bridge)), ["document", "delta"]);
}
