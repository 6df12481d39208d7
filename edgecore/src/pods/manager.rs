//! Owner of the pods' workers: one a UID, none for a pod that another UID of the same name still holds.
//!
//! It follows the wanted pods, watches the runtime and pokes the workers concerned. The relist is the
//! truth: every 10 s beside a healthy event stream, every second without one; events only shorten the wait.
//!
//! **Invariant:** nothing is ended or removed because it is *missing* from the list of wanted pods before
//! the cluster has confirmed that list in this boot.

mod orphans;
mod roster;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use protocol::clock::Clock;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::cgroups::Cgroups;
use super::events::{self, Events};
use super::eviction::{self, Sight, Verdict};
use super::image_gc::{self, Plea, Room};
use super::images::{Images, PullRecords};
use super::kit::Kit;
use super::logs::{self, Limits, Rotation};
use super::resize::Ledger;
use super::resources;
use super::seams::{PodSource, Report};
use super::spec::{NodeFacts, Objects};
use super::volumes::Volumes;
use crate::node::observe;
use crate::node::shortage::Policy;
use crate::runtime::{self, Runtime};
pub(crate) use orphans::{clean_links, logs_on_disk};
use roster::{Ended, Roster};
use watch::{Seen, see};

/// Between two lists when events come, and when none do.
const RELIST: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(1));
/// Between two looks for what no pod owns any more.
const CLEAN: Duration = Duration::from_mins(1);
/// Image pulls side by side.
const PULLS: usize = 4;
/// Events of the runtime that wait to be noticed.
const NOTICES: usize = 256;
/// Evictions that wait to be carried out.
const VERDICTS: usize = 16;

/// What the manager is made from.
pub struct Parts {
    /// The container runtime.
    pub runtime: Arc<dyn Runtime>,
    /// The wanted pods.
    pub source: Arc<dyn PodSource>,
    /// The objects that pods name.
    pub objects: Arc<dyn Objects>,
    /// Whom to tell.
    pub report: Arc<dyn Report>,
    /// Volumes.
    pub volumes: Volumes,
    /// Who may use the images that were pulled.
    pub pulls: PullRecords,
    /// The pods' cgroups; `None` leaves them to the runtime.
    pub cgroups: Option<Arc<Cgroups>>,
    /// The node.
    pub facts: Arc<NodeFacts>,
    /// `/var/log/containers`.
    pub link_dir: PathBuf,
    /// Starts side by side; about two a core.
    pub parallel_starts: usize,
    /// Above so many percent of the disk unused images go; 100 keeps them all.
    pub image_gc_high_percent: u8,
    /// When pods are evicted, and how.
    pub eviction: Policy,
    /// What is left now.
    pub load: Sight,
    /// The wall clock.
    pub clock: Clock,
}

/// The pods of this node.
pub struct Manager {
    parts: Parts,
    progress: Progress,
}

/// Counts the manager's rounds: a node whose count stands still must not say that it is well.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Rounds so far.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more round.
    pub(crate) fn step(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Manager {
    /// A manager that has not looked at anything yet.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            progress: Progress::default(),
        }
    }

    /// Counts its rounds where somebody else counts already.
    #[must_use]
    pub fn counting(self, progress: Progress) -> Self {
        Self { progress, ..self }
    }

    /// How far it has come.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Waits for the runtime, for ever, then keeps the pods until `stop`. Their containers outlive it.
    pub async fn run(self, stop: CancellationToken) {
        if let Err(error) = self.parts.volumes.shut().await {
            warn!(%error, root = %self.parts.facts.root_dir.display(), "the directory of the pods is not as it should be");
        }
        let waiting = self.wait_for_runtime();
        let name = tokio::select! {
            () = stop.cancelled() => return,
            name = waiting => name,
        };
        if let Some(cgroups) = &self.parts.cgroups {
            let all = resources::node_limits(&self.parts.facts);
            if let Err(error) = cgroups.aside(move |cgroups| cgroups.ensure_classes(&all)).await {
                warn!(
                    error = error.whole(),
                    "the cgroups of the service classes are not as they should be"
                );
            }
        }
        let (events, told) = Events::new(self.parts.clock.clone(), &self.parts.facts.node_name);
        let round = Round::new(self, events, name, &stop);
        round.run(told, stop).await;
    }

    /// A node that waits is well: it counts its rounds meanwhile.
    async fn wait_for_runtime(&self) -> String {
        let mut beat = tokio::time::interval(RELIST.1);
        let mut answer = std::pin::pin!(runtime::answering(self.parts.runtime.as_ref()));
        loop {
            tokio::select! {
                version = &mut answer => return version.runtime_name,
                _ = beat.tick() => self.progress.step(),
            }
        }
    }
}

/// Everything that lives while the manager runs.
struct Round {
    kit: Arc<Kit>,
    source: Arc<dyn PodSource>,
    image_gc_high_percent: u8,
    eviction: Policy,
    load: Sight,
    roster: Roster,
    progress: Progress,
    seen: BTreeMap<String, Seen>,
    /// Pods that go on without care, as was said of them.
    spared: BTreeSet<String>,
    helpers: JoinSet<()>,
    /// What takes down the remains of pods; one at most.
    cleaning: JoinSet<()>,
    events_flow: bool,
    list_at: Instant,
    clean_at: Instant,
}

impl Round {
    fn new(manager: Manager, events: Events, runtime_name: String, stop: &CancellationToken) -> Self {
        let Manager { parts, progress } = manager;
        let kit = Arc::new(Kit {
            images: Images::new(Arc::clone(&parts.runtime), PULLS, parts.pulls),
            runtime: parts.runtime,
            runtime_name,
            facts: parts.facts,
            objects: parts.objects,
            volumes: parts.volumes,
            cgroups: parts.cgroups,
            report: parts.report,
            events,
            clock: parts.clock,
            starts: Arc::new(Semaphore::new(parts.parallel_starts.max(1))),
            endings: Arc::default(),
            remains: Arc::default(),
            ledger: Ledger::default(),
            link_dir: parts.link_dir,
        });
        Self {
            roster: Roster::new(Arc::clone(&kit), stop.child_token()),
            kit,
            source: parts.source,
            image_gc_high_percent: parts.image_gc_high_percent,
            eviction: parts.eviction,
            load: parts.load,
            progress,
            seen: BTreeMap::new(),
            spared: BTreeSet::new(),
            helpers: JoinSet::new(),
            cleaning: JoinSet::new(),
            events_flow: false,
            list_at: Instant::now(),
            clean_at: Instant::now() + CLEAN,
        }
    }

    async fn run(mut self, told: mpsc::Receiver<Event>, stop: CancellationToken) {
        self.kit.images.settle().await;
        let starts = Arc::clone(&self.kit.starts);
        self.helpers
            .spawn(events::pump(told, Arc::clone(&self.kit.report), starts));
        self.helpers.spawn(logs::keep_short(self.rotation()));
        let (plea, pleas) = mpsc::channel(1);
        self.helpers.spawn(image_gc::keep_room(self.room(), pleas));
        let (verdict, mut verdicts) = mpsc::channel(VERDICTS);
        self.helpers
            .spawn(eviction::keep_watch(self.watch(plea, verdict)));
        let kit = Arc::clone(&self.kit);
        self.helpers.spawn(async move { kit.images.keep_settled().await });
        let (notice, mut notices) = mpsc::channel(NOTICES);
        self.helpers
            .spawn(watch::follow(Arc::clone(&self.kit.runtime), notice));
        let (mut pods, mut objects) = (self.source.pods_changed(), self.source.objects_changed());
        self.follow_pods(*objects.borrow());
        loop {
            self.progress.step();
            let next = self.list_at;
            tokio::select! {
                () = stop.cancelled() => break,
                Ok(()) = pods.changed() => self.follow_pods(*objects.borrow()),
                Ok(()) = objects.changed() => {
                    let generation = *objects.borrow_and_update();
                    self.roster.objects_changed(generation);
                }
                Some(notice) = notices.recv() => self.notice(notice),
                Some(ended) = self.helpers.join_next() => helped(ended),
                Some(ended) = self.cleaning.join_next() => self.cleaned(ended, *objects.borrow()),
                Some(verdict) = verdicts.recv() => self.roster.evict(verdict),
                ended = self.roster.ended() => self.ended(&ended, *objects.borrow()),
                () = tokio::time::sleep_until(next) => self.relist().await,
            }
        }
        self.roster.stop().await;
    }

    fn room(&self) -> Room {
        Room {
            runtime: Arc::clone(&self.kit.runtime),
            source: Arc::clone(&self.source),
            report: Arc::clone(&self.kit.report),
            high_percent: self.image_gc_high_percent,
            measure: observe::disk,
        }
    }

    fn watch(&self, images: mpsc::Sender<Plea>, verdicts: mpsc::Sender<Verdict>) -> eviction::Parts {
        eviction::Parts {
            policy: self.eviction,
            sight: Arc::clone(&self.load),
            runtime: Arc::clone(&self.kit.runtime),
            source: Arc::clone(&self.source),
            report: Arc::clone(&self.kit.report),
            facts: Arc::clone(&self.kit.facts),
            cgroups: self.kit.cgroups.clone(),
            events: self.kit.events.clone(),
            remains: Arc::clone(&self.kit.remains),
            images,
            verdicts,
        }
    }

    fn rotation(&self) -> Rotation {
        Rotation {
            runtime: Arc::clone(&self.kit.runtime),
            log_dir: self.kit.facts.log_dir.clone(),
            limits: Limits::default(),
            clock: self.kit.clock.clone(),
        }
    }

    fn follow_pods(&mut self, objects: u64) {
        self.roster
            .follow(&self.source.pods(), self.source.pods_synced(), objects);
    }

    fn ended(&mut self, ended: &Ended, objects: u64) {
        self.roster.forget(ended);
        self.follow_pods(objects);
    }

    fn notice(&mut self, notice: watch::Notice) {
        match notice {
            watch::Notice::Flowing => {
                self.events_flow = true;
                self.list_at = Instant::now();
            }
            watch::Notice::Broken => {
                self.events_flow = false;
                self.list_at = Instant::now();
            }
            watch::Notice::Changed(uid) => self.roster.poke(&uid),
        }
    }

    /// Compares what the runtime holds with the last list, and pokes whom it concerns.
    async fn relist(&mut self) {
        let every = if self.events_flow { RELIST.0 } else { RELIST.1 };
        self.list_at = Instant::now() + every;
        let seen = match see(self.kit.runtime.as_ref()).await {
            Ok(seen) => seen,
            Err(error) => {
                warn!(%error, "the runtime cannot be listed");
                self.list_at = Instant::now() + RELIST.1;
                return;
            }
        };
        for uid in watch::changed(&self.seen, &seen) {
            self.roster.poke(&uid);
        }
        self.seen = seen;
        self.end_orphans();
        self.forget_strangers().await;
        if Instant::now() >= self.clean_at {
            self.clean_at = Instant::now() + CLEAN;
            self.clean().await;
        }
    }
}

/// A helper that fails takes the node with it, or its work would stay undone and nobody would know. One that
/// has nothing more to do just ends.
fn helped(ended: Result<(), JoinError>) {
    if let Err(failure) = ended
        && let Ok(panic) = failure.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

/// What a worker needs to be woken.
pub(super) fn bell() -> Arc<Notify> {
    Arc::new(Notify::new())
}
