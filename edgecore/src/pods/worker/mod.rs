//! One task for one pod UID: it looks, plans, acts, reports, and looks again.
//!
//! All decisions are [`lifecycle::plan`]'s and [`status::build`](super::status::build)'s; this carries them out.
//! Orders come through a watch channel, so the latest one counts and none waits in a queue.
//!
//! **Invariants:** there is one worker a UID; after every action it looks before it plans again, at the whole
//! pod or, where it made something and nothing failed, at what it made; it may be dropped at any `.await` and a new worker finds everything by the runtime's labels.

mod act;
mod evicted;
mod ground;
mod haste;
mod holds;
mod hooking;
mod looking;
mod meanwhile;
mod orders;
mod permit;
mod probing;
mod pulling;
mod resizing;
mod settle;
mod stop;
mod telling;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::endings::Ending;
use super::events::Tone;
use super::kit::Kit;
use super::lifecycle::{self, History, Outcome, Plan, Stage, Step, View};
use super::observed::{Memory, PodObserved, Run};
use super::spec;
use super::status::{End, Failure, Waiting};
use super::volumes::Mounted;
use ground::Ahead;
use haste::Haste;
use holds::Holds;
use probing::Probing;
use resizing::Resizing;
use settle::Leaving;
use telling::{CROWDED, SOON, beside};

pub use orders::Order;

/// How long after a failed look or report the worker tries again.
const RETRY: Duration = Duration::from_secs(1);
/// A worker looks at its pod at least this often; the kubelet's sync frequency.
const SYNC: Duration = Duration::from_mins(1);

/// A pod's worker.
pub struct Worker {
    kit: Arc<Kit>,
    uid: String,
    /// When it first saw its pod.
    since: SystemTime,
    /// Until when its first status may wait; from its first step on.
    untold: Option<Instant>,
    orders: watch::Receiver<Order>,
    poke: Arc<Notify>,
    order: Order,
    stage: Stage,
    end: End,
    ending: Option<Ending>,
    leaving: Leaving,
    observed: PodObserved,
    memory: Memory,
    history: History,
    waiting: BTreeMap<String, Waiting>,
    holds: Holds,
    /// Whether the observation includes all that was done since the last look.
    noted: bool,
    ahead: Ahead,
    permit: Option<OwnedSemaphorePermit>,
    mounted: Option<Mounted>,
    refresh_at: Option<Instant>,
    objects_seen: u64,
    probing: Probing,
    resizing: Resizing,
    reported: Option<PodStatus>,
    /// It was said that a status could not be kept.
    status_waits: Arc<AtomicBool>,
    announced: BTreeSet<String>,
}

enum Turn {
    Again,
    Wait(Option<Instant>),
    Done,
}

impl Worker {
    /// A worker for the pod of `orders`. `poke` wakes it to look again.
    pub fn new(kit: Arc<Kit>, mut orders: watch::Receiver<Order>, poke: Arc<Notify>) -> Self {
        let mut order = orders.borrow_and_update().clone();
        let uid = spec::uid(&order.desired.pod).to_owned();
        let reported = kit.report.last_status(&uid);
        let failed = kit.report.last_failure(&uid);
        let objects_seen = order.objects;
        let known = reported.as_ref().or(order.desired.pod.status.as_ref());
        let resizing = Resizing::new(&order.desired, known, kit.ledger.freed());
        order.desired = resizing.allocated(None);
        let mut worker = Self {
            probing: Probing::new(Arc::clone(&kit), Arc::clone(&poke)),
            resizing,
            since: kit.clock.now(),
            untold: None,
            kit,
            uid,
            orders,
            poke,
            order,
            stage: Stage::Running,
            end: End {
                failed,
                ..End::default()
            },
            ending: None,
            leaving: Leaving::default(),
            observed: PodObserved::default(),
            memory: Memory::default(),
            history: History::default(),
            waiting: BTreeMap::new(),
            holds: Holds::default(),
            noted: false,
            ahead: Ahead::default(),
            permit: None,
            mounted: None,
            refresh_at: None,
            objects_seen,
            reported,
            status_waits: Arc::default(),
            announced: BTreeSet::new(),
        };
        worker.history.deadline = worker.deadline();
        worker.obey();
        worker
    }

    /// Works until the pod is removed and nothing of it is left, or until `stop`, which leaves its
    /// containers running.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut haste = Haste::default();
        loop {
            let turn = tokio::select! {
                () = stop.cancelled() => return,
                turn = self.turn() => turn,
            };
            if matches!(turn, Turn::Done) {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.between(turn, &mut haste) => {}
            }
        }
    }

    /// Waits for an order, an observation, a probe's result or the time.
    async fn rest(&mut self, until: Option<Instant>) {
        self.permit = None;
        let limit = Instant::now() + SYNC;
        let until = until.map_or(limit, |until| until.min(limit));
        tokio::select! {
            changed = self.orders.changed() => if changed.is_err() { sleep_until(until).await },
            () = self.poke.notified() => {}
            () = sleep_until(until) => {}
            () = self.ahead.pulling.come() => {}
            () = self.leaving.hear() => {}
            () = self.resizing.room() => {}
        }
    }

    fn pod(&self) -> &Pod {
        &self.order.desired.pod
    }

    async fn turn(&mut self) -> Turn {
        self.obey();
        if !std::mem::take(&mut self.noted)
            && let Err(error) = self.look().await
        {
            debug!(pod = %self.uid, %error, "cannot see the pod");
            return Turn::Wait(Some(Instant::now() + RETRY));
        }
        self.remember();
        if let (Some(refusal), Stage::Running) = (self.order.desired.refused.clone(), self.stage) {
            return self.refuse(&refusal).await;
        }
        self.judge_resize();
        let mut plan = self.plan();
        match plan.outcome {
            Outcome::Going => {}
            Outcome::Finished => return self.end_it(None),
            Outcome::Overdue => return self.end_overdue(),
            Outcome::Stopped => return self.settle().await,
        }
        let held = self.hold_back(&mut plan);
        let held = earlier(held, self.resize(&plan).await);
        self.say_back_offs(&plan);
        self.say_ephemeral();
        let steps = std::mem::take(&mut plan.steps);
        if !steps.is_empty() {
            self.act(steps).await;
            return Turn::Again;
        }
        self.permit = None;
        let told = self.publish().await;
        self.keep(told);
        self.idle(earlier(plan.wake, held)).await
    }

    /// Carries the steps out and reports meanwhile.
    async fn act(&mut self, steps: Vec<Step>) {
        let starts = |step: &Step| matches!(step, Step::Start(_));
        let makes = |step: &Step| matches!(step, Step::CreateSandbox { .. });
        if !steps.iter().all(starts) {
            self.permit = None;
        }
        let new = self.observed.containers.is_empty();
        let first = new && steps.iter().all(|step| starts(step) || makes(step));
        // What runs is told at once: a pod of which nothing was told is taken for a new one after a restart.
        let queues = new && steps.iter().all(makes);
        let done = CancellationToken::new();
        let publish = self.publish_until(done.clone());
        let untold = *self.untold.get_or_insert_with(|| Instant::now() + CROWDED);
        let turns = Arc::clone(&self.kit.starts);
        let waits = || queues && Instant::now() < untold && turns.available_permits() == 0;
        let soon = if first { SOON } else { Duration::ZERO };
        let work = Box::pin(async {
            let noted = self.carry_out(steps).await;
            done.cancel();
            noted
        });
        let (noted, told) = beside(publish, work, (soon, waits)).await;
        self.noted = noted;
        self.keep(told);
    }

    async fn idle(&mut self, wake: Option<Instant>) -> Turn {
        let refreshed = self.refresh_volumes().await;
        self.sweep().await;
        let unreported = self.reported.as_ref() != Some(&self.status());
        let retry = unreported.then(|| Instant::now() + RETRY);
        Turn::Wait(earlier(earlier(wake, refreshed), retry))
    }

    fn end_it(&mut self, failed: Option<Failure>) -> Turn {
        self.end.failed = failed;
        self.begin_end(lifecycle::spec_grace(self.pod()));
        Turn::Again
    }

    fn end_overdue(&mut self) -> Turn {
        let failure = overdue();
        let (reason, message) = (&failure.reason, &failure.message);
        self.kit.events.pod(self.pod(), Tone::Normal, reason, message);
        self.end_it(Some(failure))
    }

    /// Draws the conclusions of an observation.
    fn remember(&mut self) {
        let now = Instant::now();
        let exists = |id: &String| self.observed.containers.iter().any(|c| &c.id == id);
        self.history.ended.retain(|id, _| exists(id));
        self.history.owed.retain(exists);
        self.history.unhealthy.retain(|id, _| exists(id));
        self.history.started.retain(exists);
        self.announced.retain(exists);
        let stands = |id: &String| self.observed.sandboxes.iter().any(|s| &s.id == id);
        self.history.stopped.retain(stands);
        self.holds.stops.retain(|id, _| stands(id));
        for container in self.observed.containers.iter().filter(|c| c.run == Run::Exited) {
            self.history.ended.entry(container.id.clone()).or_insert(now);
        }
        let ending = self.stage != Stage::Running;
        self.probing.follow(
            self.order.desired.as_ref(),
            &self.observed,
            ending,
            self.reported.as_ref(),
        );
        self.probing.judge(&mut self.history);
    }

    fn plan(&self) -> Plan {
        lifecycle::plan(&View {
            pod: self.pod(),
            observed: &self.observed,
            stage: self.stage,
            history: &self.history,
            now: Instant::now(),
        })
    }
}

fn overdue() -> Failure {
    Failure {
        reason: "DeadlineExceeded".to_owned(),
        message: "Pod was active on the node longer than the specified deadline".to_owned(),
        for_the_node: false,
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    [a, b].into_iter().flatten().min()
}
