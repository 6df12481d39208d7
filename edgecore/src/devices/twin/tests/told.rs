//! What local clients are told.

use super::*;

#[test]
fn a_report_is_told_with_what_was_before_and_every_wish() {
    let mut bench = Bench::new(rules());
    bench.does(Event::Report(&wish("target", "30")));
    let told = bench.says("target", "25").told.unwrap();
    let change = &told.changes["target"];
    assert!(change.last.as_ref().unwrap().actual.is_none());
    let current = change.current.as_ref().unwrap();
    assert_eq!(current.actual.as_ref().unwrap().value, "25");
    assert_eq!(current.type_, "int");
    assert_eq!(told.delta["target"], "30");
    let told = bench.says("temperature", "20").told.unwrap();
    assert_eq!(told.wished["target"].expected.as_ref().unwrap().value, "30");
    assert_eq!(told.delta["target"], "30");
    let told = bench.says("target", "30").told.unwrap();
    assert!(told.delta.is_empty() && told.wished.contains_key("target"));
    assert_eq!((told.event_id.as_str(), told.origin), ("e1", Origin::Mqtt));
}

#[test]
fn a_value_said_again_is_told_with_equal_values() {
    let mut bench = Bench::new(rules());
    bench.says("target", "5");
    let told = bench.says("target", "5").told.unwrap();
    let change = &told.changes["target"];
    let value = |view: &Option<crate::devices::seam::TwinView>| {
        view.as_ref().unwrap().actual.as_ref().unwrap().value.clone()
    };
    assert_eq!(value(&change.last), value(&change.current));
}

#[test]
fn a_dropped_property_is_gone_everywhere() {
    let mut bench = Bench::new(rules());
    bench.says("target", "5");
    assert_eq!(bench.heard("target").as_deref(), Some("5"));
    let outcome = bench.does(Event::Report(&report(vec![seen("target", Observation::Dropped)])));
    assert!(outcome.told.unwrap().changes["target"].current.is_none());
    assert!(outcome.hear);
    assert_eq!(bench.heard("target"), None);
    assert!(!bench.twin.views(&bench.rules).contains_key("target"));
}

#[test]
fn the_cluster_reads_time_type_quality_and_version() {
    let mut bench = Bench::new(rules());
    let mut said = value("temperature", "99");
    said.seen[0].clue.device_timestamp = Some("12:00".to_owned());
    bench.does(Event::Report(&said));
    bench.twin.release(&bench.rules, bench.now, true);
    let status = bench.twin.status(&bench.rules);
    let reported = status.twins[0].reported.as_ref().unwrap();
    assert_eq!(reported.metadata["type"], "double");
    assert_eq!(reported.metadata["quality"], "error");
    assert_eq!(reported.metadata["deviceTimestamp"], "12:00");
    assert_eq!(reported.metadata["timestamp"], bench.now.wall.to_string());
    assert_eq!(reported.metadata["version"], bench.now.version.to_string());
    assert!(!reported.metadata["reason"].is_empty());
    assert_eq!(status.state.as_deref(), Some("online"));
    assert_eq!(status.last_online_time.as_deref(), Some("2023-11-14T22:13:20Z"));
}
