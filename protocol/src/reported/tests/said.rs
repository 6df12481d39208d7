//! What is kept, said again, held back or dropped: one rule each, in the smallest world.

use super::*;

#[test]
fn a_month_offline_costs_one_entry_per_key() {
    let mut world = World::new();
    for _ in 0..1_000 {
        world.put(OutboxKey::Pod(pod(1)));
    }
    assert_eq!((world.outbox.pending(), world.disk.len()), (1, 1));
}

#[test]
fn the_log_of_events_is_capped_and_what_is_dropped_is_counted() {
    let mut world = World::new();
    for _ in 0..1_200 {
        perform(&mut world, &Op::Event);
    }
    assert_eq!(
        (world.outbox.pending(), world.outbox.dropped_events()),
        (1_000, 200)
    );
    assert_eq!(world.disk.len(), 1_000);
}

#[test]
fn what_a_device_said_last_is_said_again_in_the_next_session() {
    let mut world = World::new();
    world.connect();
    world.outbox.put(device(1), b"1");
    while world.carry() {}
    world.write(Fate::Works);
    while world.carry() {}
    assert_eq!(world.outbox.pending(), 0);
    assert_eq!(
        world.outbox.put(device(1), b"1"),
        Change::default(),
        "the cluster has it"
    );
    world.outbox.disconnected(EVERYTHING);
    world.outbox.connected(EVERYTHING);
    assert!(world.outbox.poll_transmit(EVERYTHING, world.now).is_some());
}

#[test]
fn the_end_of_a_pod_waits_for_its_last_status() {
    let mut world = World::new();
    world.connect();
    world.put(OutboxKey::Pod(pod(1)));
    world.outbox.gone(pod(1));
    assert!(world.outbox.poll_transmit(EVERYTHING, world.now).is_some());
    assert_eq!(world.outbox.poll_transmit(EVERYTHING, world.now), None);
}

#[test]
fn a_refused_key_pauses_alone_and_says_so() {
    let mut world = World::new();
    world.connect();
    world.put(OutboxKey::Pod(pod(1)));
    while world.carry() {}
    world.write(Fate::Later);
    while world.carry() {}
    assert_eq!(world.outbox.poll_transmit(EVERYTHING, world.now), None);
    assert_eq!(
        world.outbox.poll_timeout(EVERYTHING, world.now),
        Some(Duration::from_millis(250))
    );
    assert_eq!(world.outbox.troubles()[0].code, RefusalCode::Throttled);
    world.put(OutboxKey::Pod(pod(2)));
    assert!(world.outbox.poll_transmit(EVERYTHING, world.now).is_some());
}

#[test]
fn a_new_session_says_the_node_and_its_pods_anew() {
    let mut world = World::new();
    world.put(OutboxKey::Node);
    world.put(OutboxKey::Pod(pod(1)));
    world.settle();
    world.connect();
    assert_eq!(world.outbox.pending(), 2);
    world.settle();
    world.check();
}

#[test]
fn a_value_that_the_server_has_is_not_said_again_and_one_too_large_is_counted() {
    let mut outbox = Outbox::load(Vec::new(), 0).0;
    assert!(!outbox.put(OutboxKey::Node, b"1").is_empty());
    assert!(outbox.put(OutboxKey::Node, b"1").is_empty());
    assert!(
        outbox
            .put(OutboxKey::Node, &vec![b' '; MAX_PAYLOAD + 1])
            .is_empty()
    );
    assert_eq!(outbox.oversize(), 1);
}
