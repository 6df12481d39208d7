//! Who may wish for what, and whose wish counts.

use super::*;

pub(super) fn wanting(value: &str) -> Rules {
    rules_of(|device| device["spec"]["properties"][1]["desired"] = json!({"value": value}))
}

fn wish_of(bench: &Bench) -> Option<(String, bool)> {
    let kept = bench.twin.kept_of("target")?;
    let wish = kept.wish.as_ref()?;
    Some((wish.value.to_string(), wish.local))
}

/// Whether the wish is met, and whether it is done.
pub(super) fn state(bench: &Bench) -> (bool, bool) {
    let wish = bench.twin.wishes(&bench.rules)["target"].clone();
    (wish.met, wish.done)
}

#[test]
fn the_last_change_at_the_node_wins() {
    let mut bench = Bench::new(wanting("10"));
    assert_eq!(wish_of(&bench), Some(("10".to_owned(), false)));
    bench.does(Event::Report(&wish("target", "20")));
    assert_eq!(wish_of(&bench), Some(("20".to_owned(), true)));
    bench.rules = wanting("30");
    let outcome = bench.does(Event::Catalog);
    assert_eq!(wish_of(&bench), Some(("30".to_owned(), false)));
    assert!(outcome.wishes && outcome.told.unwrap().delta["target"] == "30");
}

#[test]
fn a_resync_a_restart_or_another_edit_does_not_bring_the_clusters_wish_back() {
    let mut bench = Bench::new(wanting("10"));
    bench.does(Event::Report(&wish("target", "20")));
    assert_eq!(bench.does(Event::Catalog), Outcome::default());
    bench.rules = rules_of(|device| {
        device["spec"]["properties"][1]["desired"] = json!({"value": "10"});
        device["spec"]["properties"][0]["collectCycle"] = json!(500);
    });
    bench.does(Event::Catalog);
    assert_eq!(wish_of(&bench), Some(("20".to_owned(), true)));
    let kept: Vec<_> = bench
        .twin
        .kept()
        .map(|(name, kept)| (name.clone(), kept.clone()))
        .collect();
    bench.twin = Twin::recall(kept, None, bench.now);
    bench.does(Event::Catalog);
    assert_eq!(wish_of(&bench), Some(("20".to_owned(), true)));
}

#[test]
fn a_wish_that_the_device_has_said_once_is_done_and_a_restart_does_not_forget_it() {
    let mut bench = Bench::new(wanting("10"));
    bench.says("target", "5");
    assert_eq!(state(&bench), (false, false));
    assert!(bench.says("target", "10").wishes);
    assert_eq!(state(&bench), (true, true));
    // Somebody turns the knob.
    assert!(!bench.says("target", "30").wishes);
    assert_eq!(state(&bench), (false, true));
    let kept = bench.twin.kept();
    let kept: Vec<_> = kept
        .map(|(name, kept)| (name.clone(), serde_json::to_string(kept).unwrap()))
        .map(|(name, text)| (name, serde_json::from_str(&text).unwrap()))
        .collect();
    bench.twin = Twin::recall(kept, None, bench.now);
    bench.does(Event::Catalog);
    assert_eq!(state(&bench), (false, true));
    // Another change is another wish; so is the same one, said again by somebody who sees that it is not so.
    bench.does(Event::Report(&wish("target", "10")));
    assert_eq!(state(&bench), (false, false));
    bench.says("target", "30");
    bench.does(Event::Report(&wish("target", "30")));
    assert_eq!(state(&bench), (true, true), "it is so already");
}

#[test]
fn a_new_wish_that_equals_an_old_report_alone_is_not_done() {
    let cycle = |device: &mut Value| device["spec"]["properties"][1]["collectCycle"] = json!(10_000);
    let silent = report(vec![seen("target", Observation::Fault("timeout".to_owned()))]);
    let ages: [&dyn Fn(&mut Bench); 5] = [
        &|bench| drop(bench.passes(30_000)),
        &|bench| drop(bench.does(Event::State(DeviceState::Offline))),
        &|bench| drop(bench.does(Event::Report(&silent))),
        &|bench| bench.boots(),
        &|bench| {
            bench.boots();
            bench.does(Event::Report(&silent));
        },
    ];
    for (case, ages) in ages.iter().enumerate() {
        for local in [false, true] {
            let mut bench = Bench::new(rules_of(cycle));
            bench.says("target", "10");
            ages(&mut bench);
            bench.does(Event::Report(&wish("target", "30")));
            if local {
                bench.does(Event::Report(&wish("target", "10")));
            } else {
                bench.rules = rules_of(|device| {
                    cycle(device);
                    device["spec"]["properties"][1]["desired"] = json!({"value": "10"});
                });
                bench.does(Event::Catalog);
            }
            assert_eq!(state(&bench), (true, false), "case {case}, local {local}");
            bench.says("target", "30");
            assert_eq!(state(&bench), (false, false), "case {case}, local {local}");
            bench.says("target", "10");
            assert_eq!(state(&bench), (true, true), "case {case}, local {local}");
        }
    }
}

#[test]
fn whoever_says_the_same_again_of_a_device_that_is_away_wants_it_written_again() {
    let mut bench = Bench::new(wanting("10"));
    bench.says("target", "10");
    let first = bench.twin.wishes(&bench.rules)["target"].version;
    bench.does(Event::State(DeviceState::Offline));
    assert_eq!(state(&bench), (true, true), "the old wish was done");
    bench.does(Event::Report(&wish("target", "10")));
    assert!(bench.twin.wishes(&bench.rules)["target"].version > first);
    assert_eq!(state(&bench), (true, false));
}

pub(super) fn given_up(version: u64) -> Report {
    let why = "NotConfirmed: exception 3".to_owned();
    report(vec![seen("target", Observation::GivenUp { version, why })])
}

#[test]
fn a_wish_that_was_given_up_stays_so_through_a_boot_and_another_one_is_open() {
    let mut bench = Bench::new(wanting("10"));
    bench.says("target", "5");
    let version = bench.twin.wishes(&bench.rules)["target"].version;
    assert!(bench.does(Event::Report(&given_up(version))).wishes);
    let reported = bench.reported("target");
    assert_eq!(
        (reported.value.as_deref(), reported.reason.as_str()),
        (Some("5"), "NotConfirmed: exception 3")
    );
    bench.boots();
    bench.does(Event::Catalog);
    assert_eq!(state(&bench), (false, true));
    bench.rules = wanting("20");
    bench.does(Event::Catalog);
    assert_eq!(state(&bench), (false, false));
    bench.says("target", "5");
    assert_eq!(bench.does(Event::Report(&given_up(version))).changes, []);
    assert_eq!(state(&bench), (false, false), "it was another one");
}

#[test]
fn why_a_wish_was_given_up_is_told_until_the_device_says_it_or_another_is_wished() {
    let told = |bench: &Bench| (bench.quality("target"), bench.reported("target").reason);
    let vain = (Quality::Error, "NotConfirmed: exception 3".to_owned());
    let good = (Quality::Good, String::new());
    let version = |bench: &Bench| bench.twin.wishes(&bench.rules)["target"].version;
    let mut bench = Bench::new(wanting("10"));
    bench.says("target", "5");
    bench.does(Event::Report(&given_up(version(&bench))));
    for text in ["5", "6"] {
        bench.says("target", text);
        assert_eq!(told(&bench), vain);
        assert_eq!(bench.reported("target").value.as_deref(), Some(text));
    }
    bench.boots();
    bench.says("target", "5");
    assert_eq!(told(&bench), vain);
    // What does not fit has its own reason.
    bench.says("target", "101");
    assert_ne!(told(&bench), vain);
    assert_eq!(bench.quality("target"), Quality::Error);
    for text in ["10", "5"] {
        bench.says("target", text);
        assert_eq!(told(&bench), good, "it took the value, whoever changed it then");
    }
    bench.does(Event::Report(&wish("target", "20")));
    bench.does(Event::Report(&given_up(version(&bench))));
    bench.says("target", "5");
    assert_eq!(told(&bench), vain);
    bench.does(Event::Report(&wish("target", "30")));
    bench.says("target", "5");
    assert_eq!(told(&bench), good);
}

#[test]
fn a_wish_that_the_device_has_said_meanwhile_is_not_given_up() {
    let mut bench = Bench::new(wanting("10"));
    let version = bench.twin.wishes(&bench.rules)["target"].version;
    bench.says("target", "10");
    assert_eq!(bench.does(Event::Report(&given_up(version))).changes, []);
    assert_eq!(bench.quality("target"), Quality::Good);
}

#[test]
fn what_is_to_be_known_of_a_good_value_stands_beside_it() {
    let mut bench = Bench::new(rules());
    let mut noted = value("target", "5");
    noted.seen[0].clue.note = "PollOverrun: 2 cycles skipped".to_owned();
    let metadata = |bench: &Bench| {
        let view = bench.twin.views(&bench.rules)["target"].clone();
        view.actual.unwrap().metadata
    };
    bench.does(Event::Report(&noted));
    assert_eq!(metadata(&bench)["quality"], "good");
    assert_eq!(metadata(&bench)["reason"], "PollOverrun: 2 cycles skipped");
    bench.says("target", "5");
    assert_eq!(metadata(&bench).get("reason"), None);
}

#[test]
fn a_wish_that_the_cluster_takes_back_ends_and_one_of_the_site_stays() {
    let mut bench = Bench::new(wanting("10"));
    bench.rules = rules();
    bench.does(Event::Catalog);
    assert_eq!(wish_of(&bench), None);
    bench.rules = wanting("10");
    bench.does(Event::Catalog);
    bench.does(Event::Report(&wish("target", "20")));
    bench.rules = rules();
    bench.does(Event::Catalog);
    assert_eq!(wish_of(&bench), Some(("20".to_owned(), true)));
}

#[test]
fn type_range_and_access_refuse_a_wish_of_the_site() {
    let mut bench = Bench::new(rules());
    for (property, value) in [("target", "hot"), ("target", "101"), ("temperature", "20")] {
        let refused = bench.tries(Event::Report(&wish(property, value)));
        assert!(
            matches!(refused, Err(Refused::BadWish { .. })),
            "{property} {value}"
        );
    }
    assert!(bench.twin.wishes(&bench.rules).is_empty());
}

#[test]
fn a_forbidden_wish_of_the_cluster_is_not_delivered_until_the_model_allows_it() {
    let mut bench = Bench::new(wanting("1000"));
    assert!(bench.twin.wishes(&bench.rules).is_empty());
    let told = bench.says("target", "5").told.unwrap();
    assert!(told.delta.is_empty() && told.wished.is_empty());
    assert!(
        bench
            .twin
            .status(&bench.rules)
            .twins
            .iter()
            .all(|twin| twin.observed_desired.is_none())
    );
    let mut served = (*bench.rules.served).clone();
    served.properties[1].maximum = Some("2000".to_owned());
    bench.rules = Rules::of(Arc::new(served));
    assert_eq!(bench.twin.wishes(&bench.rules)["target"].value, "1000");
}

#[test]
fn a_wish_is_met_by_type_and_tolerance_and_its_version_grows_with_each_change() {
    let mut bench = Bench::new(wanting("30"));
    let first = bench.twin.wishes(&bench.rules)["target"].clone();
    assert!(!first.met);
    bench.says("target", "30.0");
    let met = bench.twin.wishes(&bench.rules)["target"].clone();
    assert_eq!((met.met, met.version), (true, first.version));
    bench.does(Event::Report(&wish("target", "30")));
    assert_eq!(bench.twin.wishes(&bench.rules)["target"].version, first.version);
    bench.says("target", "29");
    bench.does(Event::Report(&wish("target", "30")));
    assert!(bench.twin.wishes(&bench.rules)["target"].version > first.version);
}

#[test]
fn a_wish_ends_when_its_time_is_over() {
    let mut bench = Bench::new(rules_of(|device| {
        device["spec"]["properties"][1]["desired"] =
            json!({"value": "10", "metadata": {"expires": "2023-11-14T22:14:20Z"}});
    }));
    assert!(wish_of(&bench).is_some());
    assert!(bench.twin.next_due(&bench.rules, bench.now, true).is_some());
    bench.passes(59_999);
    assert!(wish_of(&bench).is_some());
    let outcome = bench.passes(1);
    assert!(outcome.wishes && outcome.hear);
    assert_eq!(wish_of(&bench), None);
    bench.does(Event::Catalog);
    assert_eq!(wish_of(&bench), None, "it is the same wish as before");
}

#[test]
fn the_cluster_sees_whose_wish_it_is() {
    let mut bench = Bench::new(rules());
    bench.does(Event::Report(&wish("target", "20")));
    let twins = bench.twin.status(&bench.rules).twins;
    let observed = twins[0].observed_desired.as_ref().unwrap();
    assert_eq!(
        (observed.value.as_str(), observed.metadata["source"].as_str()),
        ("20", "local")
    );
    assert!(twins[0].reported.is_none());
}

#[test]
fn a_text_that_the_cluster_wishes_empty_is_the_same_wish_while_the_model_is_away() {
    let empty = |device: &mut Value| device["spec"]["properties"][2]["desired"] = json!({"value": ""});
    let mut bench = Bench::new(rules_of(empty));
    bench.does(Event::Report(&wish("note", "by hand")));
    let with = bench.rules.clone();
    let mut served = (*with.served).clone();
    served.has_model = false;
    for property in &mut served.properties {
        (property.declared, property.type_) = (false, None);
    }
    for rules in [Rules::of(Arc::new(served)), with] {
        bench.rules = rules;
        assert_eq!(bench.does(Event::Catalog), Outcome::default());
    }
    assert_eq!(bench.twin.wishes(&bench.rules)["note"].value, "by hand");
}
