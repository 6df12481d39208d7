//! Giving a pod that runs another size, as [`resize`] decides it.
//!
//! The worker's order holds the pod as it was allocated, so that all that is made of it has the size that it was
//! given; what the cluster wants stands beside it. A new size is judged once a turn until it is given.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, PodStatus};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Worker;
use super::act::AFTER_FAILURE;
use crate::pods::container_config::linux_resources;
use crate::pods::desired::DesiredPod;
use crate::pods::events::Tone;
use crate::pods::lifecycle::{Plan, Stage, Step as Action};
use crate::pods::observed::Run;
use crate::pods::resize::{self, DEFERRED, Pending, Progress, Resize, Size, Sizes, Step};
use crate::pods::resources;
use crate::pods::spec;

/// What a worker knows of its pod's sizes.
pub(super) struct Resizing {
    /// The pod as the cluster wants it.
    wanted: Arc<DesiredPod>,
    /// What its containers were given, by name.
    given: Sizes,
    /// For the status.
    pub(super) state: Resize,
    /// What its containers had before this process, by id.
    before: Sizes,
    freed: watch::Receiver<u64>,
    held: Option<Instant>,
}

impl Resizing {
    pub(super) fn new(
        wanted: &Arc<DesiredPod>,
        status: Option<&PodStatus>,
        freed: watch::Receiver<u64>,
    ) -> Self {
        Self {
            wanted: Arc::clone(wanted),
            given: resize::given_before(&wanted.pod, status),
            state: Resize {
                progress: resize::progress_before(status),
                ..Resize::default()
            },
            before: resize::set_before(status),
            freed,
            held: None,
        }
    }

    /// The pod with what it was given, also as a whole if that is known.
    pub(super) fn allocated(&self, before: Option<&DesiredPod>) -> Arc<DesiredPod> {
        resize::allocated(&self.wanted, &self.given, before.map(|before| &before.pod))
    }

    /// The pod that is worked on, after an order for `latest`.
    pub(super) fn follow(&mut self, latest: Arc<DesiredPod>, now: &Arc<DesiredPod>) -> Arc<DesiredPod> {
        if Arc::ptr_eq(&latest, &self.wanted) {
            return Arc::clone(now);
        }
        self.wanted = latest;
        self.held = None;
        self.allocated(Some(now))
    }

    /// Nothing is resized any more.
    pub(super) fn end(&mut self) {
        self.state.pending = None;
        self.state.progress = None;
    }

    /// Ends when there may be room for what waits.
    pub(super) async fn room(&mut self) {
        let waits = self
            .state
            .pending
            .as_ref()
            .is_some_and(|pending| pending.reason == DEFERRED);
        if !waits || self.freed.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Worker {
    /// Asks for the size that is wanted, if it is another one than the pod has, and sees who must start anew for it.
    pub(super) fn judge_resize(&mut self) {
        self.note_sizes();
        if self.stage == Stage::Running {
            self.ask_for_size();
        }
        // Nobody asked for a start anew where the runtime merely shows something else than it was told.
        self.history.outgrown = match self.resizing.state.progress {
            Some(_) => resize::outgrown(self.pod(), &self.observed, &self.resizing.state.set),
            None => BTreeSet::new(),
        };
    }

    /// The container was made with what it was given.
    pub(super) fn note_made(&mut self, container: &Container, id: &str) {
        self.resizing.state.set.insert(id.to_owned(), Size::of(container));
    }

    /// What each container has that was made before this process.
    fn note_sizes(&mut self) {
        let exists = |id: &String| self.observed.containers.iter().any(|c| &c.id == id);
        self.resizing.state.set.retain(|id, _| exists(id));
        let pod = &self.order.desired.pod;
        for container in spec::all_containers(pod) {
            let Some(seen) = self.observed.latest(&container.name) else {
                continue;
            };
            let known = self.resizing.state.set.contains_key(&seen.id);
            if known || !matches!(seen.run, Run::Created | Run::Running) {
                continue;
            }
            let before = self.resizing.before.remove(&seen.id);
            let believed = before.unwrap_or_else(|| Size::of(container));
            let mut made = container.clone();
            made.resources = believed.within(container.resources.as_ref());
            let size = match &seen.resources {
                Some(shown) => {
                    let made = linux_resources(&self.kit.facts, pod, &made);
                    resize::seen_by_runtime(believed, &made, shown)
                }
                None => believed,
            };
            self.resizing.state.set.insert(seen.id.clone(), size);
        }
    }

    fn ask_for_size(&mut self) {
        let wanted = Arc::clone(&self.resizing.wanted);
        if Arc::ptr_eq(&wanted, &self.order.desired) || !resize::differs(&wanted.pod, self.pod()) {
            self.resizing.state.pending = None;
            return;
        }
        self.resizing.freed.mark_unchanged();
        let (allocated, allocatable) = (Arc::clone(&self.order.desired), &self.kit.facts.allocatable);
        let amounts = resources::pod_requests(&wanted.pod);
        let answer = self.kit.ledger.claim(&self.uid, amounts, |others| {
            resize::judge(&wanted.pod, &allocated.pod, allocatable, others)
        });
        match answer {
            Ok(()) => self.resize_given(wanted),
            Err(pending) => self.resize_pending(pending),
        }
    }

    fn resize_given(&mut self, wanted: Arc<DesiredPod>) {
        let generation = wanted.pod.metadata.generation;
        self.resizing.given = resize::sizes(&wanted.pod);
        self.resizing.held = None;
        self.resizing.state.pending = None;
        self.resizing.state.progress = Some(Progress {
            generation,
            error: None,
        });
        self.order.desired = wanted;
        // Files may say what the pod is given.
        self.refresh_at = Some(Instant::now());
        self.say_resize(Tone::Normal, ("ResizeStarted", "started"), generation, None);
    }

    fn resize_pending(&mut self, pending: Pending) {
        let before = self.resizing.state.pending.as_ref();
        let news = before.is_none_or(|b| (b.reason, b.generation) != (pending.reason, pending.generation));
        if news {
            let reason = if pending.reason == DEFERRED {
                "ResizeDeferred"
            } else {
                "ResizeInfeasible"
            };
            let told = resize::summary(
                &self.resizing.wanted.pod,
                pending.generation,
                Some(&pending.message),
            );
            let message = format!("Pod resize {}: {told}", pending.reason);
            self.kit.events.pod(self.pod(), Tone::Warning, reason, &message);
        }
        self.resizing.state.pending = Some(pending);
    }

    /// Sets what was given and is not set, unless something must end first; says when to try again.
    pub(super) async fn resize(&mut self, plan: &Plan) -> Option<Instant> {
        let ends = |step: &Action| matches!(step, Action::Kill(_) | Action::StopSandbox { .. });
        let stands = self.observed.sandbox().is_some_and(|sandbox| sandbox.ready);
        if self.stage != Stage::Running || plan.steps.iter().any(ends) || !self.history.outgrown.is_empty() {
            return None;
        }
        if !stands {
            // What is made anew has the size that it was given.
            self.resizing.state.progress = None;
            return None;
        }
        let state = &self.resizing.state;
        let steps = resize::steps(self.pod(), &self.observed, &state.set, state.progress.is_some());
        if steps.is_empty() {
            return None;
        }
        if let Some(until) = self.resizing.held.filter(|until| *until > Instant::now()) {
            return Some(until);
        }
        let generation = self.pod().metadata.generation;
        let progress = self.resizing.state.progress.get_or_insert(Progress {
            generation,
            error: None,
        });
        let generation = progress.generation;
        let told = self.publish().await;
        self.keep(told);
        match self.set_sizes(&steps).await {
            Ok(()) => {
                self.resizing.state.progress = None;
                self.say_resize(Tone::Normal, ("ResizeCompleted", "completed"), generation, None);
                None
            }
            Err(error) => {
                self.resizing.held = Some(Instant::now() + AFTER_FAILURE);
                self.resize_failed(generation, error);
                self.resizing.held
            }
        }
    }

    fn resize_failed(&mut self, generation: Option<i64>, error: String) {
        let told = self.resizing.state.progress.as_ref();
        let is_told = told.is_some_and(|told| {
            let same = |before: &String| same_but_for_numbers(before, &error);
            told.generation == generation && told.error.as_ref().is_some_and(same)
        });
        // What is used changes all the time; each number would be news on flash and in the cluster.
        if is_told {
            return;
        }
        let what = ("ResizeError", "error");
        self.say_resize(Tone::Warning, what, generation, Some(&error));
        let error = Some(error);
        self.resizing.state.progress = Some(Progress { generation, error });
    }

    async fn set_sizes(&mut self, steps: &[Step]) -> Result<(), String> {
        if let Some(error) = self.too_small(steps).await {
            return Err(error);
        }
        for step in steps {
            match step {
                Step::Pod(limits) => self.limit_cgroup(*limits).await.map_err(|error| error.whole())?,
                Step::Container { name, id, size } => {
                    let containers: Vec<_> = spec::all_containers(self.pod()).collect();
                    let Some(container) = containers.into_iter().find(|container| &container.name == name)
                    else {
                        continue;
                    };
                    let resources = linux_resources(&self.kit.facts, self.pod(), container);
                    let set = self.kit.runtime.update_container(id, resources).await;
                    set.map_err(|error| error.words())?;
                    self.resizing.state.set.insert(id.clone(), *size);
                }
            }
        }
        Ok(())
    }

    async fn too_small(&self, steps: &[Step]) -> Option<String> {
        let cgroups = self.kit.cgroups.as_ref()?;
        let tighter = resize::tighter(self.pod(), &self.observed, &self.resizing.state.set, steps);
        if tighter.is_empty() {
            return None;
        }
        let (qos, uid) = (resources::qos(self.pod()), self.uid.clone());
        let judged = cgroups.aside(move |cgroups| {
            let used = |container: Option<&str>| cgroups.memory_used(qos, &uid, container);
            Ok(resize::too_small(&tighter, used))
        });
        judged.await.unwrap_or_else(|error| Some(error.whole()))
    }

    fn say_resize(
        &self,
        tone: Tone,
        (reason, word): (&str, &str),
        generation: Option<i64>,
        error: Option<&str>,
    ) {
        let told = resize::summary(self.pod(), generation, error);
        let message = format!("Pod resize {word}: {told}");
        self.kit.events.pod(self.pod(), tone, reason, &message);
    }
}

fn same_but_for_numbers(one: &str, other: &str) -> bool {
    let words = |text: &str| text.split(|c: char| c.is_ascii_digit()).collect::<String>();
    words(one) == words(other)
}
