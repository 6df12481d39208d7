//! Which repeat is taken for which message, and when each is acknowledged.

use proptest::prelude::*;

use super::*;

fn mark(text: u8) -> Mark {
    Mark {
        hash: [text; 16],
        device: Some(DeviceName::new("a", "b")),
        said: None,
    }
}

fn marked(text: u8) -> Mark {
    Mark {
        said: Some([text; 16]),
        ..mark(text)
    }
}

fn new(admission: Admission) -> Arrival {
    match admission {
        Admission::New(arrival) => arrival,
        Admission::Known => panic!("it was taken for a repeat"),
    }
}

fn acks(arrivals: &mut Arrivals) -> Vec<u16> {
    std::iter::from_fn(|| arrivals.poll_ack()).collect()
}

#[test]
fn acknowledgements_leave_in_order_of_arrival() {
    let mut arrivals = Arrivals::default();
    let first = new(arrivals.admit(Some(1), false, mark(1)));
    let second = new(arrivals.admit(Some(2), false, mark(2)));
    arrivals.finish(second);
    assert!(acks(&mut arrivals).is_empty());
    arrivals.finish(first);
    assert_eq!(acks(&mut arrivals), [1, 2]);
}

#[test]
fn a_repeat_of_what_is_still_being_worked_on_waits_for_it() {
    let mut arrivals = Arrivals::default();
    let first = new(arrivals.admit(Some(1), false, mark(1)));
    arrivals.lost();
    assert_eq!(arrivals.admit(Some(7), true, mark(1)), Admission::Known);
    assert!(acks(&mut arrivals).is_empty(), "it is not journaled yet");
    arrivals.finish(first);
    assert_eq!(acks(&mut arrivals), [7]);
}

#[test]
fn a_repeat_whose_acknowledgement_was_lost_is_only_acknowledged() {
    let mut arrivals = Arrivals::default();
    for text in [1, 2] {
        let arrival = new(arrivals.admit(Some(u16::from(text)), false, marked(text)));
        arrivals.finish(arrival);
    }
    assert_eq!(acks(&mut arrivals), [1, 2]);
    arrivals.lost();
    assert_eq!(arrivals.admit(Some(3), true, marked(1)), Admission::Known);
    assert_eq!(arrivals.admit(Some(4), true, marked(2)), Admission::Known);
    assert_eq!(acks(&mut arrivals), [3, 4]);
}

#[test]
fn a_switch_that_says_on_again_is_not_taken_for_a_repeat_of_its_first_on() {
    let (on, off) = (mark(1), mark(0));
    let mut arrivals = Arrivals::default();
    for mark in [&on, &off] {
        let arrival = new(arrivals.admit(Some(1), false, mark.clone()));
        arrivals.finish(arrival);
    }
    acks(&mut arrivals);
    arrivals.lost();
    // The broker had sent this one before, and it was never read here.
    new(arrivals.admit(Some(3), true, on));
}

#[test]
fn a_mark_that_is_always_the_same_tells_nothing_apart() {
    let said = |text: u8| Mark {
        said: Some([7; 16]),
        ..mark(text)
    };
    let mut arrivals = Arrivals::default();
    for text in [1, 0] {
        let arrival = new(arrivals.admit(Some(1), false, said(text)));
        arrivals.finish(arrival);
    }
    acks(&mut arrivals);
    arrivals.lost();
    // It was never read here; only what is the newest passes for a repeat.
    let arrival = new(arrivals.admit(Some(3), true, said(1)));
    arrivals.finish(arrival);
    acks(&mut arrivals);
    arrivals.lost();
    assert_eq!(arrivals.admit(Some(3), true, said(1)), Admission::Known);
}

#[test]
fn what_was_said_after_a_repeat_that_is_taken_again_is_taken_again_too() {
    let mut arrivals = Arrivals::default();
    let on = new(arrivals.admit(Some(1), false, mark(1)));
    let off = new(arrivals.admit(Some(2), false, mark(0)));
    arrivals.finish(on);
    assert_eq!(acks(&mut arrivals), [1]);
    arrivals.lost();
    // The broker has not seen that acknowledgement.
    let again = [(3, 1), (4, 0)].map(|(packet, text)| new(arrivals.admit(Some(packet), true, mark(text))));
    for arrival in [off, again[0], again[1]] {
        arrivals.finish(arrival);
    }
    assert_eq!(acks(&mut arrivals), [3, 4]);
    arrivals.lost();
    assert_eq!(arrivals.admit(Some(5), true, mark(0)), Admission::Known);
}

#[test]
fn what_came_as_a_repeat_to_this_process_is_known_when_it_comes_again() {
    let mut arrivals = Arrivals::default();
    // An earlier process was given these.
    for text in [1, 2] {
        new(arrivals.admit(Some(1), true, mark(text)));
    }
    for _ in 0..2 {
        arrivals.lost();
        for text in [1, 2] {
            assert_eq!(arrivals.admit(Some(3), true, mark(text)), Admission::Known);
        }
    }
}

#[test]
fn a_message_explains_one_repeat_of_each_connection() {
    let mut arrivals = Arrivals::default();
    for text in [1, 0] {
        let arrival = new(arrivals.admit(Some(1), false, marked(text)));
        arrivals.finish(arrival);
    }
    acks(&mut arrivals);
    for _ in 0..2 {
        arrivals.lost();
        assert_eq!(arrivals.admit(Some(3), true, marked(1)), Admission::Known);
        assert_eq!(arrivals.admit(Some(4), true, marked(0)), Admission::Known);
    }
    // Its sender began to count anew.
    new(arrivals.admit(Some(5), true, marked(1)));
}

#[test]
fn of_three_alike_that_were_not_acknowledged_each_repeat_finds_its_own() {
    let mut arrivals = Arrivals::default();
    let first: Vec<Arrival> = [1, 0, 1]
        .map(|text| new(arrivals.admit(Some(1), false, mark(text))))
        .into();
    arrivals.lost();
    for (packet, text) in [(11, 1), (12, 0), (13, 1)] {
        assert_eq!(arrivals.admit(Some(packet), true, mark(text)), Admission::Known);
    }
    // A fourth was on its way when the connection broke.
    new(arrivals.admit(Some(14), true, mark(0)));
    arrivals.finish(first[0]);
    arrivals.finish(first[2]);
    assert_eq!(acks(&mut arrivals), [11]);
}

#[test]
fn what_a_forgotten_session_held_explains_no_repeat() {
    let mut arrivals = Arrivals::default();
    new(arrivals.admit(Some(1), false, mark(1)));
    arrivals.lost();
    arrivals.forgotten();
    new(arrivals.admit(Some(2), true, mark(1)));
}

#[test]
fn what_is_no_repeat_is_new_however_often_it_was_said() {
    let mut arrivals = Arrivals::default();
    for _ in 0..3 {
        let arrival = new(arrivals.admit(Some(1), false, marked(1)));
        arrivals.finish(arrival);
        assert_eq!(acks(&mut arrivals), [1]);
    }
    new(arrivals.admit(None, true, marked(1)));
}

proptest! {
    #[test]
    fn whatever_acknowledgements_were_lost_the_newest_value_is_taken_last(
        messages in proptest::collection::vec((0..3_u8, any::<bool>()), 1..12),
        (read, acknowledged, seen) in (0..12_usize, 0..12_usize, 0..12_usize),
        is_constant in any::<bool>(),
    ) {
        // Some senders mark everything alike; others each message, or none.
        let marks: Vec<Mark> = (0_u8..).zip(&messages).map(|(number, (text, is_marked))| {
            let said = if is_constant { Some(255) } else { is_marked.then_some(number) };
            let hash = [*text, said.unwrap_or(254)].repeat(8);
            Mark {
                hash: hash.try_into().unwrap(),
                said: said.map(|said| [said; 16]),
                ..mark(0)
            }
        }).collect();
        let read = read.min(messages.len());
        let (acknowledged, mut taken) = (acknowledged.min(read), Vec::new());
        let mut arrivals = Arrivals::default();
        for (at, mark) in marks.iter().enumerate().take(read) {
            let arrival = new(arrivals.admit(Some(1), false, mark.clone()));
            taken.push(messages[at].0);
            if at < acknowledged {
                arrivals.finish(arrival);
            }
        }
        prop_assert_eq!(acks(&mut arrivals).len(), acknowledged);
        arrivals.lost();
        for (at, mark) in marks.iter().enumerate().skip(seen.min(acknowledged)) {
            if let Admission::New(_) = arrivals.admit(Some(1), true, mark.clone()) {
                taken.push(messages[at].0);
            }
        }
        prop_assert_eq!(taken.last(), messages.last().map(|(text, _)| text));
    }

    #[test]
    fn nothing_unfinished_is_ever_acknowledged_and_nothing_finished_is_forgotten(
        steps in proptest::collection::vec((0..6_u8, 0..4_u8), 1..200)
    ) {
        let mut arrivals = Arrivals::default();
        // What the broker has in flight: its number, its text, whether it was delivered before.
        let (mut packet, mut in_flight) = (0_u16, VecDeque::new());
        let mut open: Vec<(Arrival, u16)> = Vec::new();
        for (step, text) in steps {
            match step {
                0..=2 => {
                    packet += 1;
                    in_flight.push_back((packet, text));
                    open.push((new(arrivals.admit(Some(packet), false, mark(text))), packet));
                }
                3 if !open.is_empty() => {
                    let (arrival, _) = open.swap_remove(usize::from(text) % open.len());
                    arrivals.finish(arrival);
                }
                4 => while let Some(acknowledged) = arrivals.poll_ack() {
                    let (first, _) = in_flight.pop_front().unwrap();
                    prop_assert_eq!(acknowledged, first);
                    prop_assert!(open.iter().all(|(_, packet)| *packet != first));
                },
                _ => {
                    arrivals.lost();
                    for (packet, text) in &in_flight {
                        prop_assert_eq!(arrivals.admit(Some(*packet), true, mark(*text)), Admission::Known);
                    }
                }
            }
        }
        for (arrival, _) in open {
            arrivals.finish(arrival);
        }
        prop_assert_eq!(acks(&mut arrivals).len(), in_flight.len());
    }
}
