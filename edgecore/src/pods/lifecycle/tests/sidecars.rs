//! Init containers that restart always.

use super::*;
use crate::pods::probes::ProbeKind;

/// A pod with these init containers, `true` for a sidecar, and main containers.
fn pod_with(policy: &str, sidecars: &[bool], mains: usize) -> Pod {
    let mut made = pod(policy, sidecars.len(), mains);
    let inits = made.spec.as_mut().unwrap().init_containers.iter_mut().flatten();
    for (init, sidecar) in inits.zip(sidecars) {
        init.restart_policy = sidecar.then(|| "Always".to_owned());
    }
    made
}

fn rename(found: &mut PodObserved, from: &str, to: &str) {
    for seen in found.containers.iter_mut().filter(|c| c.name == from) {
        let fresh = instance(0, to, &seen.sandbox, seen.run);
        (seen.name, seen.hash) = (fresh.name, fresh.hash);
    }
}

/// The id of the newest instance.
fn id_of(model: &Model, name: &str) -> String {
    model.observed.latest(name).unwrap().id.clone()
}

fn fail_probe(model: &mut Model, name: &str, kind: ProbeKind) {
    let failed = ProbeKill {
        kind,
        message: String::new(),
        grace_seconds: None,
    };
    let id = id_of(model, name);
    model.history.unhealthy.insert(id, failed);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_is_found_a_pod_with_a_sidecar_ends_up_running_whole(found in mess(), first in any::<bool>()) {
        let mut model = Model::new(pod_with("Always", &[first, !first], 1), 0);
        model.observed = found;
        rename(&mut model.observed, "m1", "i0");
        rename(&mut model.observed, "m2", "i1");
        let ordinary = if first { "i1" } else { "i0" };
        // An init container that is at work when it is found is not what this is about.
        model.observed.containers.retain(|c| c.name != ordinary || c.run != Run::Running);
        for failed in model.observed.containers.iter_mut().filter(|c| c.name == ordinary) {
            failed.exit_code = 0;
        }
        model.next = 100;
        prop_assert_eq!(model.settle(), Outcome::Going);
        let sidecar = if first { "i0" } else { "i1" };
        prop_assert_eq!(model.running(), BTreeSet::from([sidecar, "m0"]));
        prop_assert_eq!(model.plan().steps, vec![], "a healthy pod is left alone");
    }

    #[test]
    fn containers_start_in_the_order_of_the_spec(sidecars in proptest::collection::vec(any::<bool>(), 0..5), mains in 1_usize..3) {
        let mut model = Model::new(pod_with("Never", &sidecars, mains), 0);
        prop_assert_eq!(model.settle(), Outcome::Going);
        let started: Vec<&str> = model.observed.containers.iter().rev().map(|c| c.name.as_str()).collect();
        let spec: Vec<&str> = spec::all_containers(&model.pod).map(|c| c.name.as_str()).collect();
        prop_assert_eq!(started, spec, "each once");
        prop_assert_eq!(model.running().len(), mains + sidecars.iter().filter(|sidecar| **sidecar).count());
    }

    #[test]
    fn sidecars_end_after_the_main_containers_and_backwards(
        sidecars in proptest::collection::vec(any::<bool>(), 0..5),
        dead in proptest::collection::btree_set(0_usize..7, 0..4),
    ) {
        let mut model = Model::new(pod_with("Always", &sidecars, 2), 0);
        model.settle();
        let ids: Vec<String> = model.observed.containers.iter().map(|c| c.id.clone()).collect();
        for id in dead.iter().filter_map(|at| ids.get(*at)) {
            model.exit(id, 0);
        }
        model.stage = Stage::Ending { grace_seconds: 30 };
        let steps = model.plan().steps.into_iter();
        let mut waiting: Vec<Kill> = steps.filter_map(|step| if let Step::Kill(kill) = step { Some(kill) } else { None }).collect();
        // Those that are not told to wait may end in any order: here in the worst.
        waiting.reverse();
        let (mut ended, mut order) = (BTreeSet::new(), Vec::new());
        while !waiting.is_empty() {
            let (now, later): (Vec<Kill>, Vec<Kill>) =
                waiting.into_iter().partition(|kill| kill.after.iter().all(|name| ended.contains(name)));
            prop_assert!(!now.is_empty(), "they wait for one another: {:?}", later);
            order.extend(now.iter().map(|kill| kill.name.clone()));
            ended.extend(now.into_iter().map(|kill| kill.name));
            waiting = later;
        }
        let (mains, inits): (Vec<_>, Vec<_>) = order.iter().partition(|name| name.starts_with('m'));
        prop_assert!(order.starts_with(&mains.into_iter().cloned().collect::<Vec<_>>()));
        if dead.is_empty() {
            prop_assert!(inits.is_sorted_by(|a, b| a > b), "{:?}", inits);
        }
    }
}

#[test]
fn what_comes_next_waits_for_the_startup_probe_of_a_sidecar() {
    let mut model = Model::new(pod_with("Always", &[true, false], 1), 0);
    let spec = model.pod.spec.as_mut().unwrap();
    spec.init_containers.as_mut().unwrap()[0].startup_probe =
        Some(k8s_openapi::api::core::v1::Probe::default());
    model.settle();
    assert_eq!(model.running(), BTreeSet::from(["i0"]));
    fail_probe(&mut model, "i0", ProbeKind::Startup);
    let Step::Kill(kill) = model.plan().steps[0].clone() else {
        panic!()
    };
    assert_eq!(kill.message, "Init container i0 failed startup probe");
    model.settle();
    assert_eq!(
        model.running(),
        BTreeSet::from(["i0"]),
        "it is started anew, alone"
    );
    let id = id_of(&model, "i0");
    model.history.started.insert(id);
    model.settle();
    assert_eq!(model.running(), BTreeSet::from(["i0", "m0"]));
}

#[test]
fn when_all_have_ended_the_last_sidecar_comes_first_again() {
    let mut model = Model::new(pod_with("Always", &[true], 2), 0);
    let inits = model.pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap();
    inits[0].startup_probe = Some(k8s_openapi::api::core::v1::Probe::default());
    let passes = |model: &mut Model| {
        let id = id_of(model, "i0");
        model.history.started.insert(id);
        model.settle();
    };
    model.settle();
    passes(&mut model);
    let end = |model: &mut Model, name: &str| {
        let id = id_of(model, name);
        model.exit(&id, 1);
    };
    end(&mut model, "i0");
    end(&mut model, "m0");
    model.settle();
    let all = BTreeSet::from(["i0", "m0", "m1"]);
    assert_eq!(model.running(), all, "beside one that runs nobody is waited for");
    for name in ["i0", "m0", "m1"] {
        end(&mut model, name);
    }
    model.settle();
    assert_eq!(model.running(), BTreeSet::from(["i0"]));
    passes(&mut model);
    assert_eq!(model.running(), all);
}

#[test]
fn a_sidecar_that_ends_is_started_again_beside_the_others_whatever_the_policy() {
    for policy in ["Always", "OnFailure", "Never"] {
        let mut model = Model::new(pod_with(policy, &[true], 1), 0);
        model.settle();
        let main = id_of(&model, "m0");
        for waits in [0, 10, 20] {
            let id = id_of(&model, "i0");
            model.exit(&id, 0);
            let ended = model.now;
            let plan = model.plan();
            assert_eq!(
                plan.backing_off.get("i0").copied().unwrap_or(0),
                waits,
                "{policy}"
            );
            assert_eq!(plan.outcome, Outcome::Going);
            model.settle();
            assert!(model.now >= ended + Duration::from_secs(waits));
            assert_eq!(model.running(), BTreeSet::from(["i0", "m0"]));
        }
        assert_eq!(id_of(&model, "m0"), main);
        assert_eq!(model.observed.latest("i0").unwrap().restart_count, 3);
    }
}

#[test]
fn a_sidecar_does_not_keep_a_pod_that_is_done() {
    for (sidecar_runs, policy, code) in [
        (true, "OnFailure", 0),
        (true, "Never", 1),
        (false, "OnFailure", 0),
    ] {
        let mut model = Model::new(pod_with(policy, &[true], 1), 0);
        model.settle();
        let (main, sidecar) = (id_of(&model, "m0"), id_of(&model, "i0"));
        if !sidecar_runs {
            model.exit(&sidecar, 1);
        }
        model.exit(&main, code);
        assert_eq!(model.plan().outcome, Outcome::Finished);
        assert_eq!(model.plan().steps, vec![]);
    }
}

#[test]
fn a_sidecar_whose_liveness_probe_fails_is_killed_and_the_others_stay() {
    let mut model = Model::new(pod_with("Never", &[true], 1), 0);
    model.settle();
    let main = id_of(&model, "m0");
    fail_probe(&mut model, "i0", ProbeKind::Liveness);
    let Step::Kill(kill) = model.plan().steps[0].clone() else {
        panic!()
    };
    assert_eq!(
        (kill.message.as_str(), kill.restart),
        ("Init container i0 failed liveness probe", true)
    );
    model.settle();
    assert_eq!(model.running(), BTreeSet::from(["i0", "m0"]));
    assert_eq!(id_of(&model, "m0"), main);
}
