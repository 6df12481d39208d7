//! What the broker delivers again to a process that has just come.

use super::*;

/// A bridge to a broker that has the session of an earlier process.
fn resumed() -> Bridge {
    let mut bridge = Bridge::new("pump-7".to_owned(), Arc::default());
    bridge.connected(true, 256 << 10);
    bridge
}

fn again(packet: u16, value: &str) -> Message {
    Message {
        repeat: true,
        ..message(UPDATE, &update(value, value), packet)
    }
}

#[test]
fn what_an_earlier_process_had_not_acknowledged_is_taken_as_one_and_so_never_backwards() {
    let mut bridge = resumed();
    // The earlier process may have taken the third.
    bridge.message(&again(1, "1"), 5);
    assert_eq!(bridge.next_job(), None, "there may be more of it");
    bridge.lost();
    bridge.connected(true, 256 << 10);
    for (packet, value) in [(1, "1"), (2, "2"), (3, "3")] {
        bridge.message(&again(packet, value), 5);
        assert_eq!(bridge.next_job(), None);
    }
    bridge.gathered();
    assert_eq!(work(&mut bridge), 3, "one report, and each has its answer");
    assert_eq!(bridge.next_job(), None);
}

#[test]
fn after_a_power_cut_what_the_broker_delivers_again_is_older_than_what_is_known() {
    let mut bridge = Bridge::new("pump-7".to_owned(), Arc::default());
    bridge.power_was_lost();
    bridge.connected(true, 256 << 10);
    bridge.message(&again(1, "1"), 5);
    bridge.message(&message(UPDATE, &update("2", "2"), 2), 5);
    bridge.gathered();
    assert_eq!(bridge.next_ack(), Some(1));
    assert_eq!(work(&mut bridge), 1, "what was not delivered before is new");
    // From now on a repeat is what it always is.
    bridge.message(&again(3, "3"), 5);
    assert_eq!(work(&mut bridge), 1);
}

#[test]
fn more_than_can_be_held_is_not_waited_for() {
    let mut bridge = resumed();
    let large = update("large", &"x".repeat(60_000));
    for packet in 1..=30 {
        bridge.message(&message(UPDATE, &large, packet), 5);
    }
    assert_eq!(bridge.next_job(), None);
    for packet in 31..=40 {
        bridge.message(&message(UPDATE, &large, packet), 5);
    }
    assert!(bridge.next_job().is_some());
}
