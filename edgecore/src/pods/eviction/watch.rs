//! Looks every ten seconds whether a pod exceeds a limit or the node is short of something, and says who goes.
//!
//! It decides nothing itself. With enough of everything and no pod that has a limit a look costs two small reads.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tracing::{info, warn};

use super::limits::{self, Needs};
use super::measure::{Meter, Subject};
use super::{Eviction, GRACE_SECONDS, Verdict, is_critical, rank, words};
use crate::node::Load;
use crate::node::shortage::{History, Kind, Line, Policy, Shortage};
use crate::node::thresholds::Signal;
use crate::pods::cgroups::Cgroups;
use crate::pods::desired::DesiredPod;
use crate::pods::events::{Events, Tone};
use crate::pods::image_gc::Plea;
use crate::pods::lifecycle::spec_grace;
use crate::pods::remains::Remains;
use crate::pods::seams::{PodSource, Report};
use crate::pods::spec::{self, NodeFacts};
use crate::runtime::Runtime;

/// Between two looks, as the kubelet's.
const LOOK: Duration = Duration::from_secs(10);
/// How long an evicted pod has to be gone before there may be another.
const CLEANUP: Duration = Duration::from_secs(30);
/// How often it is looked for meanwhile.
const CLEANUP_LOOK: Duration = Duration::from_secs(1);
/// Measuring takes one part in so many of the time at most, however much pods have on disk.
const MEASURING_PART: u32 = 20;
/// How long the removal of what ended pods left is waited for.
const REMAINS: Duration = Duration::from_secs(30);
/// How long the removal of unused images is waited for.
const RECLAIM: Duration = Duration::from_mins(1);

/// Tells what is used and what is left now.
pub(crate) type Sight = Arc<dyn Fn() -> Load + Send + Sync>;

/// What the watch works with.
pub(in crate::pods) struct Parts {
    pub(in crate::pods) policy: Policy,
    pub(in crate::pods) sight: Sight,
    pub(in crate::pods) runtime: Arc<dyn Runtime>,
    pub(in crate::pods) source: Arc<dyn PodSource>,
    pub(in crate::pods) report: Arc<dyn Report>,
    pub(in crate::pods) facts: Arc<NodeFacts>,
    pub(in crate::pods) cgroups: Option<Arc<Cgroups>>,
    pub(in crate::pods) events: Events,
    /// Who removes what ended pods left.
    pub(in crate::pods) remains: Arc<Remains>,
    /// Who removes unused images.
    pub(in crate::pods) images: mpsc::Sender<Plea>,
    /// Who ends pods.
    pub(in crate::pods) verdicts: mpsc::Sender<Verdict>,
}

/// Watches, for ever.
pub(in crate::pods) async fn keep_watch(parts: Parts) {
    let meter = Meter {
        runtime: Arc::clone(&parts.runtime),
        facts: Arc::clone(&parts.facts),
        cgroups: parts.cgroups.clone(),
    };
    let mut watch = Watch {
        parts,
        meter,
        limits_at: Instant::now(),
        sentenced: BTreeSet::new(),
        history: History::default(),
        acts_on: None,
    };
    // Not at once: pods that start have the first word.
    let mut look = interval_at(Instant::now() + LOOK, LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let going = watch.look().await;
        watch.until_gone(&going).await;
        if !going.uids.is_empty() {
            // What they wrote goes a little later than they do.
            look.reset();
        }
    }
}

struct Watch {
    parts: Parts,
    meter: Meter,
    /// When limits are looked at next.
    limits_at: Instant,
    /// Who was told to go, by UID.
    sentenced: BTreeSet<String>,
    /// What the node is short of, and since when.
    history: History,
    /// What something was done about last.
    acts_on: Option<Line>,
}

/// Who goes now.
#[derive(Default)]
struct Going {
    uids: Vec<String>,
    /// How long they get.
    grace: Duration,
}

impl Watch {
    /// Says who goes now.
    async fn look(&mut self) -> Going {
        let pods = self.parts.source.pods();
        let limited = pods.iter().any(|desired| Needs::of(&desired.pod).any());
        let shortage = self.acute();
        if shortage.is_none() {
            self.acts_on = None;
        }
        if !limited && shortage.is_none() {
            return Going::default();
        }
        let pods = self.candidates(pods);
        let over = self.over_limits(&pods).await;
        match shortage {
            Some(shortage) if over.uids.is_empty() => self.for_the_node(pods, shortage).await,
            Some(_) | None => over,
        }
    }

    /// What something has to be done about now, if anything.
    fn acute(&mut self) -> Option<Shortage> {
        let (memory, load) = (self.parts.facts.memory_capacity, (self.parts.sight)());
        let found = self
            .history
            .look(&self.parts.policy, memory, &load, Instant::now());
        for shortage in &found {
            let pressures = &self.parts.facts.pressures;
            pressures.see(shortage.signal.condition(), Instant::now());
        }
        found.into_iter().find(|shortage| self.history.is_ripe(shortage))
    }

    /// Pods that may go.
    fn candidates(&mut self, pods: Vec<Arc<DesiredPod>>) -> Vec<Arc<DesiredPod>> {
        self.sentenced
            .retain(|uid| pods.iter().any(|desired| spec::uid(&desired.pod) == uid));
        let may_go = |desired: &Arc<DesiredPod>| {
            let (pod, uid) = (&desired.pod, spec::uid(&desired.pod));
            spec::is_plain_name(uid)
                && desired.refused.is_none()
                && !is_critical(pod)
                && !self.sentenced.contains(uid)
                && !self.parts.report.is_over(pod)
        };
        pods.into_iter().filter(may_go).collect()
    }

    async fn over_limits(&mut self, pods: &[Arc<DesiredPod>]) -> Going {
        let subject = |desired: &Arc<DesiredPod>| {
            let needs = Needs::of(&desired.pod);
            needs.any().then(|| Subject {
                desired: Arc::clone(desired),
                needs,
            })
        };
        let limited: Vec<_> = pods.iter().filter_map(subject).collect();
        let began = Instant::now();
        let mut going = Going::default();
        if limited.is_empty() || began < self.limits_at {
            return going;
        }
        let measured = self.meter.measure(limited, self.are_images_apart()).await;
        self.limits_at = Instant::now() + began.elapsed() * MEASURING_PART;
        let measured = measured.unwrap_or_else(|error| {
            warn!(%error, "it is not known what pods with limits have on disk");
            Vec::new()
        });
        for candidate in measured {
            let pod = &candidate.desired.pod;
            if let Some(message) = limits::exceeded(pod, &candidate.usage) {
                let eviction = Eviction {
                    message,
                    for_the_node: false,
                    grace_seconds: GRACE_SECONDS,
                };
                self.sentence(pod, eviction, &mut going).await;
            }
        }
        going
    }

    async fn for_the_node(&mut self, pods: Vec<Arc<DesiredPod>>, shortage: Shortage) -> Going {
        let mut going = Going::default();
        let line = Some(shortage.line());
        let is_news = std::mem::replace(&mut self.acts_on, line) != line;
        if is_news {
            self.tell(&shortage);
        }
        if self.reclaim(shortage.signal).await && self.still(&shortage).is_none() {
            info!("the node has enough again, and no pod has to go");
            return going;
        }
        let needs = Needs::to_rank(shortage.signal);
        let subjects = pods.into_iter().map(|desired| Subject { desired, needs });
        let measured = self.meter.measure(subjects.collect(), self.are_images_apart());
        let measured = match measured.await {
            Ok(measured) => measured,
            Err(error) => {
                warn!(%error, "it is not known what pods use");
                return going;
            }
        };
        // Measuring takes its time, and the need may be over.
        let Some(shortage) = self.still(&shortage) else {
            return going;
        };
        let Some(first) = rank::first(&measured, shortage.signal) else {
            if is_news {
                warn!("there is no pod that could go");
            }
            return going;
        };
        let pod = &first.desired.pod;
        let eviction = Eviction {
            message: words::shortage(pod, &first.usage, &shortage),
            for_the_node: true,
            grace_seconds: self.grace(pod, shortage.kind),
        };
        self.sentence(pod, eviction, &mut going).await;
        going
    }

    /// Whether the node is still short of that, and how much is left now.
    fn still(&self, shortage: &Shortage) -> Option<Shortage> {
        let memory = self.parts.facts.memory_capacity;
        self.parts.policy.still(shortage, memory, &(self.parts.sight)())
    }

    fn are_images_apart(&self) -> bool {
        (self.parts.sight)().images.is_some()
    }

    /// How long a pod gets: no longer than it asked for itself.
    fn grace(&self, pod: &Pod, kind: Kind) -> i64 {
        match kind {
            Kind::Hard => GRACE_SECONDS,
            Kind::Soft => self
                .parts
                .policy
                .pod_grace_seconds
                .min(spec_grace(pod))
                .max(GRACE_SECONDS),
        }
    }

    fn tell(&self, shortage: &Shortage) {
        let message = words::reclaiming(shortage.signal);
        let events = &self.parts.events;
        events.node(Tone::Warning, "EvictionThresholdMet", &message);
        warn!(
            signal = shortage.signal.name(),
            kind = ?shortage.kind,
            threshold = shortage.threshold,
            available = shortage.available,
            "the node is short of something"
        );
    }

    /// Whether something was done that may have helped: containers of ended pods go, and then the images that nobody
    /// uses any more. Where images lie apart, containers do too, and none of that makes room for pods.
    async fn reclaim(&self, signal: Signal) -> bool {
        let helps = match signal {
            Signal::Memory | Signal::Pids => false,
            Signal::Disk | Signal::Inodes => !self.are_images_apart(),
            Signal::Images | Signal::ImageInodes => true,
        };
        if !helps {
            return false;
        }
        if timeout(REMAINS, self.parts.remains.give_back()).await.is_err() {
            warn!("what ended pods left cannot be removed yet");
        }
        let (plea, made) = oneshot::channel();
        let asked = self.parts.images.send(plea).await.is_ok();
        asked && timeout(RECLAIM, made).await.is_ok()
    }

    async fn sentence(&mut self, pod: &Pod, eviction: Eviction, going: &mut Going) {
        let uid = spec::uid(pod).to_owned();
        warn!(
            pod = spec::name(pod),
            namespace = spec::namespace(pod),
            why = eviction.message.trim_end(),
            "the pod is evicted"
        );
        let grace = Duration::from_secs(u64::try_from(eviction.grace_seconds).unwrap_or(0));
        let verdict = Verdict {
            uid: uid.clone(),
            eviction: Arc::new(eviction),
        };
        if self.parts.verdicts.send(verdict).await.is_ok() {
            self.sentenced.insert(uid.clone());
            going.grace = going.grace.max(grace);
            going.uids.push(uid);
        }
    }

    /// Waits until nothing of these pods is left, though not for long.
    async fn until_gone(&self, going: &Going) {
        let gone = async {
            let stands = |uid: &String| self.parts.facts.pod_dir(uid).exists();
            while going.uids.iter().any(stands) {
                sleep(CLEANUP_LOOK).await;
            }
        };
        if timeout(CLEANUP + going.grace, gone).await.is_err() {
            warn!("an evicted pod is not gone yet");
        }
    }
}
