//! What is held stays bounded, whatever clients send and however slowly the broker takes answers.

use super::*;

const MEMBERSHIP: &str = "$hw/events/node/pump-7/membership/get";

fn loose(topic: &str, payload: &Value) -> Message {
    Message {
        packet: None,
        ..message(topic, payload, 0)
    }
}

/// Sends everything that is due and has the broker acknowledge it; the number of answers.
fn drain(bridge: &mut Bridge) -> usize {
    let mut answers = 0;
    while let Some(outgoing) = bridge.next_outgoing(5) {
        answers += usize::from(outgoing.answers.is_some());
        bridge.sent(1);
        bridge.acknowledged(1);
    }
    answers
}

#[test]
fn a_flood_of_nonsense_that_nobody_acknowledges_does_not_fill_the_outbox_nor_stop_the_others() {
    let mut bridge = bridge();
    for _ in 0..20_000 {
        bridge.message(&loose(UPDATE, &json!("nonsense")), 5);
    }
    assert!(!bridge.outbox.is_crowded());
    assert!(bridge.counters.read().dropped_out > 10_000);
    bridge.message(&message(UPDATE, &update("e", "1"), 9), 5);
    assert_eq!(work(&mut bridge), 1, "there is room left for work");
    assert_eq!(drain(&mut bridge), 1, "nobody waits for the others");
    assert_eq!(bridge.next_ack(), Some(9));
}

#[test]
fn what_a_broker_does_not_take_even_in_short_is_done_without_an_answer() {
    for largest in [0, 50, 100] {
        let mut bridge = bridge();
        bridge.connected(true, largest);
        bridge.message(&message(UPDATE, &update("e", "1"), 9), 5);
        bridge.message(&message(UPDATE, &json!(1), 10), 5);
        work(&mut bridge);
        assert_eq!(published(&mut bridge), []);
        assert!(bridge.outbox.is_empty());
        assert_eq!([bridge.next_ack(), bridge.next_ack()], [Some(9), Some(10)]);
    }
}

#[test]
fn what_a_broker_refuses_is_not_sent_again_and_holds_nobody_up() {
    let mut bridge = bridge();
    bridge.message(&message(UPDATE, &update("e", "1"), 9), 5);
    work(&mut bridge);
    let sent = ends(&published(&mut bridge)).len();
    assert_eq!(sent, 3, "result, document, delta");
    for packet in 1..=3 {
        bridge.sent(packet);
    }
    assert_eq!(bridge.next_ack(), None);
    let topics = [1, 2, 3].map(|packet| bridge.refused(packet));
    assert_eq!(
        topics,
        [Some(format!("{UPDATE}/result")), None, None],
        "it is said once"
    );
    assert_eq!(bridge.next_ack(), Some(9));
    assert_eq!(bridge.counters.read().dropped_out, 3);
    assert!(bridge.outbox.is_empty());
    bridge.lost();
    bridge.connected(true, 256 << 10);
    assert_eq!(published(&mut bridge), []);
    assert_eq!(bridge.refused(1), None, "nothing was sent under this number");
}

#[test]
fn the_list_of_devices_is_written_out_only_while_there_is_room() {
    let mut bridge = bridge();
    for _ in 0..100 {
        bridge.message(&loose(MEMBERSHIP, &json!({})), 5);
    }
    assert_eq!(bridge.counters.read().dropped_in, 84);
    for packet in 1..=500 {
        bridge.message(&message(MEMBERSHIP, &json!({}), packet), 5);
    }
    let list = Bytes::from(vec![b'x'; 150 << 10]);
    let (mut rounds, mut acknowledged) = (0, Vec::new());
    while !bridge.questions.is_empty() {
        rounds += 1;
        while let Some((arrival, _)) = bridge.next_question() {
            bridge.membership(arrival, list.clone());
        }
        assert!(!bridge.outbox.is_crowded(), "there is room left for work");
        drain(&mut bridge);
        acknowledged.extend(std::iter::from_fn(|| bridge.next_ack()));
    }
    assert!(rounds > 10, "{rounds}");
    assert_eq!(acknowledged, (1..=500).collect::<Vec<u16>>());
    bridge.message(&message(MEMBERSHIP, &json!({}), 1), 5);
    bridge.lost();
    assert_eq!(bridge.next_question(), None, "there is nobody to answer");
}

#[test]
fn many_messages_that_became_one_are_answered_as_there_is_room() {
    let mut bridge = bridge();
    let device = DeviceName::new("hall", "lamp");
    let view = TwinView {
        expected: Some(TwinValue {
            value: "x".repeat(60_000),
            ..TwinValue::default()
        }),
        ..TwinView::default()
    };
    let change = TwinChange {
        last: None,
        current: Some(view),
    };
    let batch = Batch::one(
        1,
        payload::update(update("e", "1").to_string().as_bytes()).unwrap(),
    );
    let told = Arc::new(Told {
        changes: BTreeMap::from([("power".to_owned(), change)]),
        ..Told::clone(&told(&batch))
    });
    bridge.message(&message(UPDATE, &update("first", "1"), 1), 5);
    bridge.next_job();
    for packet in 2..=1000 {
        bridge.message(&message(UPDATE, &update("e", "1"), packet), 5);
    }
    bridge.done(
        Done {
            device: device.clone(),
            outcomes: Vec::new(),
        },
        5,
    );
    let Some(Job {
        work: Work::Update(batch),
        ..
    }) = bridge.next_job()
    else {
        panic!("nothing is due")
    };
    let count = batch.messages.len();
    assert!(count > 900, "{count}");
    let outcomes = batch.messages.into_iter().map(|message| {
        let outcome = Outcome::Reported {
            event_id: message.event_id,
            properties: message.properties,
            wishes: None,
            told: Arc::clone(&told),
        };
        (message.arrival, outcome)
    });
    let outcomes = outcomes.collect();
    bridge.done(Done { device, outcomes }, 5);
    assert!(bridge.outbox.bytes() < 10 << 20, "{}", bridge.outbox.bytes());
    assert_eq!(bridge.next_job(), None);
    assert_eq!(drain(&mut bridge), count, "each has its answer");
    assert!(bridge.due.is_empty());
}

#[test]
fn a_wish_that_came_without_a_broker_or_without_room_is_told_once_there_is_both() {
    let batch = Batch::one(
        1,
        payload::update(update("e", "1").to_string().as_bytes()).unwrap(),
    );
    let told = Told {
        origin: Origin::Node,
        ..Told::clone(&told(&batch))
    };
    let mut bridge = bridge();
    bridge.lost();
    bridge.told(&told, &unmet());
    assert_eq!(bridge.next_missed(), None, "there is nobody to tell");
    bridge.connected(true, 256 << 10);
    assert_eq!(bridge.next_missed(), Some(told.device.clone()));
    bridge.remind(&told.device, &unmet(), 5);
    bridge.remind(&told.device, &Wishes::default(), 5);
    assert_eq!(ends(&published(&mut bridge)), ["delta"]);
    assert_eq!(bridge.next_missed(), None, "once");

    while !bridge.missed.contains(&told.device) {
        bridge.told(&told, &unmet());
    }
    assert_eq!(bridge.next_missed(), None, "there is no room");
    for packet in 1..=8000 {
        bridge.next_outgoing(5);
        bridge.sent(packet);
        bridge.acknowledged(packet);
    }
    assert_eq!(bridge.next_missed(), Some(told.device));
}

#[test]
fn strangers_and_floods_hurt_nobody_else() {
    let mut bridge = bridge();
    // Neither topic nor payload mean anything here.
    bridge.message(&message("$hw/events/device/a/b/c/d/e/f/g", &json!(1), 1), 5);
    assert_eq!(bridge.next_ack(), Some(1));
    let large = update("flood", &"x".repeat(60_000));
    for _ in 0..1000 {
        let mut flood = message(UPDATE, &large, 0);
        flood.packet = None;
        bridge.message(&flood, 5);
    }
    assert!(bridge.counters.read().dropped_in > 900);
    assert_eq!(published(&mut bridge), [], "a flood is not answered with another");
    let other = "$hw/events/device/hall/pump/twin/update";
    bridge.message(&message(other, &update("e", "1"), 2), 5);
    let devices: Vec<_> = std::iter::from_fn(|| bridge.next_job())
        .map(|job| job.device.name)
        .collect();
    assert_eq!(devices, ["lamp", "pump"]);
}
