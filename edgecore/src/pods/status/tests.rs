//! What users see of a pod at each step of its life.

mod endings;
mod health;

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::pods::observed::{ContainerObserved, Run, SandboxObserved};

const HOUR: i64 = 3_600_000_000_000;

fn pod(spec: &Value) -> Pod {
    let metadata = json!({"name": "web", "namespace": "ns", "uid": "u", "generation": 3});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

fn one() -> Pod {
    pod(&json!({"containers": [{"name": "c", "image": "i"}]}))
}

fn seen(name: &str, id: &str, run: Run, exit_code: i32) -> ContainerObserved {
    ContainerObserved {
        id: id.to_owned(),
        name: name.to_owned(),
        sandbox: "s".to_owned(),
        run,
        created_at: HOUR,
        started_at: HOUR,
        finished_at: if run == Run::Exited { 2 * HOUR } else { 0 },
        exit_code,
        reason: if exit_code == 0 { "Completed" } else { "Error" }.to_owned(),
        image: "i".to_owned(),
        image_ref: "i@sha256:1".to_owned(),
        ..ContainerObserved::default()
    }
}

fn observed(containers: Vec<ContainerObserved>) -> PodObserved {
    let sandbox = SandboxObserved {
        id: "s".to_owned(),
        attempt: 0,
        ready: true,
        host_network: false,
        created_at: 0,
        ips: vec!["10.86.0.5".to_owned()],
    };
    PodObserved {
        sandboxes: vec![sandbox],
        containers,
    }
}

struct World {
    pod: Pod,
    last: Option<PodStatus>,
    observed: PodObserved,
    waiting: BTreeMap<String, Waiting>,
    health: BTreeMap<String, Health>,
    resize: Resize,
    end: End,
    since: Duration,
}

impl World {
    fn new(pod: Pod, observed: PodObserved) -> Self {
        Self {
            pod,
            last: None,
            observed,
            waiting: BTreeMap::new(),
            health: BTreeMap::new(),
            resize: Resize::default(),
            end: End::default(),
            since: Duration::from_secs(7),
        }
    }

    fn status(&self, seconds: u64) -> PodStatus {
        build(&StatusInput {
            pod: &self.pod,
            last: self.last.as_ref(),
            observed: &self.observed,
            history: &History::default(),
            waiting: &self.waiting,
            health: &self.health,
            host_ips: &["192.168.7.2".to_owned()],
            runtime: "containerd",
            recursive_read_only: false,
            resize: &self.resize,
            end: &self.end,
            since: SystemTime::UNIX_EPOCH + self.since,
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        })
    }
}

fn condition(status: &PodStatus, name: &str) -> (String, String) {
    let all = status.conditions.as_ref().unwrap();
    let found = all.iter().find(|condition| condition.type_ == name).unwrap();
    (found.status.clone(), found.reason.clone().unwrap_or_default())
}

fn container(status: &PodStatus) -> Value {
    serde_json::to_value(&status.container_statuses.as_ref().unwrap()[0]).unwrap()
}

#[test]
fn a_new_pod_is_pending_and_its_container_is_being_created() {
    let world = World::new(one(), PodObserved::default());
    let status = world.status(7);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(
        container(&status)["state"],
        json!({"waiting": {"reason": "ContainerCreating"}})
    );
    assert_eq!(condition(&status, "PodReadyToStartContainers").0, "False");
    assert_eq!(condition(&status, "Initialized").0, "True");
    assert_eq!(
        condition(&status, "Ready"),
        ("False".to_owned(), "ContainersNotReady".to_owned())
    );
    assert_eq!(
        serde_json::to_value(&status).unwrap()["startTime"],
        json!("1970-01-01T00:00:07Z")
    );
}

#[test]
fn a_running_pod_is_ready_and_its_status_does_not_change_with_time() {
    let mut world = World::new(one(), observed(vec![seen("c", "1", Run::Running, 0)]));
    let status = world.status(7);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.pod_ip.as_deref(), Some("10.86.0.5"));
    assert_eq!(status.observed_generation, Some(3));
    assert_eq!(condition(&status, "Ready").0, "True");
    assert_eq!(
        container(&status)["state"]["running"]["startedAt"],
        json!("1970-01-01T01:00:00Z")
    );
    world.last = Some(status.clone());
    assert_eq!(world.status(700), status);
}

#[test]
fn a_crash_loop_shows_the_last_end_and_stays_running() {
    let mut world = World::new(one(), observed(vec![seen("c", "1", Run::Exited, 3)]));
    let (reason, message) = ("CrashLoopBackOff".to_owned(), "back-off 10s".to_owned());
    world.waiting.insert("c".to_owned(), Waiting { reason, message });
    let status = world.status(7);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let container = container(&status);
    assert_eq!(container["state"]["waiting"]["reason"], json!("CrashLoopBackOff"));
    assert_eq!(container["lastState"]["terminated"]["exitCode"], json!(3));
}

#[test]
fn exit_codes_and_restart_policy_make_the_phase() {
    for (policy, exit_code, expected) in [
        ("Never", 0, "Succeeded"),
        ("Never", 1, "Failed"),
        ("OnFailure", 0, "Succeeded"),
        ("OnFailure", 1, "Running"),
        ("Always", 0, "Running"),
    ] {
        let spec = json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]});
        let world = World::new(pod(&spec), observed(vec![seen("c", "1", Run::Exited, exit_code)]));
        let progress = Progress {
            begun: true,
            stopped: false,
            deleted: false,
        };
        let statuses = spec::container_statuses(&world.status(7));
        assert_eq!(
            phase::of(&world.pod, &statuses, progress),
            expected,
            "{policy} {exit_code}"
        );
    }
}

#[test]
fn a_final_phase_is_never_left() {
    let mut world = World::new(one(), observed(vec![seen("c", "1", Run::Running, 0)]));
    let reason = Some("Evicted".to_owned());
    world.last = Some(PodStatus {
        phase: Some("Failed".to_owned()),
        reason,
        ..PodStatus::default()
    });
    let status = world.status(7);
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("Evicted"))
    );
    assert_eq!(condition(&status, "Ready").1, "PodFailed");
}

#[test]
fn a_pod_that_is_ended_before_it_ran_still_says_what_it_lacked() {
    let mut world = World::new(one(), PodObserved::default());
    world.end.stopped = true;
    let status = world.status(7);
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(condition(&status, "Ready").1, "ContainersNotReady");
}

#[test]
fn what_ended_before_it_began_is_said_to_have_begun_in_1970() {
    let mut never = seen("c", "1", Run::Exited, 128);
    never.started_at = 0;
    let status = World::new(one(), observed(vec![never])).status(7);
    let started = &container(&status)["state"]["terminated"]["startedAt"];
    assert_eq!(started, "1970-01-01T00:00:00Z");
}

#[test]
fn a_container_that_nobody_saw_end_has_failed_once_its_pod_has_stopped() {
    let mut world = World::new(one(), observed(vec![seen("c", "1", Run::Running, 0)]));
    world.last = Some(world.status(7));
    world.observed = PodObserved::default();
    world.end.stopped = true;
    let status = world.status(8);
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(
        container(&status)["state"]["terminated"]["reason"],
        json!(UNKNOWN_REASON)
    );
    assert_eq!(
        status.pod_ip.as_deref(),
        Some("10.86.0.5"),
        "the address of an ended pod stays"
    );
}

#[test]
fn each_run_that_the_runtime_forgets_counts_once_and_is_the_last_to_have_ended() {
    let mut world = World::new(one(), PodObserved::default());
    for lost in 1..=2 {
        let mut run = seen("c", "2", Run::Running, 0);
        run.restart_count = lost - 1;
        world.observed = observed(vec![run, seen("c", "1", Run::Exited, 3)]);
        world.last = Some(world.status(7));
        world.observed = PodObserved::default();
        for _ in 0..2 {
            let status = world.status(8);
            let told = container(&status);
            assert_eq!(told["restartCount"], json!(lost));
            assert_eq!(told["lastState"]["terminated"]["reason"], json!(UNKNOWN_REASON));
            world.last = Some(status);
        }
    }
}

#[test]
fn an_end_that_was_told_is_the_last_one_also_when_the_runtime_has_forgotten_it() {
    let mut world = World::new(one(), observed(vec![seen("c", "1", Run::Exited, 3)]));
    world.last = Some(world.status(7));
    world.observed = observed(vec![seen("c", "2", Run::Running, 0)]);
    for _ in 0..2 {
        let status = world.status(8);
        assert_eq!(container(&status)["lastState"]["terminated"]["exitCode"], 3);
        world.last = Some(status);
    }
}

#[test]
fn an_end_that_was_reported_keeps_its_last_words() {
    let mut ended = seen("c", "1", Run::Exited, 3);
    ended.last_words = "bye".to_owned();
    let mut world = World::new(one(), observed(vec![ended]));
    world.last = Some(world.status(7));
    world.observed.containers[0].last_words.clear();
    assert_eq!(
        container(&world.status(8))["state"]["terminated"]["message"],
        json!("bye")
    );
}

#[test]
fn init_containers_hold_the_rest_back() {
    let inits = json!([{"name": "i", "image": "i"}]);
    let spec = json!({"initContainers": inits, "containers": [{"name": "c", "image": "i"}]});
    let mut world = World::new(pod(&spec), observed(vec![seen("i", "1", Run::Running, 0)]));
    let status = world.status(7);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(
        container(&status)["state"]["waiting"]["reason"],
        json!("PodInitializing")
    );
    assert_eq!(condition(&status, "Initialized").1, "ContainersNotInitialized");
    world.observed = observed(vec![
        seen("c", "2", Run::Running, 0),
        seen("i", "1", Run::Exited, 0),
    ]);
    let status = world.status(8);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(condition(&status, "Initialized").0, "True");
}

#[test]
fn readiness_gates_are_other_peoples_conditions_and_are_not_told() {
    let spec =
        json!({"readinessGates": [{"conditionType": "x/y"}], "containers": [{"name": "c", "image": "i"}]});
    let mut world = World::new(pod(&spec), observed(vec![seen("c", "1", Run::Running, 0)]));
    let status = world.status(7);
    assert_eq!(condition(&status, "ContainersReady").0, "True");
    assert_eq!(
        condition(&status, "Ready"),
        ("False".to_owned(), "ReadinessGatesNotReady".to_owned())
    );
    let api = json!({"conditions": [{"type": "x/y", "status": "True"}]});
    world.pod.status = Some(serde_json::from_value(api).unwrap());
    let status = world.status(8);
    assert_eq!(condition(&status, "Ready").0, "True");
    assert!(status.conditions.unwrap().iter().all(|told| told.type_ != "x/y"));
}

#[test]
fn a_sidecar_holds_its_pod_back_until_it_has_first_started_and_never_after() {
    let sidecar = json!({"name": "s", "image": "i", "restartPolicy": "Always", "startupProbe": {"exec": {}}});
    let spec = json!({"initContainers": [sidecar], "containers": [{"name": "c", "image": "i"}]});
    let mut world = World::new(pod(&spec), observed(vec![seen("s", "1", Run::Running, 0)]));
    let status = world.status(7);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(condition(&status, "Initialized").0, "False");
    let (main, ended) = (seen("c", "2", Run::Running, 0), seen("s", "1", Run::Exited, 1));
    world.observed = observed(vec![seen("s", "3", Run::Running, 0), main, ended]);
    let status = world.status(8);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(condition(&status, "Initialized").0, "True");
    let ready = status.conditions.as_ref().unwrap();
    let ready = ready.iter().find(|condition| condition.type_ == "Ready").unwrap();
    assert_eq!(
        ready.message.as_deref(),
        Some("containers with unready status: [s]")
    );
    world.observed.containers.clear();
    world.last = Some(status);
    let status = world.status(9);
    assert_eq!(
        condition(&status, "Initialized").0,
        "True",
        "it stays initialized"
    );
    let init = &status.init_container_statuses.unwrap()[0];
    assert!(
        init.state.as_ref().unwrap().waiting.is_some(),
        "a lost sidecar waits; it has not completed"
    );
}

#[test]
fn a_pod_starts_when_it_is_seen_first_and_never_after_its_containers() {
    let starts = |world: &World, now| world.status(now).start_time.unwrap().0.as_second();
    let mut world = World::new(one(), PodObserved::default());
    assert_eq!(starts(&world, 12), 7, "however long its first status waits");
    world.end.stopped = true;
    world.end.rejected = Some(("NodePorts".to_owned(), "taken".to_owned()));
    assert_eq!(starts(&world, 12), 7);
    let ran_before = World {
        since: Duration::from_hours(2),
        ..World::new(one(), observed(vec![seen("c", "1", Run::Running, 0)]))
    };
    assert_eq!(starts(&ran_before, 7300), 3600);
}
