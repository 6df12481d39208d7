//! What a twin makes of what happens to it, by example and for any sequence.

mod any;
mod cycles;
mod doubt;
mod told;
mod vain;
mod wishes;

use std::sync::Arc;

use protocol::devices::{Device, DeviceModel, DeviceName, DeviceState};
use serde_json::{Value, json};

use super::*;
use crate::devices::seam::{Clue, Observation, Origin, Seen};
use crate::devices::served;

/// A pump with a measured temperature (read each second), a target that can be set, and a note.
pub(super) fn rules_of(change: impl FnOnce(&mut Value)) -> Rules {
    let mut device = json!({
        "metadata": {"name": "pump", "namespace": "hall", "uid": "u1"},
        "spec": {
            "deviceModelRef": {"name": "pump"},
            "properties": [
                {"name": "temperature", "collectCycle": 10_000, "reportCycle": 5_000},
                {"name": "target"},
                {"name": "note", "reportToCloud": false}
            ]
        }
    });
    change(&mut device);
    let model: DeviceModel = serde_json::from_value(json!({
        "metadata": {"name": "pump", "namespace": "hall"},
        "spec": {"properties": [
            {"name": "temperature", "type": "DOUBLE", "accessMode": "ReadOnly", "minimum": "-40", "maximum": "90"},
            {"name": "target", "type": "INT", "minimum": "0", "maximum": "100"},
            {"name": "note", "type": "STRING"}
        ]}
    }))
    .unwrap();
    let device: Device = serde_json::from_value(device).unwrap();
    Rules::of(Arc::new(served::merge(&device, Some(&model))))
}

pub(super) fn rules() -> Rules {
    rules_of(|_| {})
}

pub(super) fn seen(property: &str, observation: Observation) -> Seen {
    Seen {
        property: property.to_owned(),
        observation,
        clue: Clue::default(),
    }
}

pub(super) fn report(seen: Vec<Seen>) -> Report {
    Report {
        device: DeviceName::new("hall", "pump"),
        seen,
        event_id: "e1".to_owned(),
        origin: Origin::Mqtt,
    }
}

pub(super) fn value(property: &str, value: &str) -> Report {
    report(vec![seen(property, Observation::Value(value.to_owned()))])
}

pub(super) fn wish(property: &str, value: &str) -> Report {
    report(vec![seen(property, Observation::Wished(value.to_owned()))])
}

/// A twin, its rules and a clock that moves when it is told to.
pub(super) struct Bench {
    pub(super) twin: Twin,
    pub(super) rules: Rules,
    pub(super) now: Moment,
}

impl Bench {
    pub(super) fn new(rules: Rules) -> Self {
        let now = Moment {
            wall: 1_700_000_000_000,
            mono: 1_000,
            version: 1,
        };
        let mut bench = Self {
            twin: Twin::default(),
            rules,
            now,
        };
        bench.does(Event::Catalog);
        bench
    }

    pub(super) fn tries(&mut self, event: Event<'_>) -> Result<Outcome, Refused> {
        self.now.version += 1;
        let outcome = merge(&self.twin, &self.rules, event, self.now)?;
        self.twin.apply(&outcome, self.now);
        Ok(outcome)
    }

    pub(super) fn does(&mut self, event: Event<'_>) -> Outcome {
        self.tries(event).unwrap()
    }

    pub(super) fn says(&mut self, property: &str, text: &str) -> Outcome {
        self.does(Event::Report(&value(property, text)))
    }

    pub(super) fn passes(&mut self, ms: i64) -> Outcome {
        self.now.wall += ms;
        self.now.mono += ms;
        self.does(Event::Tick)
    }

    /// The machine starts again, and has what is on flash.
    pub(super) fn boots(&mut self) {
        let row = |(name, kept): (&Arc<str>, &Kept)| {
            let mut kept: Kept = serde_json::from_str(&serde_json::to_string(kept).unwrap()).unwrap();
            if let Some(reported) = &mut kept.reported {
                let reported = Arc::make_mut(reported);
                reported.recalled = Some(reported.version);
                if reported.own_quality() == Quality::Good {
                    *reported = reported.clone().with_own_quality(Quality::Stale);
                }
            }
            (name.clone(), kept)
        };
        let kept: Vec<_> = self.twin.kept().map(row).collect();
        self.twin = Twin::recall(kept, None, self.now);
    }

    pub(super) fn reported(&self, property: &str) -> Reported {
        let kept = self.twin.kept_of(property).unwrap();
        kept.reported.as_deref().cloned().unwrap()
    }

    pub(super) fn quality(&self, property: &str) -> Quality {
        self.reported(property).quality
    }

    /// What the cluster has heard of a property, after whatever is due now.
    pub(super) fn heard(&mut self, property: &str) -> Option<String> {
        self.twin.release(&self.rules, self.now, true);
        let twins = self.twin.status(&self.rules).twins;
        let twin = twins.into_iter().find(|twin| twin.property_name == property)?;
        twin.reported.map(|reported| reported.value)
    }
}

#[test]
fn a_value_of_the_wrong_type_or_out_of_range_is_kept_as_sent_and_marked() {
    let mut bench = Bench::new(rules());
    for (text, quality) in [
        ("21.5", Quality::Good),
        ("91", Quality::Error),
        ("warm", Quality::Error),
    ] {
        bench.says("temperature", text);
        let reported = bench.reported("temperature");
        assert_eq!(
            (reported.value.as_deref(), reported.quality),
            (Some(text), quality)
        );
        assert_eq!(reported.reason.is_empty(), quality == Quality::Good);
    }
}

#[test]
fn an_undeclared_property_stays_in_the_local_twin() {
    let mut bench = Bench::new(rules());
    bench.says("rumour", "yes");
    assert_eq!(bench.reported("rumour").quality, Quality::Good);
    assert_eq!(bench.heard("rumour"), None);
    assert!(bench.twin.views(&bench.rules).contains_key("rumour"));
}

#[test]
fn only_a_written_out_false_keeps_a_value_on_the_site() {
    let mut bench = Bench::new(rules());
    bench.says("note", "a");
    bench.says("target", "5");
    assert_eq!(bench.heard("note"), None);
    assert_eq!(bench.heard("target").as_deref(), Some("5"));
}

#[test]
fn a_fault_keeps_the_last_value_and_never_as_a_good_one() {
    let mut bench = Bench::new(rules());
    bench.says("target", "5");
    let fault = report(vec![seen("target", Observation::Fault("timeout".to_owned()))]);
    bench.does(Event::Report(&fault));
    let reported = bench.reported("target");
    assert_eq!(
        (reported.value.as_deref(), reported.quality),
        (Some("5"), Quality::Error)
    );
    assert_eq!(reported.reason, "timeout");
    bench.says("target", "5");
    assert_eq!(bench.quality("target"), Quality::Good);
}

#[test]
fn a_retained_value_counts_only_while_none_is_held() {
    let mut bench = Bench::new(rules());
    let retained = |text: &str| report(vec![seen("target", Observation::Retained(text.to_owned()))]);
    bench.does(Event::Report(&retained("7")));
    assert_eq!(bench.quality("target"), Quality::Stale);
    bench.does(Event::Report(&retained("8")));
    assert_eq!(bench.reported("target").value.as_deref(), Some("7"));
    bench.says("target", "9");
    bench.does(Event::Report(&retained("8")));
    assert_eq!(bench.reported("target").value.as_deref(), Some("9"));
}

#[test]
fn a_value_goes_stale_after_three_cycles_and_is_good_again_when_it_is_said() {
    let mut bench = Bench::new(rules());
    bench.says("temperature", "21");
    bench.passes(29_999);
    assert_eq!(bench.quality("temperature"), Quality::Good);
    let due = bench.twin.next_due(&bench.rules, bench.now, true);
    bench.twin.release(&bench.rules, bench.now, true);
    assert!(due.is_some());
    let outcome = bench.passes(1);
    assert_eq!(bench.quality("temperature"), Quality::Stale);
    assert!(outcome.told.unwrap().changes.contains_key("temperature"));
    bench.says("temperature", "21");
    assert_eq!(bench.quality("temperature"), Quality::Good);
}

#[test]
fn without_a_cycle_a_value_goes_stale_only_when_the_device_does() {
    let mut bench = Bench::new(rules());
    bench.says("target", "5");
    bench.passes(86_400_000);
    assert_eq!(bench.quality("target"), Quality::Good);
    bench.twin.release(&bench.rules, bench.now, true);
    bench.does(Event::State(DeviceState::Offline));
    assert_eq!(bench.quality("target"), Quality::Stale);
    assert!(bench.twin.release(&bench.rules, bench.now, true));
}

#[test]
fn what_somebody_says_of_the_state_wins_over_what_reports_let_guess() {
    let mut bench = Bench::new(rules());
    assert_eq!(bench.twin.standing().state, DeviceState::Unknown);
    bench.says("target", "5");
    assert_eq!(bench.twin.standing().state, DeviceState::Online);
    bench.does(Event::State(DeviceState::Offline));
    let seen = bench.twin.standing().last_online;
    bench.passes(1_000);
    bench.does(Event::State(DeviceState::Offline));
    assert_eq!(
        bench.twin.standing().last_online,
        seen,
        "offline does not erase when it was seen"
    );
    bench.says("target", "6");
    assert_eq!(bench.twin.standing().state, DeviceState::Offline);
    bench.does(Event::State(DeviceState::Unknown));
    bench.says("target", "6");
    assert_eq!(bench.twin.standing().state, DeviceState::Online);
}

#[test]
fn what_is_read_from_flash_is_told_as_left_from_before() {
    let mut bench = Bench::new(rules());
    bench.says("target", "5");
    bench.boots();
    assert!(bench.twin.release(&bench.rules, bench.now, true));
    assert_eq!(bench.heard("target"), None);
    let status = bench.twin.status(&bench.rules);
    let named = &status.twins[0];
    assert_eq!((named.property_name.as_str(), &named.reported), ("target", &None));
    let left = status.left["target"].clone();
    assert_eq!(left.value, "5");
    let fault = report(vec![seen(
        "target",
        Observation::Fault("it is silent".to_owned()),
    )]);
    bench.does(Event::Report(&fault));
    bench.twin.release(&bench.rules, bench.now, true);
    let faulty = &bench.twin.status(&bench.rules).left["target"];
    assert_eq!(
        (&faulty.metadata["version"], faulty.metadata["quality"].as_str()),
        (&left.metadata["version"], "error"),
        "a fault makes an old value no newer"
    );
    bench.says("target", "5");
    assert_eq!(bench.heard("target").as_deref(), Some("5"));
    assert!(bench.twin.status(&bench.rules).left.is_empty());
}

#[test]
fn times_that_were_taken_before_the_clock_was_set_are_corrected() {
    let mut bench = Bench::new(rules());
    let at = bench.now.wall;
    bench.says("target", "5");
    assert_eq!(bench.heard("target").as_deref(), Some("5"));
    let version = bench.reported("target").version;
    bench.now.wall += 3_600_000 + 900;
    bench.says("temperature", "20");
    let right = bench.now.wall;
    bench.does(Event::ClockSet {
        since: at - 10,
        by: 3_600_000,
    });
    assert_eq!(bench.reported("target").at, at + 3_600_000);
    assert_eq!(bench.reported("target").version, version);
    assert_eq!(
        bench.reported("temperature").at,
        right,
        "it was taken with the right clock"
    );
    assert_eq!(bench.twin.standing().last_online, Some(right));
    assert!(bench.twin.release(&bench.rules, bench.now, true));
    let told = bench.twin.status(&bench.rules).twins;
    let told = told.iter().find(|twin| twin.property_name == "target").unwrap();
    let told = told.reported.as_ref().unwrap();
    assert_eq!(told.metadata["timestamp"], (at + 3_600_000).to_string());
}

#[test]
fn values_are_limited_one_by_one_and_together() {
    let mut bench = Bench::new(rules());
    let refused = bench.tries(Event::Report(&value("note", &"x".repeat(MAX_VALUE + 1))));
    assert!(matches!(refused, Err(Refused::TooLarge { limit: MAX_VALUE, .. })));
    for name in ["a", "b"] {
        bench.says(name, &"x".repeat(MAX_VALUE));
    }
    let refused = bench.tries(Event::Report(&value("c", &"x".repeat(MAX_VALUE))));
    assert!(matches!(
        refused,
        Err(Refused::TooLarge {
            limit: MAX_DEVICE,
            ..
        })
    ));
    bench.says("a", "small");
    bench.says("c", &"x".repeat(MAX_VALUE));
    let many: Vec<_> = (0..MAX_UNDECLARED)
        .map(|n| seen(&format!("n{n}"), Observation::Value(String::new())))
        .collect();
    assert!(bench.tries(Event::Report(&report(many))).is_err());
}
