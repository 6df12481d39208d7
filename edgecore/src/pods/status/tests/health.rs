//! What probes change in a status that was told.

use proptest::prelude::*;

use super::*;

/// A sidecar and two main containers, all of them probed.
fn probed() -> Pod {
    let probe = json!({"tcpSocket": {"port": 1}});
    let container =
        |name: &str| json!({"name": name, "image": "i", "startupProbe": probe, "readinessProbe": probe});
    let mut sidecar = container("side");
    sidecar["restartPolicy"] = json!("Always");
    pod(&json!({"initContainers": [sidecar], "containers": [container("a"), container("b")]}))
}

fn running(containers: &[&str]) -> World {
    let all = containers.iter().map(|name| seen(name, name, Run::Running, 0));
    World::new(probed(), observed(all.collect()))
}

fn now(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn said() -> impl Strategy<Value = BTreeMap<String, Health>> {
    let health = any::<(bool, bool)>().prop_map(|(started, ready)| Health { started, ready });
    proptest::collection::btree_map("side|a|b", health, 0..4)
}

proptest! {
    #[test]
    fn a_told_status_follows_the_probes_as_if_it_were_made_anew(before in said(), after in said(), all in any::<bool>()) {
        let mut world = running(if all { &["side", "a", "b"] } else { &["side"] });
        world.health = before;
        let told = world.status(10);
        world.health = after;
        let followed = with_health(&world.pod, &told, &world.health, now(20));
        world.last = Some(told);
        prop_assert_eq!(followed, world.status(20));
    }
}

#[test]
fn a_pod_that_is_to_fail_does_not_turn_ready_while_it_is_stopped() {
    let mut world = running(&["side", "a", "b"]);
    let health = |ready| Health { started: true, ready };
    let all = |ready| ["side", "a", "b"].map(|name| (name.to_owned(), health(ready)));
    world.health = all(false).into();
    world.last = Some(world.status(5));
    world.end.failed = Some(Failure {
        reason: "DeadlineExceeded".to_owned(),
        message: String::new(),
        for_the_node: false,
    });
    let told = world.status(10);
    assert_eq!(told.phase.as_deref(), Some("Running"), "it is not stopped yet");
    let followed = with_health(&world.pod, &told, &all(true).into(), now(20));
    for name in ["Ready", "ContainersReady"] {
        assert_eq!(
            condition(&followed, name),
            ("False".to_owned(), "PodFailed".to_owned())
        );
    }
}
