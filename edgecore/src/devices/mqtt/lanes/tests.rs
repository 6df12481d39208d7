//! What waits becomes one, keeps its place and stays bounded.

use super::*;
use crate::devices::Clue;

fn update(event_id: &str, values: &[(&str, Observation)]) -> Update {
    let seen = values.iter().map(|(property, observation)| Seen {
        property: (*property).to_owned(),
        observation: observation.clone(),
        clue: Clue::default(),
    });
    Update {
        event_id: event_id.to_owned(),
        timestamp: None,
        seen: seen.collect(),
    }
}

fn value(text: &str) -> Observation {
    Observation::Value(text.to_owned())
}

fn batch(arrival: Arrival, values: &[(&str, Observation)]) -> Work {
    Work::Update(Batch::one(arrival, update("e", values)))
}

fn next(lanes: &mut Lanes) -> (Vec<Arrival>, Vec<(String, Observation)>) {
    let Some(Job {
        work: Work::Update(batch),
        ..
    }) = lanes.next()
    else {
        panic!("no update is due");
    };
    let arrivals = batch.messages.iter().map(|message| message.arrival).collect();
    let seen = batch
        .seen
        .into_iter()
        .map(|seen| (seen.property, seen.observation));
    (arrivals, seen.collect())
}

fn lamp() -> DeviceName {
    DeviceName::new("hall", "lamp")
}

#[test]
fn while_a_device_is_busy_its_newest_values_wait_as_one() {
    let mut lanes = Lanes::default();
    lanes.push(&lamp(), batch(1, &[("a", value("1"))])).unwrap();
    assert_eq!(next(&mut lanes).0, [1]);
    for (arrival, property, text) in [(2, "a", "2"), (3, "b", "3"), (4, "a", "4")] {
        lanes
            .push(&lamp(), batch(arrival, &[(property, value(text))]))
            .unwrap();
    }
    assert_eq!(lanes.next(), None, "one thing of a device at a time");
    lanes.done(&lamp());
    let (arrivals, seen) = next(&mut lanes);
    assert_eq!(arrivals, [2, 3, 4]);
    assert_eq!(seen, [("a".to_owned(), value("4")), ("b".to_owned(), value("3"))]);
    lanes.done(&lamp());
    assert!(lanes.is_empty());
    assert_eq!(lanes.bytes, 0);
}

#[test]
fn wishes_states_and_questions_keep_their_place() {
    let mut lanes = Lanes::default();
    let wish = Observation::Wished("9".to_owned());
    lanes.push(&lamp(), batch(1, &[("a", value("1"))])).unwrap();
    lanes.push(&lamp(), batch(2, &[("a", wish)])).unwrap();
    lanes.push(&lamp(), batch(3, &[("a", value("3"))])).unwrap();
    lanes.push(&lamp(), Work::Get(4, "q".to_owned())).unwrap();
    lanes.push(&lamp(), batch(5, &[("a", value("5"))])).unwrap();
    let mut order = Vec::new();
    while let Some(Job { work, device }) = lanes.next() {
        order.push(match work {
            Work::Update(batch) => batch.messages[0].arrival,
            Work::State(arrival, _) | Work::Get(arrival, _) => arrival,
        });
        lanes.done(&device);
    }
    assert_eq!(order, [1, 2, 3, 4, 5]);
}

#[test]
fn a_device_that_floods_is_stopped_and_the_others_go_on() {
    let mut lanes = Lanes::default();
    let large = value(&"x".repeat(60_000));
    let mut taken = 0;
    while lanes.push(&lamp(), batch(1, &[("a", large.clone())])).is_ok() {
        taken += 1;
    }
    assert!((60..80).contains(&taken), "{taken}");
    let other = DeviceName::new("hall", "pump");
    lanes.push(&other, batch(2, &[("a", value("1"))])).unwrap();
    let first = lanes.next().unwrap();
    assert_eq!(first.device, lamp());
    assert_eq!(lanes.next().unwrap().device, other);
    lanes.done(&lamp());
    lanes.push(&lamp(), batch(3, &[("a", value("1"))])).unwrap();
}

#[test]
fn as_many_become_one_as_can_be_answered_with_all_that_one_says() {
    let mut lanes = Lanes::default();
    lanes.push(&lamp(), batch(0, &[("a", value("first"))])).unwrap();
    lanes.next().unwrap();
    let names: Vec<String> = (0..64).map(|name| name.to_string()).collect();
    let of_all = |text: &str| {
        names
            .iter()
            .map(|name| (name.as_str(), value(text)))
            .collect::<Vec<_>>()
    };
    for arrival in 1..=300 {
        lanes.push(&lamp(), batch(arrival, &of_all(""))).unwrap();
    }
    for (arrival, name) in (301..).zip(&names) {
        let large = value(&"x".repeat(2900));
        lanes.push(&lamp(), batch(arrival, &[(name, large)])).unwrap();
    }
    lanes.done(&lamp());
    let mut answered = 0;
    while let Some(Job {
        work: Work::Update(batch),
        ..
    }) = lanes.next()
    {
        let values: usize = batch.seen.iter().map(cost_of_seen).sum();
        assert!(values * batch.messages.len() <= MOST_ANSWERED);
        answered += batch.messages.len();
        lanes.done(&lamp());
    }
    assert_eq!(answered, 364);
    assert_eq!(lanes.bytes, 0);
}

#[test]
fn small_values_said_over_and_over_take_no_more_room_than_their_answers() {
    let mut lanes = Lanes::default();
    lanes.push(&lamp(), batch(0, &[("a", value("first"))])).unwrap();
    lanes.next().unwrap();
    for arrival in 1..=4000 {
        lanes
            .push(&lamp(), batch(arrival, &[("a", value(&"x".repeat(2000)))]))
            .unwrap();
    }
    assert!(lanes.bytes < 1 << 20, "{}", lanes.bytes);
    while let Some(job) = {
        lanes.done(&lamp());
        lanes.next()
    } {
        drop(job);
    }
    assert_eq!(lanes.bytes, 0);
}
