//! When a container is made again, and how long that waits.

use super::*;
use crate::pods::probes::ProbeKind;

#[test]
fn a_container_whose_image_changed_is_replaced_whatever_the_policy() {
    let mut model = Model::new(pod("Never", 0, 1), 0);
    model.settle();
    model.pod.spec.as_mut().unwrap().containers[0].image = Some("other".to_owned());
    let Step::Kill(kill) = &model.plan().steps[0] else {
        panic!("{:?}", model.plan())
    };
    assert_eq!(kill.message, "Container m0 definition changed, will be restarted");
    assert!(kill.restart);
}

#[test]
fn a_failed_liveness_probe_kills_and_the_policy_decides_what_follows() {
    for (policy, follows) in [("Always", 1), ("OnFailure", 1), ("Never", 0)] {
        let mut model = Model::new(pod(policy, 0, 1), 0);
        model.settle();
        let id = model.observed.containers[0].id.clone();
        let failed = ProbeKill {
            kind: ProbeKind::Liveness,
            message: String::new(),
            grace_seconds: Some(5),
        };
        model.history.unhealthy.insert(id.clone(), failed);
        if follows == 0 {
            // The pod ends as a whole, with the grace of its own.
            assert_eq!(model.plan().outcome, Outcome::Finished);
            continue;
        }
        let Step::Kill(kill) = model.plan().steps[0].clone() else {
            panic!()
        };
        assert_eq!((kill.grace_seconds, kill.restart), (5, true), "{policy}");
        model.history.unhealthy.clear();
        model.carry_out(&Step::Kill(kill));
        model.observed.containers[0].exit_code = 0;
        assert_eq!(model.plan().steps.len(), follows, "{policy}");
    }
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let mut model = Model::new(pod("Never", 2, 1), 1);
    assert_eq!(model.settle(), Outcome::Finished);
    assert!(model.observed.latest("m0").is_none());
}

#[test]
fn the_second_crash_waits_ten_seconds_from_its_end() {
    let mut model = Model::new(pod("Always", 0, 1), 0);
    model.settle();
    for expected in [0, 10, 20] {
        let id = model.observed.containers[0].id.clone();
        model.exit(&id, 1);
        let ended = model.now;
        let plan = model.plan();
        if expected == 0 {
            assert_eq!(plan.steps.len(), 1);
        } else {
            assert_eq!(plan.backing_off["m0"], expected);
            assert_eq!(plan.wake, Some(ended + Duration::from_secs(expected)));
        }
        model.settle();
    }
}

#[test]
fn a_container_that_its_probe_keeps_killing_backs_off_from_the_third_time_on() {
    let mut model = Model::new(pod("Always", 0, 1), 0);
    model.settle();
    for (nth, waits) in [(1, 0), (2, 0), (3, 10), (4, 20)] {
        let id = model.observed.containers[0].id.clone();
        let failed = ProbeKill {
            kind: ProbeKind::Liveness,
            message: String::new(),
            grace_seconds: None,
        };
        model.history.unhealthy.insert(id, failed);
        let kill = model.plan().steps[0].clone();
        model.carry_out(&kill);
        let plan = model.plan();
        let delay = plan.wake.map_or(0, |wake| (wake - model.now).as_secs());
        assert_eq!(
            (plan.steps.len(), delay),
            (usize::from(waits == 0), waits),
            "{nth}"
        );
        // Sweeping the dead away changes nothing.
        let mut seen = BTreeSet::new();
        if waits > 0 {
            model.observed.containers.retain(|c| seen.insert(c.name.clone()));
        }
        model.settle();
    }
}
