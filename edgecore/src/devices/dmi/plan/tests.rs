//! The order of calls, and that they come to an end.

use proptest::prelude::*;
use protocol::devices::{Device, DeviceModel};
use serde_json::json;

use super::*;
use crate::devices::merge;

/// A device by name, model, whether the model is here, and something of the model's and of its own.
type Sketch = (&'static str, &'static str, bool, u8, u8);

fn wanted(sketches: &[Sketch]) -> Wanted {
    let served = |(name, model, here, of_model, own): &Sketch| {
        let device: Device = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "hall", "uid": "u"},
            "spec": {"deviceModelRef": {"name": model},
                     "protocol": {"protocolName": "modbus", "configData": {"port": own}}}
        }))
        .unwrap();
        let model: DeviceModel = serde_json::from_value(json!({
            "spec": {"properties": [{"name": "p", "type": "INT", "maximum": of_model.to_string()}]}
        }))
        .unwrap();
        let name = DeviceName::new("hall", *name);
        (name, Arc::new(merge(&device, here.then_some(&model))))
    };
    let devices = sketches.iter().map(served).collect();
    Wanted::of("modbus", &devices, |_| BTreeMap::new())
}

fn steps(wanted: &Wanted, accepted: &Accepted) -> Vec<(Verb, String)> {
    let steps = plan(wanted, accepted).into_iter();
    steps.map(|step| (step.verb, step.name.name)).collect()
}

fn settle(wanted: &Wanted, accepted: &mut Accepted) -> Vec<(Verb, String)> {
    let mut taken = Vec::new();
    while let Some(step) = plan(wanted, accepted).first() {
        accepted.take(step, wanted);
        taken.push((step.verb, step.name.name.clone()));
        assert!(taken.len() < 100, "{taken:?}");
    }
    taken
}

fn told(calls: &[(Verb, &str)]) -> Vec<(Verb, String)> {
    calls
        .iter()
        .map(|(verb, name)| (*verb, (*name).to_owned()))
        .collect()
}

#[test]
fn a_model_comes_before_its_devices_and_goes_after_them() {
    let mut accepted = Accepted::default();
    let both = wanted(&[("a", "m", true, 1, 1), ("b", "m", true, 1, 1)]);
    assert_eq!(steps(&both, &accepted), told(&[(Verb::CreateModel, "m")]));
    let calls = settle(&both, &mut accepted);
    assert_eq!(
        calls,
        told(&[
            (Verb::CreateModel, "m"),
            (Verb::Register, "a"),
            (Verb::Register, "b")
        ])
    );
    assert_eq!(
        settle(&wanted(&[]), &mut accepted),
        told(&[(Verb::Remove, "a"), (Verb::Remove, "b"), (Verb::RemoveModel, "m")])
    );
    assert_eq!(accepted, Accepted::default());
}

#[test]
fn a_device_is_updated_only_when_it_differs_from_what_was_accepted() {
    let mut accepted = Accepted::default();
    settle(
        &wanted(&[("a", "m", true, 1, 1), ("b", "m", true, 1, 1)]),
        &mut accepted,
    );
    let edited = wanted(&[("a", "m", true, 1, 2), ("b", "m", true, 1, 1)]);
    assert_eq!(settle(&edited, &mut accepted), told(&[(Verb::Update, "a")]));
    assert_eq!(settle(&edited, &mut accepted), told(&[]));
}

#[test]
fn an_edit_of_a_model_reaches_the_model_and_then_its_devices() {
    let mut accepted = Accepted::default();
    settle(
        &wanted(&[("a", "m", true, 1, 1), ("b", "n", true, 1, 1)]),
        &mut accepted,
    );
    let edited = wanted(&[("a", "m", true, 2, 1), ("b", "n", true, 1, 1)]);
    assert_eq!(steps(&edited, &accepted), told(&[(Verb::UpdateModel, "m")]));
    assert_eq!(
        settle(&edited, &mut accepted),
        told(&[(Verb::UpdateModel, "m"), (Verb::Update, "a")])
    );
}

#[test]
fn a_device_whose_model_is_not_here_stays_as_it_is() {
    let mut accepted = Accepted::default();
    assert_eq!(
        settle(&wanted(&[("a", "m", false, 1, 1)]), &mut accepted),
        told(&[])
    );
    settle(&wanted(&[("a", "m", true, 1, 1)]), &mut accepted);
    assert_eq!(
        settle(&wanted(&[("a", "m", false, 1, 1)]), &mut accepted),
        told(&[])
    );
}

#[test]
fn a_device_that_changes_its_model_leaves_the_old_one_unused() {
    let mut accepted = Accepted::default();
    settle(&wanted(&[("a", "m", true, 1, 1)]), &mut accepted);
    assert_eq!(
        settle(&wanted(&[("a", "n", true, 1, 1)]), &mut accepted),
        told(&[
            (Verb::CreateModel, "n"),
            (Verb::Update, "a"),
            (Verb::RemoveModel, "m")
        ])
    );
}

#[test]
fn devices_of_other_protocols_are_none_of_its_business() {
    let devices = BTreeMap::new();
    assert!(
        plan(
            &Wanted::of("opcua", &devices, |_| BTreeMap::new()),
            &Accepted::default()
        )
        .is_empty()
    );
    let of_modbus = wanted(&[("a", "m", true, 1, 1)]);
    assert!(of_modbus.devices.len() == 1);
}

fn sketches() -> impl Strategy<Value = Vec<Sketch>> {
    let names = proptest::sample::select(vec!["a", "b", "c", "d"]);
    let models = proptest::sample::select(vec!["m", "n"]);
    proptest::collection::vec((names, models, any::<bool>(), 0..1_u8, 0..3_u8), 0..6)
}

proptest! {
    #[test]
    fn whatever_changes_and_whichever_call_succeeds_first_the_plan_comes_to_an_end(
        worlds in proptest::collection::vec(sketches(), 1..5),
        picks in proptest::collection::vec(any::<proptest::sample::Index>(), 100),
    ) {
        let mut accepted = Accepted::default();
        for world in worlds {
            let wanted = wanted(&world);
            let mut picks = picks.iter();
            loop {
                let steps = plan(&wanted, &accepted);
                let Some(pick) = picks.next().filter(|_| !steps.is_empty()) else { break };
                let step = pick.get(&steps);
                // No device without its model, no model gone from under a device.
                match step.verb {
                    Verb::Register | Verb::Update => {
                        let model = &wanted.devices[&step.name].model;
                        prop_assert!(accepted.models.contains_key(model));
                    }
                    Verb::RemoveModel => {
                        prop_assert!(accepted.devices.values().all(|(_, model)| *model != step.name));
                    }
                    Verb::Remove | Verb::CreateModel | Verb::UpdateModel => {}
                }
                accepted.take(step, &wanted);
            }
            prop_assert_eq!(plan(&wanted, &accepted), vec![]);
            let have: Vec<_> = accepted.devices.keys().filter(|name| !wanted.held.contains_key(*name)).collect();
            prop_assert_eq!(have, wanted.devices.keys().collect::<Vec<_>>());
        }
    }
}
