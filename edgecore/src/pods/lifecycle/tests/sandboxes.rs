//! What becomes of a sandbox that died.

use super::*;

#[test]
fn a_dead_sandbox_is_stopped_once_whether_the_pod_goes_on_or_ends() {
    let stop = [Step::StopSandbox { id: "s0".to_owned() }];
    for (stage, then) in [
        (Stage::Running, vec![Step::CreateSandbox { attempt: 1 }]),
        (Stage::Ending { grace_seconds: 0 }, vec![]),
    ] {
        let mut model = Model::new(pod("Always", 0, 1), 0);
        model.observed.sandboxes.push(sandbox(0, false));
        model.stage = stage;
        assert_eq!(model.plan().steps, stop);
        model.carry_out(&stop[0]);
        assert_eq!(model.plan().steps, then);
    }
}

#[test]
fn what_is_stopped_for_a_new_sandbox_runs_there_again_whatever_it_exits_with() {
    for (policy, outcome, runs) in [
        ("Always", Outcome::Going, 1),
        ("OnFailure", Outcome::Going, 1),
        ("Never", Outcome::Finished, 0),
    ] {
        let mut model = Model::new(pod(policy, 0, 1), 0);
        model.settle();
        model.observed.sandboxes[0].ready = false;
        for step in model.plan().steps {
            if let Step::Kill(kill) = &step {
                model.exit(&kill.id, 0);
            }
            model.carry_out(&step);
        }
        assert_eq!(
            (model.settle(), model.running().len()),
            (outcome, runs),
            "{policy}"
        );
    }
}

/// The pod's sandbox dies, and who is stopped for that exits with `code`.
fn stopped_with(model: &mut Model, code: i32) {
    dies(model);
    for step in model.plan().steps {
        if let Step::Kill(kill) = &step {
            model.exit(&kill.id, code);
        }
        model.carry_out(&step);
    }
}

#[test]
fn after_init_containers_the_exit_code_decides_who_runs_again_in_another_sandbox() {
    for (policy, code, runs) in [("OnFailure", 0, 0), ("OnFailure", 143, 1), ("Always", 0, 1)] {
        let mut model = Model::new(pod(policy, 2, 2), 0);
        model.settle();
        let done = id_of(&model, "m0");
        model.exit(&done, 0);
        model.settle();
        let ran = model.running().len();
        stopped_with(&mut model, code);
        model.settle();
        let inits = ["i0", "i1"].map(|name| model.observed.latest(name).unwrap().restart_count);
        assert_eq!(inits, [1, 1], "they come first: {policy} {code}");
        let expected = if policy == "Always" { ran } else { runs };
        assert_eq!(model.running().len(), expected, "{policy} {code}");
    }
}

#[test]
fn who_runs_again_after_init_containers_has_been_restarted_once() {
    let mut model = Model::new(pod("OnFailure", 1, 1), 0);
    model.settle();
    stopped_with(&mut model, 143);
    model.settle();
    let id = id_of(&model, "m0");
    model.exit(&id, 1);
    assert_eq!(model.plan().backing_off["m0"], 10);
}

#[test]
fn a_sandbox_that_dies_beneath_init_containers_is_not_replaced_for_work_that_is_done() {
    let mut model = Model::new(pod("OnFailure", 1, 1), 0);
    model.settle();
    stopped_with(&mut model, 0);
    let makes = |plan: &Plan| matches!(plan.steps[..], [Step::CreateSandbox { .. }]);
    while !makes(&model.plan()) {
        let step = model.plan().steps[0].clone();
        model.carry_out(&step);
    }
    let create = model.plan().steps[0].clone();
    model.carry_out(&create);
    dies(&mut model);
    assert_eq!(model.settle(), Outcome::Finished);
    assert_eq!(model.observed.sandboxes.len(), 2);
}

#[test]
fn in_a_pod_that_never_restarts_a_container_that_always_does_runs_again_but_in_no_other_sandbox() {
    let mut made = pod("Never", 0, 2);
    made.spec.as_mut().unwrap().containers[0].restart_policy = Some("Always".to_owned());
    let mut model = Model::new(made, 0);
    model.settle();
    for name in ["m0", "m1"] {
        let id = id_of(&model, name);
        model.exit(&id, 0);
    }
    assert_eq!(model.settle(), Outcome::Going);
    assert_eq!(model.running(), BTreeSet::from(["m0"]));
    stopped_with(&mut model, 143);
    assert_eq!(model.settle(), Outcome::Finished);
    assert_eq!(model.observed.sandboxes.len(), 1);
}

/// A pod that restarts always, with a container that never does beside another one, and what runs at last after
/// `happens`.
fn runs_after(inits: usize, happens: impl FnOnce(&mut Model)) -> BTreeSet<String> {
    let mut made = pod("Always", inits, 2);
    made.spec.as_mut().unwrap().containers[1].restart_policy = Some("Never".to_owned());
    let mut model = Model::new(made, 0);
    model.settle();
    assert_eq!(model.running().len(), 2);
    happens(&mut model);
    assert_eq!(model.settle(), Outcome::Going);
    model.running().into_iter().map(ToOwned::to_owned).collect()
}

/// The id of the newest instance.
fn id_of(model: &Model, name: &str) -> String {
    model.observed.latest(name).unwrap().id.clone()
}

fn dies(model: &mut Model) {
    model.observed.sandboxes[0].ready = false;
}

/// As a reboot does it: nobody is killed.
fn all_die(model: &mut Model) {
    for name in ["m0", "m1"] {
        let id = id_of(model, name);
        model.exit(&id, 255);
    }
    dies(model);
}

fn ends_before(model: &mut Model) {
    let id = id_of(model, "m1");
    model.exit(&id, 0);
    assert_eq!(model.plan().steps, vec![], "by itself it is not started again");
    dies(model);
}

#[test]
fn in_another_sandbox_a_container_that_never_restarts_begins_anew_unless_there_are_init_containers() {
    for happens in [dies as fn(&mut Model), all_die, ends_before] {
        assert_eq!(
            runs_after(0, happens),
            BTreeSet::from(["m0", "m1"].map(String::from))
        );
        assert_eq!(runs_after(1, happens), BTreeSet::from(["m0"].map(String::from)));
    }
}

#[test]
fn a_pod_of_which_every_container_has_ended_for_good_gets_no_other_sandbox() {
    let mut made = pod("Always", 0, 2);
    for container in &mut made.spec.as_mut().unwrap().containers {
        container.restart_policy = Some("Never".to_owned());
    }
    let mut model = Model::new(made, 0);
    model.settle();
    all_die(&mut model);
    assert_eq!(
        (model.settle(), model.running()),
        (Outcome::Finished, BTreeSet::new())
    );
    assert_eq!(model.observed.sandboxes.len(), 1);
}

#[test]
fn who_begins_anew_in_another_sandbox_does_so_when_the_others_have_ended_there_meanwhile() {
    let mut made = pod("Always", 0, 2);
    let containers = &mut made.spec.as_mut().unwrap().containers;
    containers[0].restart_policy = Some("OnFailure".to_owned());
    containers[1].restart_policy = Some("Never".to_owned());
    let mut model = Model::new(made, 0);
    model.settle();
    all_die(&mut model);
    let starts = |model: &Model| {
        let steps = model.plan().steps.into_iter();
        steps
            .filter(|step| matches!(step, Step::Start(_)))
            .collect::<Vec<_>>()
    };
    while starts(&model).is_empty() {
        for step in model.plan().steps {
            model.carry_out(&step);
        }
    }
    // The other one waits for its image.
    let both = starts(&model);
    assert_eq!(both.len(), 2);
    model.carry_out(&both[0]);
    let id = id_of(&model, "m0");
    model.exit(&id, 0);
    assert_eq!(model.settle(), Outcome::Going);
    assert_eq!(model.running().len(), 1);
}
