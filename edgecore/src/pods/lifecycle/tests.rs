//! The laws of the plan, held against a model runtime.

mod restarts;
mod sandboxes;
mod sidecars;

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::pods::observed::{ContainerObserved, PodObserved, SandboxObserved};

fn pod(policy: &str, inits: usize, mains: usize) -> Pod {
    let list = |prefix: &str, count: usize| {
        (0..count)
            .map(|n| json!({"name": format!("{prefix}{n}"), "image": "i"}))
            .collect::<Vec<_>>()
    };
    let spec =
        json!({"restartPolicy": policy, "initContainers": list("i", inits), "containers": list("m", mains)});
    serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec})).unwrap()
}

fn sandbox(id: usize, ready: bool) -> SandboxObserved {
    let attempt = u32::try_from(id).unwrap();
    let ips = vec!["10.0.0.1".to_owned()];
    SandboxObserved {
        id: format!("s{id}"),
        attempt,
        ready,
        host_network: false,
        created_at: i64::try_from(id).unwrap(),
        ips,
    }
}

fn instance(id: usize, name: &str, sandbox: &str, run: Run) -> ContainerObserved {
    let image = json!({"name": name, "image": "i"});
    ContainerObserved {
        id: format!("c{id}"),
        name: name.to_owned(),
        sandbox: sandbox.to_owned(),
        run,
        created_at: i64::try_from(id).unwrap(),
        image: "i".to_owned(),
        hash: Some(container_hash(&serde_json::from_value(image).unwrap())),
        ..ContainerObserved::default()
    }
}

/// A runtime that does what it is told, at once.
struct Model {
    pod: Pod,
    observed: PodObserved,
    history: History,
    stage: Stage,
    now: Instant,
    next: usize,
    init_exit: i32,
}

impl Model {
    fn new(pod: Pod, init_exit: i32) -> Self {
        Self {
            pod,
            observed: PodObserved::default(),
            history: History::default(),
            stage: Stage::Running,
            now: Instant::now(),
            next: 1,
            init_exit,
        }
    }

    fn plan(&self) -> Plan {
        plan(&View {
            pod: &self.pod,
            observed: &self.observed,
            stage: self.stage,
            history: &self.history,
            now: self.now,
        })
    }

    fn exit(&mut self, id: &str, code: i32) {
        for container in self
            .observed
            .containers
            .iter_mut()
            .filter(|c| c.id == id && c.run != Run::Exited)
        {
            container.run = Run::Exited;
            container.exit_code = code;
            self.history.ended.insert(id.to_owned(), self.now);
        }
    }

    fn carry_out(&mut self, step: &Step) {
        self.next += 1;
        match step {
            Step::Kill(kill) => {
                if kill.restart {
                    self.history.owed.insert(kill.id.clone());
                }
                self.exit(&kill.id, 137);
            }
            Step::StopSandbox { id } => self.stop_sandbox(id),
            Step::CreateSandbox { .. } => {
                let stopped = |s: &SandboxObserved| self.history.stopped.contains(&s.id);
                assert!(
                    self.observed.sandboxes.iter().all(stopped),
                    "its address is taken"
                );
                self.observed.sandboxes.insert(0, sandbox(self.next, true));
            }
            Step::Start(start) => self.start(start),
        }
    }

    fn stop_sandbox(&mut self, id: &str) {
        self.history.stopped.insert(id.to_owned());
        for sandbox in self.observed.sandboxes.iter_mut().filter(|s| s.id == id) {
            sandbox.ready = false;
        }
        let inside = self.observed.containers.iter().filter(|c| c.sandbox == id);
        for id in inside.map(|c| c.id.clone()).collect::<Vec<_>>() {
            self.exit(&id, 137);
        }
    }

    fn start(&mut self, start: &Start) {
        let container = start.place.of(&self.pod).unwrap().clone();
        let twice = self
            .observed
            .containers
            .iter()
            .any(|c| c.name == container.name && c.run.may_run());
        assert!(!twice, "two instances of {}", container.name);
        let ready = self
            .observed
            .sandboxes
            .iter()
            .any(|s| s.id == start.sandbox && s.ready);
        assert!(ready, "{} in a dead sandbox", container.name);
        assert!(
            self.stage == Stage::Running,
            "{} started while ending",
            container.name
        );
        if let Some(ended) = start.follows {
            self.history
                .backoff
                .restarted(&backoff_key(&container), ended, self.now);
        }
        let mut made = instance(self.next, &container.name, &start.sandbox, Run::Running);
        made.restart_count = start.restart_count;
        let id = made.id.clone();
        self.observed.containers.insert(0, made);
        if matches!(start.place, Place::Init(_)) && !is_sidecar(&container) {
            self.exit(&id, self.init_exit);
        }
    }

    /// Steps until there is nothing to do now; back-offs are waited for.
    fn settle(&mut self) -> Outcome {
        for _ in 0..200 {
            let plan = self.plan();
            if plan.steps.is_empty() {
                match (plan.outcome, plan.wake) {
                    (Outcome::Going, Some(wake)) if !plan.backing_off.is_empty() && self.init_exit == 0 => {
                        self.now = wake;
                        continue;
                    }
                    (outcome, _) => return outcome,
                }
            }
            for step in &plan.steps {
                self.carry_out(step);
                self.now += Duration::from_millis(10);
            }
        }
        panic!("no convergence: {:?} {:?}", self.observed, self.plan());
    }

    fn running(&self) -> BTreeSet<&str> {
        let running = self.observed.containers.iter().filter(|c| c.run == Run::Running);
        running.map(|c| c.name.as_str()).collect()
    }
}

fn runs() -> impl Strategy<Value = Run> {
    prop_oneof![
        Just(Run::Created),
        Just(Run::Running),
        Just(Run::Exited),
        Just(Run::Unknown)
    ]
}

prop_compose! {
    /// Any mess that a crash or a stranger may have left.
    fn mess()(
        ready in proptest::collection::vec(any::<bool>(), 0..3),
        instances in proptest::collection::vec((0_usize..3, 0_usize..3, runs(), 0_i32..2), 0..6),
    ) -> PodObserved {
        let sandboxes: Vec<_> = (0..ready.len()).rev().map(|n| sandbox(n, ready[n])).collect();
        let mut containers = Vec::new();
        let mut live = BTreeSet::new();
        for (at, (name, home, run, code)) in instances.into_iter().enumerate() {
            let Some(home) = sandboxes.get(home % sandboxes.len().max(1)) else { continue };
            let run = if home.ready || !run.may_run() { run } else { Run::Exited };
            // The runtime itself never has two instances that run.
            let run = if run.may_run() && !live.insert(name) { Run::Exited } else { run };
            let mut made = instance(at, &format!("m{name}"), &home.id, run);
            made.exit_code = code;
            containers.insert(0, made);
        }
        PodObserved { sandboxes, containers }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_is_found_an_always_pod_ends_up_running_whole(found in mess(), mains in 1_usize..3, inits in 0_usize..3) {
        let mut model = Model::new(pod("Always", inits, mains), 0);
        model.observed = found;
        model.observed.containers.retain(|c| c.name.trim_start_matches('m').parse::<usize>().unwrap() < mains);
        model.next = 100;
        prop_assert_eq!(model.settle(), Outcome::Going);
        prop_assert_eq!(model.running().len(), mains);
        prop_assert_eq!(model.plan().steps, vec![], "a healthy pod is left alone");
    }

    #[test]
    fn whatever_is_found_an_ending_pod_comes_to_rest(found in mess()) {
        let mut model = Model::new(pod("Always", 0, 3), 0);
        model.observed = found;
        model.stage = Stage::Ending { grace_seconds: 0 };
        prop_assert_eq!(model.settle(), Outcome::Stopped);
        prop_assert!(model.observed.is_still());
    }

    #[test]
    fn what_ended_well_is_not_run_again_on_failure(found in mess(), exits in proptest::collection::vec(0_i32..3, 1..4)) {
        let mut model = Model::new(pod("OnFailure", 0, 3), 0);
        model.observed = found;
        model.next = 100;
        let mut exits = exits.into_iter().cycle().take(40).chain(std::iter::repeat(0));
        let mut outcome = model.settle();
        while outcome == Outcome::Going {
            let running: Vec<String> = model.observed.containers.iter().filter(|c| c.run == Run::Running).map(|c| c.id.clone()).collect();
            for id in running {
                model.exit(&id, exits.next().unwrap());
            }
            outcome = model.settle();
        }
        prop_assert_eq!(outcome, Outcome::Finished);
        for container in main_containers(&model.pod) {
            prop_assert_eq!(model.observed.latest(&container.name).map(|c| c.exit_code), Some(0));
        }
    }
}

#[test]
fn a_hook_takes_its_time_from_the_grace_and_leaves_two_seconds() {
    let mut model = Model::new(pod("Always", 0, 1), 0);
    model.settle();
    for (grace, hook_ms, left) in [
        (0, 0, 2),
        (30, 0, 30),
        (30, 4_999, 26),
        (30, 29_000, 2),
        (30, 99_000, 2),
    ] {
        model.stage = Stage::Ending { grace_seconds: grace };
        let Step::Kill(kill) = model.plan().steps[0].clone() else {
            panic!()
        };
        assert_eq!(
            kill.left_after(Duration::from_millis(hook_ms)),
            left,
            "{grace} {hook_ms}"
        );
    }
}

#[test]
fn an_orphan_is_killed_by_what_its_annotations_say() {
    let mut model = Model::new(pod("Always", 0, 1), 0);
    model.settle();
    model.pod.spec = None;
    let hooked = json!({"name": "m0", "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}});
    model.observed.containers[0].outline = Some(serde_json::from_value(hooked).unwrap());
    model.stage = Stage::Ending { grace_seconds: 30 };
    let Step::Kill(kill) = model.plan().steps[0].clone() else {
        panic!()
    };
    let killed = killed(&model.pod, &model.observed, &kill).unwrap();
    assert!(crate::pods::hooks::pre_stop(killed).is_some());
}
