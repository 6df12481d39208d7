//! When a wish is written, and when it is given up.

use super::*;

mod doubt;

const MANNER: Manner = Manner {
    confirm_timeout: Duration::from_secs(30),
    enforce: false,
};

fn wish(value: &str, version: u64, met: bool) -> Wish {
    Wish {
        value: value.to_owned(),
        version,
        met,
        done: met,
        in_doubt: false,
    }
}

fn at(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

#[test]
fn a_wish_is_written_once_and_settled_by_the_report() {
    let (mut writing, now) = (Writing::default(), Instant::now());
    assert_eq!(
        writing.next(Some(&wish("21", 1, false)), MANNER, now),
        Step::Write("21".into())
    );
    writing.sent(now);
    assert_eq!(
        writing.next(Some(&wish("21", 1, false)), MANNER, at(now, 1)),
        Step::Wait(Some(at(now, 2)))
    );
    assert_eq!(
        writing.next(Some(&wish("21", 1, true)), MANNER, at(now, 1)),
        Step::Wait(None)
    );
}

#[test]
fn a_device_that_has_the_value_already_is_left_alone() {
    let mut writing = Writing::default();
    assert_eq!(
        writing.next(Some(&wish("21", 1, true)), MANNER, Instant::now()),
        Step::Wait(None)
    );
}

#[test]
fn an_unconfirmed_write_is_repeated_with_back_off_and_given_up_once() {
    let (mut writing, start) = (Writing::default(), Instant::now());
    let unmet = wish("ON", 1, false);
    let (mut writes, mut now) = (Vec::new(), start);
    let why = loop {
        match writing.next(Some(&unmet), MANNER, now) {
            Step::Write(_) => {
                writes.push((now - start).as_secs());
                writing.sent(now);
            }
            Step::Wait(until) => now = until.unwrap(),
            Step::GiveUp { why, .. } => break why,
            Step::Settle { .. } => panic!("nothing was in doubt"),
        }
    };
    assert_eq!((writes, why), (vec![0, 2, 6, 14], "NotConfirmed".to_owned()));
    assert_eq!(now, at(start, 30));
    assert_eq!(writing.next(Some(&unmet), MANNER, at(now, 100)), Step::Wait(None));
}

#[test]
fn the_time_in_which_nobody_is_reached_does_not_count() {
    let (mut writing, start) = (Writing::default(), Instant::now());
    let unmet = wish("ON", 1, false);
    let mut now = start;
    while now < at(start, 3600) {
        match writing.next(Some(&unmet), MANNER, now) {
            Step::Write(_) => writing.unreachable(now),
            Step::Wait(until) => now = until.unwrap(),
            Step::GiveUp { .. } | Step::Settle { .. } => panic!("given up"),
        }
    }
    writing.reachable(now);
    assert_eq!(writing.next(Some(&unmet), MANNER, now), Step::Write("ON".into()));
}

#[test]
fn a_refusal_is_the_reason_that_is_given() {
    let (mut writing, start) = (Writing::default(), Instant::now());
    let unmet = wish("900", 1, false);
    let _ = writing.next(Some(&unmet), MANNER, start);
    writing.refused("exception 3".into(), start);
    assert!(matches!(
        writing.next(Some(&unmet), MANNER, at(start, 1)),
        Step::Wait(Some(_))
    ));
    assert_eq!(
        writing.next(Some(&unmet), MANNER, at(start, 30)),
        Step::GiveUp {
            version: 1,
            why: "NotConfirmed: exception 3".into()
        }
    );
}

#[test]
fn a_person_at_the_switch_wins_unless_the_property_is_enforced() {
    let enforce = Manner {
        enforce: true,
        ..MANNER
    };
    for (manner, after) in [(MANNER, Step::Wait(None)), (enforce, Step::Write("ON".into()))] {
        let (mut writing, now) = (Writing::default(), Instant::now());
        let _ = writing.next(Some(&wish("ON", 1, false)), manner, now);
        writing.sent(now);
        let _ = writing.next(Some(&wish("ON", 1, true)), manner, now);
        assert_eq!(
            writing.next(Some(&wish("ON", 1, false)), manner, at(now, 60)),
            after
        );
    }
}

#[test]
fn what_was_changed_by_hand_while_edgecore_was_away_stays_unless_the_property_is_enforced() {
    let enforce = Manner {
        enforce: true,
        ..MANNER
    };
    let done = Wish {
        done: true,
        ..wish("ON", 1, false)
    };
    for (manner, first) in [(MANNER, Step::Wait(None)), (enforce, Step::Write("ON".into()))] {
        let (mut writing, now) = (Writing::default(), Instant::now());
        assert_eq!(writing.next(Some(&done), manner, now), first);
    }
    // Another wish is another matter.
    let (mut writing, now) = (Writing::default(), Instant::now());
    let _ = writing.next(Some(&done), MANNER, now);
    let next = writing.next(Some(&wish("OFF", 2, false)), MANNER, now);
    assert_eq!(next, Step::Write("OFF".into()));
}

#[test]
fn an_old_report_that_equals_a_new_wish_keeps_it_from_nothing_and_settles_nothing() {
    let old = Wish {
        done: false,
        ..wish("off", 2, true)
    };
    let (mut writing, now) = (Writing::default(), Instant::now());
    assert_eq!(writing.next(Some(&old), MANNER, now), Step::Write("off".into()));
    writing.sent(now);
    let again = Step::Wait(Some(at(now, 2)));
    assert_eq!(writing.next(Some(&old), MANNER, now), again);
    let said = wish("off", 2, true);
    assert_eq!(writing.next(Some(&said), MANNER, now), Step::Wait(None));
}

#[test]
fn an_enforced_value_is_not_written_for_its_age() {
    let enforce = Manner {
        enforce: true,
        ..MANNER
    };
    let (mut writing, now) = (Writing::default(), Instant::now());
    let done = wish("ON", 1, true);
    assert_eq!(writing.next(Some(&done), enforce, now), Step::Wait(None));
    assert_eq!(writing.next(Some(&done), enforce, at(now, 60)), Step::Wait(None));
}

#[test]
fn a_wish_that_is_taken_back_before_it_was_confirmed_is_written_all_the_same() {
    let (mut writing, now) = (Writing::default(), Instant::now());
    let _ = writing.next(Some(&wish("21", 1, false)), MANNER, now);
    writing.sent(now);
    // The device still says 20; whether it took the 21 nobody knows.
    assert_eq!(
        writing.next(Some(&wish("20", 2, true)), MANNER, now),
        Step::Write("20".into())
    );
    assert_eq!(
        writing.next(Some(&wish("20", 2, true)), MANNER, now),
        Step::Write("20".into())
    );
    writing.sent(now);
    assert_eq!(
        writing.next(Some(&wish("20", 2, true)), MANNER, now),
        Step::Wait(None)
    );
}

#[test]
fn a_device_that_answers_reads_and_no_writes_is_given_up() {
    for met in [false, true] {
        let (mut writing, start) = (Writing::default(), Instant::now());
        let _ = writing.next(Some(&wish("on", 1, false)), MANNER, start);
        writing.unanswered(start);
        let now = wish("off", 2, met);
        let _ = writing.next(Some(&now), MANNER, at(start, 1));
        writing.unanswered(at(start, 1));
        // As long as it answers nothing at all its time stands still.
        assert!(matches!(
            writing.next(Some(&now), MANNER, at(start, 600)),
            Step::Write(_)
        ));
        writing.unanswered(at(start, 600));
        writing.answers(at(start, 601));
        writing.answers(at(start, 620));
        let gives_up = Step::GiveUp {
            version: 2,
            why: "NotConfirmed".to_owned(),
        };
        assert_eq!(writing.next(Some(&now), MANNER, at(start, 631)), gives_up);
        let settled = Wish { done: true, ..now };
        assert_eq!(
            writing.next(Some(&settled), MANNER, at(start, 700)),
            Step::Wait(None)
        );
    }
}

#[test]
fn a_wish_that_was_given_up_is_not_written_when_it_goes_and_comes_back() {
    let (mut writing, start) = (Writing::default(), Instant::now());
    let unmet = wish("80", 1, false);
    let _ = writing.next(Some(&unmet), MANNER, start);
    writing.sent(start);
    let end = writing.next(Some(&unmet), MANNER, at(start, 30));
    assert!(matches!(end, Step::GiveUp { .. }));
    assert_eq!(writing.next(None, MANNER, at(start, 40)), Step::Wait(None));
    let done = Wish { done: true, ..unmet };
    assert_eq!(writing.next(Some(&done), MANNER, at(start, 50)), Step::Wait(None));
}

#[test]
fn a_wish_that_is_taken_back_after_an_answer_was_lost_is_written_until_it_went_out() {
    let (mut writing, start) = (Writing::default(), Instant::now());
    let _ = writing.next(Some(&wish("on", 1, false)), MANNER, start);
    writing.unanswered(start);
    let back = wish("off", 2, true);
    let off = Step::Write("off".into());
    assert_eq!(writing.next(Some(&back), MANNER, at(start, 1)), off);
    writing.unanswered(at(start, 1));
    writing.reachable(at(start, 60));
    assert_eq!(writing.next(Some(&back), MANNER, at(start, 60)), off);
    writing.sent(at(start, 60));
    assert_eq!(writing.next(Some(&back), MANNER, at(start, 60)), Step::Wait(None));
}

#[test]
fn a_device_that_says_the_value_whose_answer_was_lost_is_left_alone() {
    let (mut writing, now) = (Writing::default(), Instant::now());
    let _ = writing.next(Some(&wish("on", 1, false)), MANNER, now);
    writing.unanswered(now);
    let settled = Step::Wait(None);
    assert_eq!(
        writing.next(Some(&wish("on", 1, true)), MANNER, at(now, 9)),
        settled
    );
    assert_eq!(
        writing.next(Some(&wish("on", 1, true)), MANNER, at(now, 9)),
        settled
    );
}

#[test]
fn what_never_went_out_leaves_no_doubt() {
    let (mut writing, now) = (Writing::default(), Instant::now());
    let _ = writing.next(Some(&wish("on", 1, false)), MANNER, now);
    writing.unreachable(now);
    assert_eq!(
        writing.next(Some(&wish("off", 2, true)), MANNER, at(now, 9)),
        Step::Wait(None)
    );
}

#[test]
fn what_went_out_and_never_came_is_not_given_up_and_is_due_when_the_device_is_back() {
    let (mut writing, start) = (Writing::default(), Instant::now());
    let unmet = wish("OFF", 1, false);
    let mut now = start;
    while now < at(start, 60) {
        match writing.next(Some(&unmet), MANNER, now) {
            Step::Write(_) => writing.unanswered(now),
            Step::Wait(until) => now = until.unwrap(),
            Step::GiveUp { .. } | Step::Settle { .. } => panic!("given up"),
        }
    }
    writing.reachable(now);
    let off = Step::Write("OFF".into());
    assert_eq!(writing.next(Some(&unmet), MANNER, now), off);
    writing.unanswered(now);
    writing.arrived(1, at(now, 1));
    assert_eq!(
        writing.next(Some(&unmet), MANNER, at(now, 1)),
        Step::Wait(Some(at(now, 2)))
    );
    assert!(matches!(
        writing.next(Some(&unmet), MANNER, at(now, 31)),
        Step::GiveUp { version: 1, .. }
    ));
}

#[test]
fn what_arrives_of_an_earlier_wish_says_nothing_of_a_later_one() {
    let (mut writing, now) = (Writing::default(), Instant::now());
    let _ = writing.next(Some(&wish("on", 1, false)), MANNER, now);
    writing.unanswered(now);
    let back = wish("off", 2, true);
    let off = Step::Write("off".into());
    assert_eq!(writing.next(Some(&back), MANNER, now), off);
    writing.unanswered(now);
    writing.arrived(1, now);
    writing.reachable(now);
    assert_eq!(writing.next(Some(&back), MANNER, now), off);
}

#[test]
fn what_is_refused_on_its_way_is_written_again_in_its_time_and_then_given_up_with_the_reason() {
    let (mut writing, start) = (Writing::default(), Instant::now());
    let unmet = wish("ON", 2, false);
    let _ = writing.next(Some(&unmet), MANNER, start);
    writing.unanswered(start);
    writing.turned_away(1, "of an earlier wish".to_owned(), start);
    assert!(!writing.is_awaited());
    writing.turned_away(2, "no".to_owned(), at(start, 1));
    let again = Step::Wait(Some(at(start, 2)));
    assert_eq!(writing.next(Some(&unmet), MANNER, at(start, 1)), again);
    assert_eq!(
        writing.next(Some(&unmet), MANNER, at(start, 31)),
        Step::GiveUp {
            version: 2,
            why: "NotConfirmed: no".to_owned()
        }
    );
}

#[test]
fn a_wish_that_is_gone_is_not_written() {
    let (mut writing, now) = (Writing::default(), Instant::now());
    let _ = writing.next(Some(&wish("21", 1, false)), MANNER, now);
    assert_eq!(writing.next(None, MANNER, now), Step::Wait(None));
}
