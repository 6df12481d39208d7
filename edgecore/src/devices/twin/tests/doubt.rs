//! What a wish that nobody has confirmed leaves in doubt.

use super::wishes::{given_up, state, wanting};
use super::*;

/// Whether the device may have been set to something that it never said.
fn in_doubt(bench: &Bench) -> bool {
    bench.twin.wishes(&bench.rules)["target"].in_doubt
}

/// Another process goes on with what was journaled.
fn restarts(bench: &mut Bench) {
    let row = |(name, kept): (&Arc<str>, &Kept)| {
        let text = serde_json::to_string(kept).unwrap();
        (name.clone(), serde_json::from_str(&text).unwrap())
    };
    let kept: Vec<_> = bench.twin.kept().map(row).collect();
    bench.twin = Twin::recall(kept, None, bench.now);
    bench.does(Event::Catalog);
}

fn settled(version: u64) -> Report {
    report(vec![seen("target", Observation::Settled { version })])
}

#[test]
fn a_wish_that_is_taken_back_before_the_device_said_it_leaves_a_doubt_over_restarts_until_that_is_over() {
    let version = |bench: &Bench| bench.twin.wishes(&bench.rules)["target"].version;
    for gives_up in [false, true] {
        let mut bench = Bench::new(wanting("10"));
        bench.says("target", "5");
        assert!(
            !in_doubt(&bench),
            "its first wish may be carried out, and is no doubt of another one"
        );
        let first = version(&bench);
        if gives_up {
            bench.does(Event::Report(&given_up(first)));
        }
        bench.rules = wanting("5");
        bench.does(Event::Catalog);
        assert_eq!((state(&bench), in_doubt(&bench)), ((true, true), true));
        restarts(&mut bench);
        assert!(in_doubt(&bench));
        assert_eq!(
            bench.does(Event::Report(&settled(first))).changes,
            [],
            "it is another one"
        );
        let outcome = bench.does(Event::Report(&settled(version(&bench))));
        assert!(!outcome.changes[0].again, "flash must have it");
        assert!(!in_doubt(&bench));
        restarts(&mut bench);
        assert!(!in_doubt(&bench), "it is over");
        // So it is where nobody says so, but the device says what is wished.
        bench.does(Event::Report(&wish("target", "7")));
        bench.does(Event::Report(&wish("target", "8")));
        bench.says("target", "7");
        assert!(in_doubt(&bench));
        bench.says("target", "8");
        assert!(!in_doubt(&bench));
    }
}

#[test]
fn a_wish_that_ends_before_the_device_said_it_leaves_a_doubt_for_the_next_one() {
    let mut bench = Bench::new(wanting("10"));
    bench.says("target", "5");
    bench.rules = rules();
    bench.does(Event::Catalog);
    restarts(&mut bench);
    bench.does(Event::Report(&wish("target", "5")));
    assert_eq!((state(&bench), in_doubt(&bench)), ((true, true), true));
    // Where nothing is known there is nothing to doubt.
    bench.does(Event::Report(&wish("target", "6")));
    bench.does(Event::Report(&report(vec![seen("target", Observation::Dropped)])));
    assert_eq!(bench.twin.kept_of("target"), None);
}

#[test]
fn an_open_wish_of_an_earlier_process_may_have_been_carried_out() {
    let mut bench = Bench::new(wanting("10"));
    bench.says("target", "5");
    restarts(&mut bench);
    assert!(in_doubt(&bench));
    bench.says("target", "10");
    assert!(!in_doubt(&bench));
    restarts(&mut bench);
    assert!(!in_doubt(&bench), "it was done");
    bench.does(Event::Report(&wish("target", "20")));
    assert!(!in_doubt(&bench), "this one is new");
}
