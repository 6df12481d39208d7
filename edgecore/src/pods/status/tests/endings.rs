//! What is said of a pod that ends, and when.

use super::*;

fn evicted() -> Failure {
    Failure {
        reason: "Evicted".to_owned(),
        message: "too much".to_owned(),
        for_the_node: true,
    }
}

fn says_disruption(status: &PodStatus) -> bool {
    let mut all = status.conditions.iter().flatten();
    all.any(|condition| condition.type_ == "DisruptionTarget")
}

#[test]
fn a_final_phase_waits_for_the_end_of_all_that_runs() {
    for (failed, exit_code, last) in [
        (None, 0, ("Succeeded", None, "PodCompleted")),
        (None, 1, ("Failed", None, "PodFailed")),
        (Some(evicted()), 0, ("Failed", Some("Evicted"), "PodFailed")),
    ] {
        let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]});
        let mut world = World::new(pod(&spec), observed(vec![seen("c", "1", Run::Running, 0)]));
        world.last = Some(world.status(7));
        let for_the_node = failed.is_some();
        world.end.failed = failed;
        world.observed.containers[0] = seen("c", "1", Run::Exited, exit_code);
        let (phase, reason, why) = last;
        let status = world.status(8);
        assert_eq!(
            (status.phase.as_deref(), status.reason.as_deref()),
            (Some("Running"), None)
        );
        assert_eq!(condition(&status, "Ready"), ("False".to_owned(), why.to_owned()));
        assert!(!says_disruption(&status));
        world.last = Some(status);
        world.end.stopped = true;
        let status = world.status(9);
        assert_eq!(
            (status.phase.as_deref(), status.reason.as_deref()),
            (Some(phase), reason)
        );
        assert_eq!(says_disruption(&status), for_the_node);
    }
}

#[test]
fn a_pod_of_which_nothing_was_told_is_pending_until_it_has_ended() {
    let mut world = World::new(one(), observed(vec![seen("c", "1", Run::Running, 0)]));
    world.end.failed = Some(evicted());
    assert_eq!(world.status(7).phase.as_deref(), Some("Pending"));
    world.pod.status = Some(PodStatus {
        phase: Some("Failed".to_owned()),
        ..PodStatus::default()
    });
    assert_eq!(
        world.status(7).phase.as_deref(),
        Some("Failed"),
        "the cluster knows"
    );
}

#[test]
fn a_pod_that_runs_and_is_not_admitted_any_more_is_rejected_when_it_has_ended() {
    let mut world = World::new(one(), observed(vec![seen("c", "1", Run::Running, 0)]));
    world.end.rejected = Some(("NodePorts".to_owned(), "taken".to_owned()));
    let status = world.status(7);
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Running"), None)
    );
    world.end.stopped = true;
    let status = world.status(8);
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("NodePorts"))
    );
}

#[test]
fn last_words_keep_their_share_of_the_pods_limit() {
    let named = |name: &str| json!({"name": name, "image": "i"});
    let spec = json!({"initContainers": [named("i")], "containers": [named("a"), named("b"), named("c")],
        "ephemeralContainers": [named("e")]});
    let ended = |name: &str, id: &str| {
        let mut ended = seen(name, id, Run::Exited, 1);
        ended.last_words = "\u{e9}".repeat(2000);
        ended
    };
    let mut world = World::new(
        pod(&spec),
        observed(vec![ended("c", "2"), ended("c", "1"), ended("i", "3")]),
    );
    let status = world.status(7);
    let told: Vec<usize> = spec::container_statuses(&status)
        .iter()
        .flat_map(|container| [container.state.clone(), container.last_state.clone()])
        .filter_map(|state| Some(state?.terminated?.message?.len()))
        .collect();
    // A fifth of 12 KiB is an odd number of bytes, and each character has two.
    assert_eq!(told, [2456; 3]);
    world.last = Some(status.clone());
    assert_eq!(world.status(7), status, "and nothing more is cut");
}

#[test]
fn a_pod_that_ends_although_a_container_would_run_again_has_failed_unless_it_was_deleted() {
    let main = json!({"name": "c", "image": "i", "restartPolicy": "Always"});
    let spec = json!({"restartPolicy": "Never", "containers": [main]});
    let mut world = World::new(pod(&spec), observed(vec![seen("c", "1", Run::Exited, 0)]));
    assert_eq!(world.status(7).phase.as_deref(), Some("Running"));
    world.end.stopped = true;
    assert_eq!(world.status(8).phase.as_deref(), Some("Failed"));
    world.pod.metadata.deletion_timestamp = Some(time(SystemTime::UNIX_EPOCH));
    assert_eq!(world.status(8).phase.as_deref(), Some("Succeeded"));
}

#[test]
fn main_containers_of_a_pod_that_was_ended_while_it_initialised_have_not_run() {
    let named = |name: &str| json!({"name": name, "image": "i"});
    let spec = json!({"initContainers": [named("i")], "containers": [named("c")]});
    let mut world = World::new(pod(&spec), observed(vec![seen("i", "1", Run::Running, 0)]));
    let status = world.status(7);
    assert!(!is_initialized(&world.pod, None, &status));
    world.observed = observed(vec![seen("i", "1", Run::Exited, 0)]);
    world.last = Some(status);
    assert!(is_initialized(&world.pod, None, &world.status(8)));
    for (uninitialized, state) in [(true, "waiting"), (false, "terminated")] {
        world.end = End {
            stopped: true,
            uninitialized,
            ..End::default()
        };
        assert!(container(&world.status(8))["state"][state].is_object(), "{state}");
    }
}
