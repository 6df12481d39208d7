//! The pods of an edge: the real plan of each pod's next steps, carried out on the toy runtime.
//!
//! The model follows `pods/worker` (look, plan, act, report; last status durable before the pod is said to be
//! gone). Statuses are simpler than the real.

mod manager;

use std::sync::Arc;

use edgecore::pods::container_config::container_hash;
use edgecore::pods::desired::DesiredPod;
use edgecore::pods::lifecycle::{self, History, Outcome, Stage, Step, View, backoff_key, spec_grace};
use edgecore::pods::observed::{PodObserved, Run};
use k8s_openapi::api::core::v1::Pod;
use protocol::object::{Object, ObjectKey};
use protocol::reported::{OutboxKey, PodIdentity};
use serde_json::{Value, json};

use super::disk::{Op, ops};
use super::runtime::Making;
use super::world::World;

#[expect(
    clippy::struct_excessive_bools,
    reason = "the facts of a model, each checked on its own"
)]
pub(crate) struct Worker {
    pod: Arc<DesiredPod>,
    removed: bool,
    stage: Stage,
    history: History,
    reported: Option<Value>,
    stopped: bool,
    gone: bool,
    /// Something is under way; look again when it has ended.
    busy: bool,
}

pub(crate) fn decode(object: &Object) -> Arc<DesiredPod> {
    let seed = object.seed_status.as_ref().map(|seed| seed.json().unwrap());
    let pod = DesiredPod::decode(&object.body.json().unwrap(), seed.as_deref()).unwrap();
    assert!(
        pod.refused.is_none(),
        "the world's pods are honoured: {:?}",
        pod.refused
    );
    Arc::new(pod)
}

fn uid_of(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

fn identity(pod: &Pod) -> PodIdentity {
    PodIdentity {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: uid_of(pod).to_owned(),
    }
}

fn is_terminal(phase: Option<&str>) -> bool {
    matches!(phase, Some("Succeeded" | "Failed"))
}

impl Worker {
    fn new(pod: Arc<DesiredPod>, removed: bool, reported: Option<Value>) -> Self {
        Self {
            pod,
            removed,
            stage: Stage::Running,
            history: History::default(),
            reported,
            stopped: false,
            gone: false,
            busy: false,
        }
    }

    /// As `Worker::obey`.
    fn obey(&mut self) {
        let pod = &self.pod.pod;
        let deleted = pod.metadata.deletion_timestamp.is_some();
        let asked = pod.metadata.deletion_grace_period_seconds;
        let seeded = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let said = self.reported.as_ref().and_then(|status| status["phase"].as_str());
        let grace = if deleted || self.removed {
            asked.unwrap_or_else(|| spec_grace(pod))
        } else if is_terminal(seeded) || is_terminal(said) {
            spec_grace(pod)
        } else {
            return;
        };
        self.end(grace);
    }

    fn end(&mut self, grace: i64) {
        let grace_seconds = match self.stage {
            Stage::Running => grace,
            Stage::Ending { grace_seconds } => grace_seconds.min(grace),
        };
        self.stage = Stage::Ending { grace_seconds };
    }

    /// What there is to say of the pod.
    fn status(&self, observed: &PodObserved, now: &str) -> Value {
        let before = self.reported.as_ref();
        let phase_before = before.and_then(|status| status["phase"].as_str());
        let mains = self.pod.pod.spec.iter().flat_map(|spec| &spec.containers);
        let latest: Vec<_> = mains.filter_map(|c| observed.latest(&c.name)).collect();
        let running = latest.iter().any(|c| c.run == Run::Running);
        let phase = match phase_before {
            Some(phase) if is_terminal(Some(phase)) => phase,
            _ if self.stopped && latest.iter().all(|c| c.exit_code == 0) => "Succeeded",
            _ if self.stopped => "Failed",
            _ if latest.is_empty() => phase_before.unwrap_or("Pending"),
            _ => "Running",
        };
        let ready = running && self.stage == Stage::Running && phase == "Running";
        let word = if ready { "True" } else { "False" };
        let start = before
            .and_then(|status| status["startTime"].as_str())
            .unwrap_or(now);
        let containers: Vec<Value> = latest
            .iter()
            .map(|c| {
                json!({
                    "name": c.name, "image": c.image, "imageID": c.image, "containerID": c.id,
                    "ready": ready, "restartCount": c.restart_count,
                })
            })
            .collect();
        json!({
            "phase": phase,
            "startTime": start,
            "conditions": [{"type": "Ready", "status": word}, {"type": "ContainersReady", "status": word}],
            "containerStatuses": containers,
        })
    }
}

/// For the trace, which must be the same in every replay: instants are not.
fn word(step: &Step) -> String {
    match step {
        Step::Kill(kill) => format!("kills {} ({})", kill.id, kill.message),
        Step::StopSandbox { id } => format!("stops {id}"),
        Step::CreateSandbox { attempt } => format!("makes sandbox {attempt}"),
        Step::Start(start) => format!("starts {:?}, restart {}", start.place, start.restart_count),
    }
}

impl World {
    /// Looks at a pod and does the next thing.
    pub(crate) fn work(&mut self, e: usize, uid: &str) {
        let now = self.instant();
        let edge = &mut self.edges[e];
        let Some(worker) = edge
            .process
            .as_mut()
            .and_then(|process| process.workers.get_mut(uid))
        else {
            return;
        };
        if worker.busy {
            return;
        }
        worker.obey();
        let observed = edge.runtime.observe(uid);
        for container in observed.containers.iter().filter(|c| c.run == Run::Exited) {
            worker.history.ended.entry(container.id.clone()).or_insert(now);
        }
        let plan = lifecycle::plan(&View {
            pod: &worker.pod.pod,
            observed: &observed,
            stage: worker.stage,
            history: &worker.history,
            now,
        });
        match plan.outcome {
            Outcome::Finished | Outcome::Overdue => {
                let grace = spec_grace(&worker.pod.pod);
                worker.end(grace);
                return self.work(e, uid);
            }
            Outcome::Stopped => {
                worker.stopped = true;
                if !self.publish(e, uid, &observed) {
                    self.settle_pod(e, uid);
                }
                return;
            }
            Outcome::Going => {}
        }
        if plan.steps.is_empty() {
            self.publish(e, uid, &observed);
        } else {
            self.act(e, uid.to_owned(), plan.steps);
        }
        if let Some(wake) = plan.wake {
            let (life, uid) = (self.edges[e].life, uid.to_owned());
            self.after(wake - now, move |world| {
                if world.edges[e].life == life {
                    world.work(e, &uid);
                }
            });
        }
    }

    /// Carries steps out. A crash in between leaves some of them done.
    fn act(&mut self, e: usize, uid: String, steps: Vec<Step>) {
        let starts = |step: &Step| matches!(step, Step::CreateSandbox { .. } | Step::Start(_));
        if steps.iter().any(starts) {
            self.check_start(e, &uid);
        }
        let takes = self.dice.between(20, 2_000);
        let edge = &mut self.edges[e];
        let (life, boots) = (edge.life, edge.boots);
        let worker = edge
            .process
            .as_mut()
            .and_then(|process| process.workers.get_mut(&uid));
        let Some(worker) = worker else { return };
        worker.busy = true;
        let pod = Arc::clone(&worker.pod);
        self.after(takes, move |world| {
            let edge = &world.edges[e];
            if !edge.powered || edge.boots != boots {
                return;
            }
            let lives = edge.life == life;
            let done = if lives {
                steps.len()
            } else {
                world.dice.below(steps.len() + 1)
            };
            for step in steps.into_iter().take(done) {
                world.perform(e, &uid, &pod, step);
            }
            if lives {
                world.free(e, &uid);
            }
        });
    }

    fn free(&mut self, e: usize, uid: &str) {
        let process = self.edges[e].process.as_mut();
        if let Some(worker) = process.and_then(|process| process.workers.get_mut(uid)) {
            worker.busy = false;
            self.work(e, uid);
        }
    }

    fn perform(&mut self, e: usize, uid: &str, pod: &DesiredPod, step: Step) {
        self.say(|| format!("edge {e}: pod {uid}: {}", word(&step)));
        let now = self.instant();
        match step {
            Step::Kill(kill) => {
                self.check_kill(e, uid, &kill.id);
                self.edges[e].runtime.end(uid, &kill.id, 137);
            }
            Step::StopSandbox { id } => {
                self.edges[e].runtime.stop_sandbox(uid, &id);
                let process = self.edges[e].process.as_mut();
                if let Some(worker) = process.and_then(|process| process.workers.get_mut(uid)) {
                    worker.history.stopped.insert(id);
                }
            }
            Step::CreateSandbox { attempt } => self.edges[e].runtime.make_sandbox(uid, attempt),
            Step::Start(start) => {
                let Some(container) = start.place.of(&pod.pod) else {
                    return;
                };
                let process = self.edges[e].process.as_mut();
                let worker = process.and_then(|process| process.workers.get_mut(uid));
                if let (Some(worker), Some(ended)) = (worker, start.follows) {
                    worker
                        .history
                        .backoff
                        .restarted(&backoff_key(container), ended, now);
                }
                let making = Making {
                    name: &container.name,
                    image: container.image.as_deref().unwrap_or_default(),
                    hash: container_hash(container),
                    restart_count: start.restart_count,
                };
                self.edges[e].runtime.start(uid, &start.sandbox, making);
            }
        }
    }

    /// Reports the status if it says something new; whether it did.
    fn publish(&mut self, e: usize, uid: &str, observed: &PodObserved) -> bool {
        let seconds = self.now.as_secs().cast_signed() + self.edges[e].clock_off;
        let now = format!(
            "2026-01-{:02}T{:02}:00:00Z",
            1 + (seconds / 86_400).rem_euclid(28),
            (seconds / 3_600).rem_euclid(24)
        );
        let Some(process) = &mut self.edges[e].process else {
            return false;
        };
        let Some(worker) = process.workers.get_mut(uid) else {
            return false;
        };
        let status = worker.status(observed, &now);
        if worker.removed || worker.reported.as_ref() == Some(&status) {
            return false;
        }
        worker.busy = true;
        let pod = identity(&worker.pod.pod);
        let json = status.to_string().into_bytes();
        let mut batch = ops(process.outbox.put(OutboxKey::Pod(pod.clone()), &json));
        batch.push(Op::Status(pod.clone(), json.clone()));
        process.statuses.insert(uid.to_owned(), (pod, json));
        let uid = uid.to_owned();
        self.write_reports(e, batch, move |world| {
            let process = world.edges[e].process.as_mut();
            if let Some(worker) = process.and_then(|process| process.workers.get_mut(&uid)) {
                worker.reported = Some(status);
            }
            world.free(e, &uid);
        });
        true
    }

    /// As `Worker::settle`: nothing runs, and the last status is durable.
    fn settle_pod(&mut self, e: usize, uid: &str) {
        let edge = &mut self.edges[e];
        let Some(process) = &mut edge.process else { return };
        let Some(worker) = process.workers.get_mut(uid) else {
            return;
        };
        let deleted = worker.pod.pod.metadata.deletion_timestamp.is_some();
        if !deleted && !worker.removed {
            return;
        }
        edge.runtime.pods.remove(uid);
        if worker.removed {
            process.workers.remove(uid);
            process.replica.terminated(uid);
            let mut batch = Vec::new();
            if let Some((pod, _)) = process.statuses.remove(uid) {
                batch.extend(ops(process.outbox.forget(&pod)));
                batch.push(Op::ForgetStatus(uid.to_owned()));
            }
            self.say(|| format!("edge {e}: pod {uid} is forgotten"));
            self.write_reports(e, batch, |_| {});
            self.pump_replica(e);
            return self.follow(e);
        }
        if std::mem::replace(&mut worker.gone, true) {
            return;
        }
        let change = process.outbox.gone(identity(&worker.pod.pod));
        self.say(|| format!("edge {e}: pod {uid} is gone"));
        self.write_reports(e, ops(change), |_| {});
    }

    /// A container ends by itself.
    pub(crate) fn container_exits(&mut self, e: usize, exit_code: i32) {
        let running = self.edges[e].runtime.running();
        if running.is_empty() {
            return;
        }
        let (uid, id) = running[self.dice.below(running.len())].clone();
        self.say(|| format!("edge {e}: container {id} of pod {uid} exits with {exit_code}"));
        self.edges[e].runtime.end(&uid, &id, exit_code);
        self.work(e, &uid);
    }

    /// Pods that should run and do not, or the other way round.
    pub(crate) fn amiss(&self, e: usize, key: &ObjectKey, pod: &Value) -> Option<String> {
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        let runs = self.edges[e]
            .runtime
            .running()
            .iter()
            .filter(|(of, _)| of == uid)
            .count();
        let ended = is_terminal(pod["status"]["phase"].as_str());
        let wanted = usize::from(!ended);
        (runs != wanted).then(|| format!("{key} ({uid}) has {runs} running containers, not {wanted}"))
    }
}
