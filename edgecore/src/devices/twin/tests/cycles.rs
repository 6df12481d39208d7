//! How often the cluster is told.

use super::*;

#[test]
fn the_first_change_goes_at_once_and_the_newest_at_the_end_of_the_cycle() {
    let mut bench = Bench::new(rules());
    bench.says("temperature", "1");
    assert_eq!(bench.heard("temperature").as_deref(), Some("1"));
    for text in ["2", "3"] {
        bench.passes(1_000);
        bench.says("temperature", text);
        assert_eq!(bench.heard("temperature").as_deref(), Some("1"));
    }
    assert_eq!(
        bench.twin.next_due(&bench.rules, bench.now, true),
        Some(1_000 + 5_000)
    );
    bench.passes(3_000);
    assert_eq!(bench.heard("temperature").as_deref(), Some("3"));
}

#[test]
fn a_state_that_changes_often_goes_once_a_cycle_and_not_at_all_where_it_is_not_wanted() {
    let cycle = |device: &mut Value| device["spec"]["stateReport"] = json!({"reportCycle": 5_000});
    let mut bench = Bench::new(rules_of(cycle));
    let told = |bench: &mut Bench| {
        let told = bench.twin.release(&bench.rules, bench.now, true);
        (told, bench.twin.status(&bench.rules).state)
    };
    assert_eq!(told(&mut bench), (false, Some("unknown".to_owned())));
    bench.passes(5_000);
    bench.does(Event::State(DeviceState::Online));
    assert_eq!(
        told(&mut bench),
        (true, Some("online".to_owned())),
        "the first at once"
    );
    for state in [DeviceState::Offline, DeviceState::Online, DeviceState::Unhealthy] {
        bench.passes(1_000);
        bench.does(Event::State(state));
        assert_eq!(told(&mut bench), (false, Some("online".to_owned())));
    }
    let due = bench.twin.next_due(&bench.rules, bench.now, true);
    assert_eq!(due, Some(bench.now.mono + 2_000));
    bench.passes(2_000);
    assert_eq!(
        told(&mut bench),
        (true, Some("unhealthy".to_owned())),
        "the newest at its end"
    );
    let never = |device: &mut Value| device["spec"]["stateReport"] = json!({"reportToCloud": false});
    bench.rules = rules_of(never);
    let status = bench.twin.status(&bench.rules);
    assert_eq!((status.state, status.last_online_time), (None, None));
}

#[test]
fn no_cycle_holds_a_mapper_or_a_node_without_a_link() {
    let mut bench = Bench::new(rules());
    for text in ["1", "2"] {
        let mapper = Report {
            origin: Origin::Mapper,
            ..value("temperature", text)
        };
        bench.does(Event::Report(&mapper));
        assert_eq!(bench.heard("temperature").as_deref(), Some(text));
    }
    bench.says("temperature", "3");
    assert_eq!(bench.heard("temperature").as_deref(), Some("2"));
    bench.twin.release(&bench.rules, bench.now, false);
    assert_eq!(bench.heard("temperature").as_deref(), Some("3"));
}

#[test]
fn the_same_value_again_is_told_once_a_minute() {
    let mut bench = Bench::new(rules());
    bench.says("target", "5");
    assert!(bench.twin.release(&bench.rules, bench.now, true));
    for _ in 0..59 {
        bench.passes(1_000);
        let outcome = bench.says("target", "5");
        assert!(outcome.changes[0].again);
        assert!(!bench.twin.release(&bench.rules, bench.now, true));
    }
    bench.passes(1_000);
    bench.says("target", "5");
    assert!(bench.twin.release(&bench.rules, bench.now, true));
}
