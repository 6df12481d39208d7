//! What holds for any sequence of events.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Say(Vec<(usize, Observation)>, bool),
    State(DeviceState),
    Want(Option<u8>),
    Pass(i64),
    Resync,
    Restart,
    Release,
}

const NAMES: [&str; 4] = ["temperature", "target", "note", "rumour"];

fn observation() -> impl Strategy<Value = Observation> {
    prop_oneof![
        6 => (0..120u8).prop_map(|n| Observation::Value(n.to_string())),
        1 => Just(Observation::Value("x".repeat(MAX_VALUE + 1))),
        1 => Just(Observation::Fault("timeout".to_owned())),
        1 => (0..120u8).prop_map(|n| Observation::Retained(n.to_string())),
        3 => (0..120u8).prop_map(|n| Observation::Wished(n.to_string())),
        2 => (0..60u64).prop_map(|version| Observation::GivenUp { version, why: "NotConfirmed".to_owned() }),
        1 => (0..60u64).prop_map(|version| Observation::Settled { version }),
        1 => Just(Observation::Dropped),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let seen = proptest::collection::vec((0..NAMES.len(), observation()), 1..4);
    prop_oneof![
        8 => (seen, any::<bool>()).prop_map(|(seen, mapper)| Step::Say(seen, mapper)),
        1 => prop_oneof![Just(DeviceState::Offline), Just(DeviceState::Ok), Just(DeviceState::Unknown)].prop_map(Step::State),
        2 => proptest::option::of(0..120u8).prop_map(Step::Want),
        3 => (0..40_000i64).prop_map(Step::Pass),
        1 => Just(Step::Resync),
        1 => Just(Step::Restart),
        3 => Just(Step::Release),
    ]
}

fn journal(twin: &Twin) -> BTreeMap<Arc<str>, Kept> {
    twin.kept()
        .map(|(name, kept)| (name.clone(), kept.clone()))
        .collect()
}

fn wishes(twin: &Twin) -> Vec<Option<Arc<Wished>>> {
    twin.kept().map(|(_, kept)| kept.wish.clone()).collect()
}

fn said(steps: &[(usize, Observation)], mapper: bool) -> Report {
    let seen = steps
        .iter()
        .map(|(name, observation)| seen(NAMES[*name], observation.clone()));
    Report {
        origin: if mapper { Origin::Mapper } else { Origin::Mqtt },
        ..report(seen.collect())
    }
}

/// Carries a step out, and checks what it must not do.
fn carry_out(
    bench: &mut Bench,
    journal_before: &BTreeMap<Arc<str>, Kept>,
    step: &Step,
) -> Result<Option<Outcome>, TestCaseError> {
    let outcome = match step {
        Step::Say(seen, mapper) => {
            let Ok(outcome) = bench.tries(Event::Report(&said(seen, *mapper))) else {
                prop_assert_eq!(
                    &journal(&bench.twin),
                    journal_before,
                    "a refused report left a trace"
                );
                return Ok(None);
            };
            check_order(bench, seen)?;
            outcome
        }
        Step::State(state) => bench.does(Event::State(*state)),
        Step::Want(value) => {
            bench.rules = rules_of(|device| {
                if let Some(value) = value {
                    device["spec"]["properties"][1]["desired"] = json!({"value": value.to_string()});
                }
            });
            bench.does(Event::Catalog)
        }
        Step::Pass(ms) => bench.passes(*ms),
        Step::Resync => {
            let before = wishes(&bench.twin);
            let outcome = bench.does(Event::Catalog);
            prop_assert_eq!(wishes(&bench.twin), before, "a resync changed a wish");
            outcome
        }
        Step::Restart => {
            let before = wishes(&bench.twin);
            bench.twin = Twin::recall(journal(&bench.twin), Some(bench.twin.stood()), bench.now);
            let outcome = bench.does(Event::Catalog);
            prop_assert_eq!(wishes(&bench.twin), before, "a restart changed a wish");
            outcome
        }
        Step::Release => {
            bench.twin.release(&bench.rules, bench.now, true);
            return Ok(None);
        }
    };
    Ok(Some(outcome))
}

/// The last value that arrived is the value.
fn check_order(bench: &Bench, seen: &[(usize, Observation)]) -> Result<(), TestCaseError> {
    let mut last: BTreeMap<usize, Option<&String>> = BTreeMap::new();
    for (name, observation) in seen {
        match observation {
            Observation::Value(value) => drop(last.insert(*name, Some(value))),
            Observation::Dropped => drop(last.insert(*name, None)),
            Observation::Fault(_)
            | Observation::GivenUp { .. }
            | Observation::Settled { .. }
            | Observation::Retained(_)
            | Observation::Wished(_) => {}
        }
    }
    for (name, value) in last {
        let Some(value) = value else { continue };
        let reported = bench.reported(NAMES[name]);
        prop_assert_eq!(reported.value.as_deref(), Some(value.as_str()));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_journal_makes_the_same_twin_and_nothing_moves_backwards(steps in proptest::collection::vec(step(), 1..40)) {
        let mut bench = Bench::new(rules());
        let mut kept = journal(&bench.twin);
        for step in &steps {
            let before = kept.clone();
            if let Some(outcome) = carry_out(&mut bench, &before, step)? {
                for change in outcome.changes {
                    match change.kept {
                        Some(new) => drop(kept.insert(change.name, new)),
                        None => drop(kept.remove(&change.name)),
                    }
                }
            }
            prop_assert_eq!(&kept, &journal(&bench.twin));
            for (name, new) in &kept {
                let blamed = new.wish.as_ref().is_some_and(|wish| !wish.given_up.is_empty());
                let otherwise = new.reported.as_ref().and_then(|reported| reported.otherwise);
                prop_assert!(blamed || otherwise.is_none(), "an error for a wish that is nobody's");
                let version = |kept: &Kept| kept.reported.as_ref().map_or(0, |reported| reported.version);
                let wish = |kept: &Kept| kept.wish.as_ref().map_or(0, |wish| wish.version);
                if let Some(old) = before.get(name) {
                    prop_assert!(new.reported.is_none() || version(new) >= version(old));
                    prop_assert!(new.wish.is_none() || wish(new) >= wish(old));
                }
            }
            let bytes: usize = kept.iter().map(|(name, kept)| weight(name, kept)).sum();
            prop_assert_eq!(bench.twin.bytes, bytes);
        }
    }

    /// Whatever happened, one cycle later the cluster knows each property's last report.
    #[test]
    fn the_cluster_hears_the_last_report_at_the_latest_after_its_cycle(steps in proptest::collection::vec(step(), 1..40)) {
        let mut bench = Bench::new(rules());
        for step in &steps {
            let before = journal(&bench.twin);
            carry_out(&mut bench, &before, step)?;
        }
        bench.twin.release(&bench.rules, bench.now, true);
        let mut looks = 0;
        let end = bench.now.mono + 5_000;
        while let Some(due) = bench.twin.next_due(&bench.rules, bench.now, true).filter(|due| *due <= end) {
            let ms = (due - bench.now.mono).max(0);
            bench.passes(ms);
            bench.twin.release(&bench.rules, bench.now, true);
            looks += 1;
            prop_assert!(looks < 100, "it is due without end");
        }
        for name in ["temperature", "target"] {
            let kept = bench.twin.kept_of(name).and_then(|kept| kept.reported.clone());
            let status = bench.twin.status(&bench.rules);
            let told = status.twins.into_iter().find(|twin| twin.property_name == name).and_then(|twin| twin.reported);
            prop_assert_eq!(told.map(|told| told.value), kept.map(|kept| kept.value.as_deref().unwrap_or_default().to_owned()));
        }
    }
}
