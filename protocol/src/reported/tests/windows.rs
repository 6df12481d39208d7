//! Who overtakes whom: a full window of one class holds up no other.

use super::*;

#[test]
fn state_overtakes_a_full_window_of_events() {
    let mut world = World::new();
    world.connect();
    for _ in 0..200 {
        perform(&mut world, &Op::Event);
    }
    let sent = std::iter::from_fn(|| world.outbox.poll_transmit(EVERYTHING, world.now)).count();
    assert_eq!(sent, EVENT_WINDOW);
    world.put(OutboxKey::Node);
    assert!(world.outbox.poll_transmit(EVERYTHING, world.now).is_some());
}

#[test]
fn events_on_a_stream_of_their_own_take_no_room_of_anything_else_and_may_wait() {
    let mut world = World::new();
    world.apart = true;
    world.connect();
    let large = vec![b' '; WINDOW_BYTES];
    world.outbox.put(event(1), &large);
    perform(&mut world, &Op::Event);
    world.put(OutboxKey::Node);
    let mut next = |carries| world.outbox.poll_transmit(carries, world.now);
    assert!(next(Carries::Events).is_some());
    assert_eq!(next(Carries::Events), None, "its bytes fill the window");
    assert!(next(Carries::AllButEvents).is_some());
    assert_eq!(next(Carries::AllButEvents), None);
    assert_eq!(world.outbox.pending_events(), 2);

    world.cut();
    world.apart = false;
    world.connect();
    let mut next = |carries| world.outbox.poll_transmit(carries, world.now);
    let waits = EVERYTHING.without_events().unwrap();
    assert!(next(waits).is_some());
    assert_eq!(next(waits), None, "the events wait");
    assert!(next(EVERYTHING).is_some());
    assert_eq!(Carries::Events.without_events(), None);
}

#[test]
fn pods_overtake_a_full_window_of_devices_and_devices_one_of_events() {
    let mut world = World::new();
    world.connect();
    for _ in 0..200 {
        perform(&mut world, &Op::Event);
    }
    while world.outbox.poll_transmit(EVERYTHING, world.now).is_some() {}
    let large = vec![b' '; 192 * 1024];
    for number in 0..200 {
        world.outbox.put(
            device(number),
            &[large.as_slice(), number.to_string().as_bytes()].concat(),
        );
    }
    let sent = std::iter::from_fn(|| world.outbox.poll_transmit(EVERYTHING, world.now)).count();
    assert!((2..=DEVICE_WINDOW).contains(&sent), "{sent}");
    world.put(OutboxKey::Pod(pod(1)));
    assert!(
        world.outbox.poll_transmit(EVERYTHING, world.now).is_some(),
        "their bytes are counted apart"
    );
    assert_eq!(world.outbox.poll_transmit(EVERYTHING, world.now), None);
}

#[test]
fn of_a_device_one_report_is_under_way_and_the_newest_waits() {
    let mut world = World::new();
    world.connect();
    for value in [b"1", b"2", b"3"] {
        world.outbox.put(device(1), value);
        world.outbox.poll_transmit(EVERYTHING, world.now);
    }
    assert_eq!(world.outbox.pending(), 1);
    assert_eq!(world.outbox.poll_transmit(EVERYTHING, world.now), None);
}
