//! What a wish that was given up leaves behind.

use super::wishes::{given_up, state, wanting};
use super::*;

#[test]
fn a_wish_that_was_given_up_leaves_no_error_when_another_or_none_is_in_its_place() {
    type Change = fn(&mut Bench);
    let (back, other, none): (Change, Change, Change) = (
        |bench| drop(bench.does(Event::Report(&wish("target", "5")))),
        |bench| {
            bench.rules = wanting("20");
            bench.does(Event::Catalog);
        },
        |bench| {
            bench.rules = rules();
            bench.does(Event::Catalog);
        },
    );
    let offline: Change = |bench| drop(bench.does(Event::State(DeviceState::Offline)));
    for (between, now, quality, after) in [
        // It says so still: there is nothing to be done.
        (None, back, Quality::Good, Some((true, true))),
        (None, other, Quality::Good, Some((false, false))),
        (None, none, Quality::Good, None),
        // What it is by now nobody knows.
        (Some(offline), back, Quality::Stale, Some((true, false))),
        (
            Some(Bench::boots as Change),
            back,
            Quality::Stale,
            Some((true, false)),
        ),
        (Some(offline), none, Quality::Stale, None),
    ] {
        for said_after in [false, true] {
            let mut bench = Bench::new(wanting("10"));
            bench.says("target", "5");
            let version = bench.twin.wishes(&bench.rules)["target"].version;
            bench.does(Event::Report(&given_up(version)));
            if said_after {
                bench.says("target", "5");
            }
            if let Some(between) = between {
                between(&mut bench);
            }
            assert_eq!(bench.quality("target"), Quality::Error);
            let before = bench.reported("target").version;
            now(&mut bench);
            let reported = bench.reported("target");
            assert_eq!((reported.quality, reported.reason.as_str()), (quality, ""));
            assert!(reported.version > before, "the cluster is told");
            let wish = bench.twin.wishes(&bench.rules).remove("target");
            assert_eq!(wish.map(|wish| (wish.met, wish.done)), after);
        }
    }
}

#[test]
fn what_could_not_be_read_before_a_wish_was_given_up_is_not_good_for_another_one() {
    let mut bench = Bench::new(wanting("10"));
    bench.says("target", "5");
    let silent = report(vec![seen("target", Observation::Fault("timeout".to_owned()))]);
    for before in [true, false] {
        let version = bench.twin.wishes(&bench.rules)["target"].version;
        if before {
            bench.does(Event::Report(&silent));
        }
        bench.does(Event::Report(&given_up(version)));
        if !before {
            bench.does(Event::Report(&silent));
        }
        bench.does(Event::Report(&wish("target", "5")));
        assert_eq!(bench.quality("target"), Quality::Error);
        assert_eq!(state(&bench), (true, false));
        bench.says("target", "5");
        assert_eq!(state(&bench), (true, true));
        bench.does(Event::Report(&wish("target", "10")));
    }
}

#[test]
fn a_value_that_the_device_was_set_from_in_vain_goes_stale_beneath_its_error() {
    let mut bench = Bench::new(rules_of(|device| {
        device["spec"]["properties"][1]["desired"] = json!({"value": "10"});
        device["spec"]["properties"][1]["collectCycle"] = json!(10_000);
    }));
    bench.says("target", "5");
    let version = bench.twin.wishes(&bench.rules)["target"].version;
    bench.does(Event::Report(&given_up(version)));
    bench.twin.release(&bench.rules, bench.now, true);
    let due = bench.twin.next_due(&bench.rules, bench.now, true);
    assert_eq!(due, Some(bench.now.mono + 30_000));
    bench.passes(30_000);
    bench.does(Event::Report(&wish("target", "5")));
    assert_eq!(
        (bench.quality("target"), state(&bench)),
        (Quality::Stale, (true, false))
    );
}
