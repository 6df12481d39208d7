//! Turns, and what is on its way, by hand.

use super::*;

/// A gate whose window is full: so many bytes on their way, and one more handed over.
fn full() -> (Gate, u64) {
    let gate = Gate::new(Instant::now());
    let window = gate.state.lock().flight.window();
    gate.answered(Instant::now(), window - 100, false);
    (gate, window)
}

fn ready(gate: &Gate, class: Class, id: u64) -> bool {
    gate.poll_turn(class, id, &Context::from_waker(Waker::noop()))
        .is_ready()
}

#[test]
fn the_session_never_waits_and_others_do_while_enough_is_on_its_way() {
    let (gate, window) = full();
    assert!(ready(&gate, Class::Control, 1) && !ready(&gate, Class::Bulk, 2));
    assert!(
        gate.window() >= window + 2 * 1200,
        "quinn has room for the session"
    );
    gate.answered(Instant::now(), 0, false);
    gate.state.lock().give(Instant::now());
    assert!(ready(&gate, Class::Bulk, 2));
}

#[test]
fn the_most_urgent_is_next_and_who_is_gone_has_no_turn() {
    let (gate, _) = full();
    assert!(!ready(&gate, Class::Bulk, 1) && !ready(&gate, Class::Desired, 2));
    gate.answered(Instant::now(), 0, false);
    gate.state.lock().give(Instant::now());
    assert!(!ready(&gate, Class::Bulk, 1), "it is another's turn");
    gate.forget(Class::Desired, 2);
    gate.state.lock().give(Instant::now());
    assert!(ready(&gate, Class::Bulk, 1));
}

#[test]
fn a_turn_that_nobody_takes_is_soon_anothers() {
    let (gate, _) = full();
    assert!(!ready(&gate, Class::Desired, 1) && !ready(&gate, Class::Bulk, 2));
    let now = Instant::now();
    gate.answered(now, 0, false);
    let again = gate.state.lock().give(now).unwrap();
    assert_eq!(again, now + TURN);
    gate.state.lock().give(again);
    assert!(ready(&gate, Class::Bulk, 2));
}

#[test]
fn what_is_waited_for_in_vain_is_forgotten() {
    let (gate, _) = full();
    let silent = Instant::now() + SILENCE;
    assert!(gate.state.lock().room(Instant::now()).is_none());
    assert!(gate.state.lock().room(silent).is_some());
}

#[tokio::test(start_paused = true)]
async fn in_silence_one_piece_is_tried_a_second() {
    let (gate, _) = full();
    let mut went = 0;
    for _ in 0..100 {
        tokio::time::advance(Duration::from_millis(100)).await;
        if gate.state.lock().room(Instant::now()).is_some() {
            gate.wrote(Class::Bulk, 1000);
            went += 1;
        }
    }
    assert!((8..=10).contains(&went), "{went}");
}

#[test]
fn a_window_that_shrinks_leaves_room_for_the_session_over_what_is_on_its_way() {
    let (gate, window) = full();
    let (now, on_way) = (Instant::now(), window - 100);
    gate.lost(now, now, 1000, false);
    assert!(gate.state.lock().flight.window() < on_way - 1000);
    assert_eq!(gate.window(), on_way - 1000 + 2 * 1200);
    gate.lost(now, now, 1000, true);
    assert_eq!(gate.window(), (4 + 2) * 1200, "nothing came through");
}

#[test]
fn acknowledgements_alone_are_not_on_their_way() {
    let gate = Gate::new(Instant::now());
    gate.wrote(Class::Bulk, 1000);
    gate.sent(1040);
    gate.sent(60);
    let state = gate.state.lock();
    assert_eq!((state.handed, state.in_flight), (0, 1000));
}

#[test]
fn who_waits_for_its_time_while_little_is_on_its_way_makes_the_window_no_larger() {
    let gate = Gate::new(Instant::now());
    let (now, window) = (Instant::now(), gate.state.lock().flight.window());
    let arrives = |on_way| {
        gate.answered(now, on_way, false);
        gate.state.lock().next_at = now + Duration::from_secs(1);
        assert!(!ready(&gate, Class::Bulk, 1));
        gate.arrived(now, now, 1000, false);
        gate.state.lock().flight.window()
    };
    assert_eq!(arrives(window / 3), window);
    assert_eq!(arrives(window / 2), window + 1000);
}

#[test]
fn when_the_connection_is_over_nobody_waits() {
    let (gate, _) = full();
    assert!(!ready(&gate, Class::Bulk, 1));
    gate.end();
    assert!(ready(&gate, Class::Bulk, 1));
}
