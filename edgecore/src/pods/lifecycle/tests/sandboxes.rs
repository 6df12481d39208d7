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
