//! What an earlier process has left in doubt.

use super::*;

/// The same wish, in doubt as the twin knows it.
fn doubted(wish: Wish) -> Wish {
    Wish {
        in_doubt: true,
        ..wish
    }
}

#[test]
fn a_wish_that_was_taken_back_in_doubt_is_written_by_the_next_process_until_it_went_out_once() {
    let (mut writing, start) = (Writing::default(), Instant::now());
    let back = doubted(wish("off", 2, true));
    let off = Step::Write("off".into());
    assert_eq!(writing.next(Some(&back), MANNER, start), off);
    writing.unreachable(start);
    assert_eq!(writing.next(Some(&back), MANNER, at(start, 2)), off);
    writing.sent(at(start, 2));
    let settle = Step::Settle { version: 2 };
    assert_eq!(writing.next(Some(&back), MANNER, at(start, 2)), settle);
    // The twin has it, a moment later.
    let rest = Step::Wait(None);
    assert_eq!(writing.next(Some(&back), MANNER, at(start, 2)), rest);
    assert_eq!(
        writing.next(Some(&wish("off", 2, true)), MANNER, at(start, 2)),
        rest
    );
}

#[test]
fn a_wish_that_an_earlier_process_may_have_written_is_in_doubt_when_it_is_taken_back() {
    let given_up = Wish {
        done: true,
        ..wish("on", 1, false)
    };
    for before in [wish("on", 1, false), given_up] {
        let (mut writing, now) = (Writing::default(), Instant::now());
        let before = doubted(before);
        let _ = writing.next(Some(&before), MANNER, now);
        writing.unreachable(now);
        let back = doubted(wish("off", 2, true));
        let off = Step::Write("off".into());
        assert_eq!(writing.next(Some(&back), MANNER, at(now, 1)), off, "{before:?}");
    }
}

#[test]
fn whoever_knows_that_nothing_went_out_writes_nothing_and_says_so() {
    let (mut writing, now) = (Writing::default(), Instant::now());
    let _ = writing.next(Some(&wish("on", 1, false)), MANNER, now);
    writing.unreachable(now);
    let back = doubted(wish("off", 2, true));
    let settle = Step::Settle { version: 2 };
    assert_eq!(writing.next(Some(&back), MANNER, at(now, 9)), settle);
    assert_eq!(
        writing.next(Some(&back), MANNER, at(now, 9)),
        Step::Wait(None),
        "once"
    );
}

#[test]
fn a_wish_that_was_given_up_in_doubt_stays_in_doubt() {
    let (mut writing, start) = (Writing::default(), Instant::now());
    let unmet = doubted(wish("80", 2, false));
    let _ = writing.next(Some(&unmet), MANNER, start);
    writing.sent(start);
    let end = writing.next(Some(&unmet), MANNER, at(start, 30));
    assert!(matches!(end, Step::GiveUp { .. }));
    let done = Wish { done: true, ..unmet };
    assert_eq!(writing.next(Some(&done), MANNER, at(start, 40)), Step::Wait(None));
}
