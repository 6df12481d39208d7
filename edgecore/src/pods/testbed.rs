//! A node in memory for the tests of workers and manager: a fake runtime, wanted pods, and what was told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Event, Pod, PodStatus};
use parking_lot::Mutex;
use protocol::clock::Clock;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::desired::DesiredPod;
use super::images::PullRecords;
use super::manager::{Manager, Parts};
use super::seams::{NotKept, PodSource, Report, UnreadPod};
use super::spec::testing::{FakeObjects, facts};
use super::spec::{self, NodeFacts};
use super::status::Failure;
use super::volumes::Volumes;
use super::volumes::testing::Scratch;
use super::volumes::tokens::{TokenCache, TokenError, TokenRequest, TokenSource, TokenStore};
use crate::node::pressures::Pressures;
use crate::node::shortage::Policy;
use crate::node::{Disk, Load};
use crate::runtime::Runtime;
use crate::runtime::fake::FakeRuntime;
use crate::store::Db;

/// Tokens by a clock of their own, which moves only when it is set. The one of 1970 gives none.
#[derive(Default)]
pub(crate) struct FakeTokens {
    seconds: AtomicU64,
    /// How long one is waited for.
    pub(crate) takes: Mutex<Duration>,
    /// For which pods one was asked for, and when.
    pub(crate) asked: Mutex<Vec<(String, Instant)>>,
    /// What is on disk, and whether the disk hangs when it is to be forgotten.
    pub(crate) kept: Mutex<Vec<(String, Vec<u8>)>>,
    pub(crate) hangs: watch::Sender<bool>,
}

impl FakeTokens {
    /// Sets the clock.
    pub(crate) fn set_clock(&self, seconds: u64) {
        self.seconds.store(seconds, Ordering::Relaxed);
    }
}

impl TokenSource for FakeTokens {
    fn request<'a>(&'a self, wish: &'a TokenRequest) -> BoxFuture<'a, Result<String, TokenError>> {
        self.asked.lock().push((wish.pod_uid.clone(), Instant::now()));
        let now = self.seconds.load(Ordering::Relaxed);
        if now == 0 {
            return std::future::pending().boxed();
        }
        let claims = format!(r#"{{"iat":{now},"exp":{}}}"#, now + 3600);
        let token = format!("{now}.{}.s", URL_SAFE_NO_PAD.encode(claims));
        let takes = *self.takes.lock();
        async move {
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            Ok(token)
        }
        .boxed()
    }
}

impl TokenStore for FakeTokens {
    fn load(&self) -> BoxFuture<'_, Vec<(String, Vec<u8>)>> {
        std::future::ready(self.kept.lock().clone()).boxed()
    }

    fn keep<'a>(&'a self, _: &'a str, value: Option<Vec<u8>>) -> BoxFuture<'a, ()> {
        let mut hangs = self.hangs.subscribe();
        async move {
            if value.is_none() {
                let _ = hangs.wait_for(|hangs| !hangs).await;
            }
        }
        .boxed()
    }
}

/// The wanted pods.
pub(crate) struct FakeSource {
    pods: Mutex<(BTreeMap<String, Arc<DesiredPod>>, bool)>,
    pub(crate) unread: Mutex<Vec<UnreadPod>>,
    changed: watch::Sender<u64>,
    objects: watch::Sender<u64>,
}

impl PodSource for FakeSource {
    fn pods(&self) -> Vec<Arc<DesiredPod>> {
        self.pods.lock().0.values().cloned().collect()
    }

    fn pods_synced(&self) -> bool {
        self.pods.lock().1
    }

    fn unread(&self) -> Vec<UnreadPod> {
        self.unread.lock().clone()
    }

    fn pods_changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn objects_changed(&self) -> watch::Receiver<u64> {
        self.objects.subscribe()
    }
}

/// What was told.
#[derive(Default)]
pub(crate) struct FakeReport {
    statuses: Mutex<BTreeMap<String, Vec<PodStatus>>>,
    failures: Mutex<BTreeMap<String, Option<Failure>>>,
    gone: Mutex<Vec<String>>,
    forgotten: Mutex<Vec<String>>,
    pub(crate) unforgotten: Mutex<Vec<String>>,
    /// The disk keeps no status, of which the cluster hears all the same.
    pub(crate) keeps_nothing: Mutex<bool>,
    pub(crate) events: Mutex<Vec<String>>,
}

impl Report for FakeReport {
    fn pod_status<'a>(
        &'a self,
        pod: &'a Pod,
        status: &'a PodStatus,
        failure: Option<&'a Failure>,
    ) -> BoxFuture<'a, Result<(), NotKept>> {
        let uid = spec::uid(pod).to_owned();
        self.failures.lock().insert(uid, failure.cloned());
        let mut statuses = self.statuses.lock();
        statuses
            .entry(spec::uid(pod).to_owned())
            .or_default()
            .push(status.clone());
        let kept = !*self.keeps_nothing.lock();
        let kept = kept
            .then_some(())
            .ok_or_else(|| NotKept("the disk is full".into()));
        std::future::ready(kept).boxed()
    }

    fn last_status(&self, uid: &str) -> Option<PodStatus> {
        self.statuses.lock().get(uid)?.last().cloned()
    }

    fn last_failure(&self, uid: &str) -> Option<Failure> {
        self.failures.lock().get(uid)?.clone()
    }

    fn gone<'a>(&'a self, pod: &'a Pod) -> BoxFuture<'a, Result<(), NotKept>> {
        self.gone.lock().push(spec::uid(pod).to_owned());
        std::future::ready(Ok(())).boxed()
    }

    fn forget<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, ()> {
        self.forgotten.lock().push(uid.to_owned());
        std::future::ready(()).boxed()
    }

    fn unforgotten(&self) -> Vec<String> {
        self.unforgotten.lock().clone()
    }

    fn event(&self, event: Event) -> BoxFuture<'_, ()> {
        let (reason, message) = (
            event.reason.unwrap_or_default(),
            event.message.unwrap_or_default(),
        );
        self.events.lock().push(format!("{reason}: {message}"));
        std::future::ready(()).boxed()
    }
}

/// A device that has enough of everything.
pub(crate) fn plenty() -> Load {
    Load {
        memory_available: 2 << 30,
        disk: Some(Disk {
            bytes: 1 << 30,
            bytes_free: 1 << 29,
            inodes: 1000,
            inodes_free: 500,
        }),
        ..Load::default()
    }
}

/// A node.
pub(crate) struct Node {
    pub(crate) runtime: FakeRuntime,
    pub(crate) source: Arc<FakeSource>,
    pub(crate) report: Arc<FakeReport>,
    pub(crate) objects: Arc<FakeObjects>,
    pub(crate) tokens: Arc<FakeTokens>,
    /// What is left of the device.
    pub(crate) load: Arc<Mutex<Load>>,
    /// What is left by what the runtime holds, from the next boot on; else `load` says it.
    pub(crate) sight: Option<fn(&FakeRuntime) -> Load>,
    /// Above so many percent of the disk unused images go, from the next boot on; 100 keeps them all.
    pub(crate) image_gc_high_percent: u8,
    /// When pods are evicted, from the next boot on.
    pub(crate) eviction: Policy,
    /// The pressures that the Node shows.
    pub(crate) pressures: Pressures,
    /// What outlives the manager.
    store: Db,
    pub(crate) clock: Clock,
    scratch: Scratch,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Node {
    /// A node with these images and no pods, not running yet.
    pub(crate) fn new(images: &[&str]) -> Self {
        Self {
            runtime: FakeRuntime::with_images(images),
            source: Arc::new(FakeSource {
                pods: Mutex::default(),
                unread: Mutex::default(),
                changed: watch::channel(0).0,
                objects: watch::channel(0).0,
            }),
            report: Arc::default(),
            objects: Arc::new(FakeObjects::default().service(
                "default",
                "kubernetes",
                "10.96.0.1",
                &[("https", 443)],
            )),
            tokens: Arc::default(),
            scratch: Scratch::new("node"),
            load: Arc::new(Mutex::new(plenty())),
            sight: None,
            image_gc_high_percent: 100,
            eviction: Policy::default(),
            pressures: Pressures::default(),
            store: Db::in_memory(),
            clock: Clock::system(),
            tasks: JoinSet::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Starts the manager.
    pub(crate) async fn boot(&mut self) {
        let root = self.scratch.path();
        let facts = Arc::new(NodeFacts {
            root_dir: root.join("kubelet"),
            log_dir: root.join("pods"),
            pressures: self.pressures.clone(),
            ..facts()
        });
        let (load, sight, runtime) = (Arc::clone(&self.load), self.sight, self.runtime.clone());
        let objects = Arc::clone(&self.objects) as Arc<dyn spec::Objects>;
        let clock = Arc::clone(&self.tokens);
        let now = Arc::new(move || UNIX_EPOCH + Duration::from_secs(clock.seconds.load(Ordering::Relaxed)));
        let (source, kept) = (Arc::clone(&self.tokens), Arc::clone(&self.tokens));
        let tokens = Arc::new(TokenCache::open(source, kept, now).await);
        let manager = Manager::new(Parts {
            runtime: Arc::new(self.runtime.clone()) as Arc<dyn Runtime>,
            source: Arc::clone(&self.source) as Arc<dyn PodSource>,
            objects: Arc::clone(&objects),
            report: Arc::clone(&self.report) as Arc<dyn Report>,
            volumes: Volumes::new(Arc::clone(&facts), objects, tokens),
            pulls: PullRecords::open(self.store.clone()).await,
            cgroups: None,
            facts,
            link_dir: self.link_dir(),
            parallel_starts: 4,
            image_gc_high_percent: self.image_gc_high_percent,
            eviction: self.eviction,
            load: Arc::new(move || sight.map_or_else(|| load.lock().clone(), |of| of(&runtime))),
            clock: self.clock.clone(),
        });
        self.stop = CancellationToken::new();
        self.tasks.spawn(manager.run(self.stop.clone()));
    }

    /// Kills the manager; what it runs goes on.
    pub(crate) async fn kill(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Stops the manager in order.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }

    /// Waits until the manager ends of itself; whether it panicked.
    pub(crate) async fn panicked(&mut self) -> bool {
        let ended = self.tasks.join_next().await;
        ended.is_some_and(|ended| ended.is_err_and(|failure| failure.is_panic()))
    }

    /// What lies under `kubelet/pods` of a pod: a directory or a file.
    pub(crate) fn on_disk(&self, uid: &str, path: &str) -> std::path::PathBuf {
        self.scratch.path().join("kubelet/pods").join(uid).join(path)
    }

    /// Where the links to the logs are.
    pub(crate) fn link_dir(&self) -> std::path::PathBuf {
        self.scratch.path().join("containers")
    }

    /// Wants a pod, as JSON.
    pub(crate) fn want(&self, pod: &serde_json::Value) {
        let desired = DesiredPod::decode(pod.to_string().as_bytes(), None).unwrap();
        let uid = spec::uid(&desired.pod).to_owned();
        self.source.pods.lock().0.insert(uid, Arc::new(desired));
        self.source.changed.send_modify(|generation| *generation += 1);
    }

    /// Wants it no more.
    pub(crate) fn forget(&self, uid: &str) {
        self.source.pods.lock().0.remove(uid);
        self.source.changed.send_modify(|generation| *generation += 1);
    }

    /// The cluster confirms the list of pods.
    pub(crate) fn sync(&self) {
        self.source.pods.lock().1 = true;
        self.source.changed.send_modify(|generation| *generation += 1);
    }

    /// Says that an object changed.
    pub(crate) fn touch_objects(&self) {
        self.source.objects.send_modify(|generation| *generation += 1);
    }

    /// The directory of a pod's volume, by `plugin/volume`.
    pub(crate) fn volume(&self, uid: &str, path: &str) -> std::path::PathBuf {
        let volumes = self.scratch.path().join("kubelet/pods").join(uid).join("volumes");
        volumes.join(format!("kubernetes.io~{path}"))
    }

    /// What a file of a pod's volume says, by `plugin/volume/path`; nothing while it is missing.
    pub(crate) fn in_volume(&self, uid: &str, path: &str) -> String {
        std::fs::read_to_string(self.volume(uid, path)).unwrap_or_default()
    }

    /// The status reported last.
    pub(crate) fn status(&self, uid: &str) -> PodStatus {
        self.report.last_status(uid).unwrap_or_default()
    }

    /// Puts a status in the place of the one reported last.
    pub(crate) fn tell(&self, uid: &str, status: PodStatus) {
        let mut statuses = self.report.statuses.lock();
        statuses.entry(uid.to_owned()).or_default().push(status);
    }

    /// As if nothing had been reported of a pod.
    pub(crate) fn untell(&self, uid: &str) {
        self.report.statuses.lock().remove(uid);
    }

    /// The phase reported last.
    pub(crate) fn phase(&self, uid: &str) -> String {
        self.status(uid).phase.unwrap_or_default()
    }

    /// Every status reported.
    pub(crate) fn told(&self, uid: &str) -> Vec<PodStatus> {
        self.report.statuses.lock().get(uid).cloned().unwrap_or_default()
    }

    /// Pods that were said to be gone.
    pub(crate) fn gone(&self) -> Vec<String> {
        self.report.gone.lock().clone()
    }

    /// Pods of which nothing is kept any more.
    pub(crate) fn forgotten(&self) -> Vec<String> {
        self.report.forgotten.lock().clone()
    }

    /// Events, `Reason: message`.
    pub(crate) fn events(&self) -> Vec<String> {
        self.report.events.lock().clone()
    }

    /// Waits, in virtual time, until an event that begins like this is told: events are told a little late.
    pub(crate) async fn hear(&self, beginning: &str) {
        let heard = |node: &Self| node.events().iter().any(|event| event.starts_with(beginning));
        self.until(&format!("the event {beginning}"), heard).await;
    }

    /// Waits, in virtual time, until `holds`.
    pub(crate) async fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        for _ in 0..20_000 {
            if holds(self) {
                assert_eq!(self.runtime.violations(), Vec::<String>::new());
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            // Volumes are mounted on threads that virtual time does not know.
            std::thread::sleep(Duration::from_micros(50));
        }
        panic!(
            "{what} never came: {:#?}\n{:#?}",
            self.events(),
            self.runtime.calls().iter().rev().take(40).collect::<Vec<_>>()
        );
    }
}
