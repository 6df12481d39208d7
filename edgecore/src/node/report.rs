//! Looks at the device every ten seconds and reports the node when it changed.
//!
//! The only waiting part of `node`. It decides nothing: [`Watch::look`] says what to send.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::address::Peers;
use super::conditions::{Conditions, Now};
use super::document::{self, Identity};
use super::host_ip::HostIp;
use super::pressures::Pressures;
use super::thresholds::Thresholds;
use super::{Machine, Observation, RuntimeFacts, address, observe};
use crate::reported::Reporter;
use crate::runtime::{Abilities, Runtime};

/// The kubelet's own interval.
const EVERY: Duration = Duration::from_secs(10);
/// While the node is not ready, or the runtime does not answer: a runtime that comes up is seen at once.
const EVERY_WHILE_NOT_READY: Duration = Duration::from_secs(1);
/// How long the runtime may take to describe itself before the look counts as missed.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long after its last answer the runtime counts as down, as with the kubelet: it may be upgraded, or wait
/// for the disk, and the pods of a node that is not ready are taken out of service.
const DOWN_AFTER: Duration = Duration::from_secs(30);

/// An error of whatever takes the documents.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// Where node documents go: the outbox, in the running node.
pub trait NodeSink: Send + Sync + 'static {
    /// Takes the document; returns when it is durable.
    fn node_status<'a>(&'a self, document: &'a Node) -> BoxFuture<'a, Result<(), SinkError>>;
}

impl NodeSink for Reporter {
    fn node_status<'a>(&'a self, document: &'a Node) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async { Ok(self.node(document).await?) })
    }
}

/// What the reporter is made of.
pub struct NodeReporter {
    /// What the configuration says of the Node.
    pub identity: Identity,
    /// The container runtime.
    pub runtime: Arc<dyn Runtime>,
    /// Where documents go.
    pub sink: Arc<dyn NodeSink>,
    /// The wall clock.
    pub clock: protocol::clock::Clock,
    /// The directory whose file system pods fill.
    pub pods_dir: PathBuf,
    /// The routes to cloudcore name the device's own address.
    pub peers: AskPeers,
    /// What the runtime can do, for whoever describes pods to it.
    pub abilities: Abilities,
    /// The device's address, for whoever tells pods of it or asks one there.
    pub host_ip: HostIp,
    /// Below how much that is left the node is under pressure.
    pub thresholds: Thresholds,
    /// The pressures that hold, for whoever admits pods.
    pub pressures: Pressures,
    /// The newest document, for whoever shows the node locally.
    pub shown: tokio::sync::watch::Sender<Option<Node>>,
}

/// Asks where cloudcore is now.
pub type AskPeers = Box<dyn Fn() -> Peers + Send + Sync>;

/// What was last told, and since when what holds. Pure.
#[derive(Debug, Default)]
pub struct Watch {
    conditions: Conditions,
    address: Option<IpAddr>,
    disk_bytes: Option<u64>,
    answered: Option<(Instant, RuntimeFacts)>,
    missed: bool,
    ready: bool,
    pressures: Pressures,
    told: Option<Node>,
}

impl Watch {
    /// Judges by these thresholds, and notes the pressures there.
    pub fn of(thresholds: Thresholds, pressures: Pressures) -> Self {
        Self {
            conditions: Conditions::with(thresholds),
            pressures,
            ..Self::default()
        }
    }

    /// Keeps the disk's size as it was first seen, as the kubelet does: some file systems (ZFS) count
    /// as size what others leave them, and the node's capacity would change with every write.
    pub fn settle(&mut self, seen: &mut Observation) {
        if let Some(disk) = &mut seen.load.disk {
            disk.bytes = *self.disk_bytes.get_or_insert(disk.bytes);
        }
    }

    /// Puts the runtime's last answer in the place of one that is missing, while it is young.
    pub fn bridge(&mut self, seen: &mut Observation, now: Instant) {
        self.missed = seen.runtime.is_err();
        if let Ok(facts) = &seen.runtime {
            self.answered = Some((now, facts.clone()));
        }
        let young = |(at, _): &&(Instant, RuntimeFacts)| now.duration_since(*at) < DOWN_AFTER;
        if let (true, Some((_, facts))) = (self.missed, self.answered.as_ref().filter(young)) {
            seen.runtime = Ok(facts.clone());
        }
    }

    /// The document of this observation, when it says something new.
    pub fn look(&mut self, identity: &Identity, seen: &Observation, now: Now) -> Option<Node> {
        let conditions = self.conditions.judge(seen, now);
        self.pressures.learn(&conditions);
        self.ready = conditions
            .iter()
            .any(|one| one.type_ == "Ready" && one.status == "True");
        // Without a network there is no address to name, and the last one is still the best.
        self.address = seen.device_address.or(self.address);
        let node = document::node(identity, seen, self.address, conditions);
        (self.told.as_ref() != Some(&node)).then_some(node)
    }

    /// How soon to look again.
    pub fn pace(&self) -> Duration {
        if self.ready && !self.missed {
            EVERY
        } else {
            EVERY_WHILE_NOT_READY
        }
    }

    /// Notes that the document is on its way for good.
    pub fn told(&mut self, node: Node) {
        self.told = Some(node);
    }
}

impl NodeReporter {
    /// Runs until `stop`. A document that the sink did not take is offered again next time.
    pub async fn run(self, stop: CancellationToken) {
        let machine = observe::machine(std::path::Path::new("/"));
        let mut watch = Watch::of(self.thresholds, self.pressures.clone());
        while !stop.is_cancelled() {
            let next = tokio::select! {
                () = stop.cancelled() => return,
                next = self.once(&machine, &mut watch) => next,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(next) => {}
            }
        }
    }

    /// Looks once; returns how long to wait before the next look.
    async fn once(&self, machine: &Machine, watch: &mut Watch) -> Duration {
        let mut seen = self.observe(machine).await;
        watch.settle(&mut seen);
        let now = Now {
            wall: self.wall(),
            steady: Instant::now(),
        };
        watch.bridge(&mut seen, now.steady);
        let Some(node) = watch.look(&self.identity, &seen, now) else {
            return watch.pace();
        };
        let stamped = document::with_heartbeat(node.clone(), &Time(now.wall));
        match self.sink.node_status(&stamped).await {
            Ok(()) => watch.told(node),
            Err(error) => tracing::warn!(%error, "the node document was not stored; trying again"),
        }
        self.shown.send_replace(Some(stamped));
        watch.pace()
    }

    async fn observe(&self, machine: &Machine) -> Observation {
        let asked = tokio::time::timeout(PATIENCE, observe::runtime(&*self.runtime)).await;
        let runtime = match asked {
            Ok(Ok(facts)) => {
                self.abilities.learn(facts.known());
                Ok(facts)
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!(
                "the container runtime did not answer within {} s",
                PATIENCE.as_secs()
            )),
        };
        let device_address = address::of_device((self.peers)()).await;
        self.host_ip.learn(device_address);
        Observation {
            machine: machine.clone(),
            load: observe::load(std::path::Path::new("/"), &self.pods_dir),
            runtime,
            device_address,
        }
    }

    /// The wall clock in whole seconds, the API server's precision.
    fn wall(&self) -> Timestamp {
        let since = self
            .clock
            .now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_secs())
            .ok()
            .and_then(|s| Timestamp::from_second(s).ok())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Disk, Load, RuntimeFacts};

    fn seen() -> Observation {
        Observation {
            machine: Machine::default(),
            load: Load::default(),
            runtime: Ok(RuntimeFacts::default()),
            device_address: Some(IpAddr::from([198, 18, 0, 7])),
        }
    }

    fn now(seconds: i64) -> Now {
        Now {
            wall: Timestamp::from_second(seconds).unwrap(),
            steady: Instant::now(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_did_not_change_is_not_reported_again() {
        let (mut watch, identity) = (Watch::default(), Identity::default());
        let first = watch.look(&identity, &seen(), now(100)).unwrap();
        assert!(
            watch.look(&identity, &seen(), now(105)).is_some(),
            "it was not stored yet"
        );
        watch.told(first);
        assert_eq!(watch.look(&identity, &seen(), now(110)), None);
        let changed = Observation {
            runtime: Err("down".to_owned()),
            ..seen()
        };
        assert!(watch.look(&identity, &changed, now(120)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_lost_its_network_keeps_the_address_it_had() {
        let (mut watch, identity) = (Watch::default(), Identity::default());
        let first = watch.look(&identity, &seen(), now(100)).unwrap();
        watch.told(first);
        let dark = Observation {
            device_address: None,
            ..seen()
        };
        assert_eq!(watch.look(&identity, &dark, now(110)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_is_silent_for_a_moment_is_not_down() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut watch = Watch::default();
        let mut look = |answer: Result<RuntimeFacts, String>, seconds| {
            let mut seen = Observation {
                runtime: answer,
                ..seen()
            };
            watch.bridge(&mut seen, after(seconds));
            (seen.runtime.is_ok(), watch.missed)
        };
        let (here, silent) = (|| Ok(RuntimeFacts::default()), || Err("silent".to_owned()));
        assert_eq!(look(silent(), 0), (false, true), "it has never answered");
        assert_eq!(look(here(), 10), (true, false));
        assert_eq!(look(silent(), 20), (true, true));
        assert_eq!(look(silent(), 39), (true, true));
        assert_eq!(look(silent(), 40), (false, true));
        assert_eq!(look(here(), 41), (true, false));
    }

    #[test]
    fn a_disk_whose_size_breathes_does_not_change_the_node() {
        let sized = |bytes| {
            let mut seen = seen();
            seen.load.disk = Some(Disk {
                bytes,
                ..Disk::default()
            });
            seen
        };
        let mut watch = Watch::default();
        let (mut first, mut later) = (sized(1000), sized(990));
        watch.settle(&mut first);
        watch.settle(&mut later);
        assert_eq!(first, later);
    }

    /// Keeps what it was given; refuses the first so many.
    struct Desk {
        refusals: parking_lot::Mutex<usize>,
        taken: tokio::sync::mpsc::Sender<Node>,
    }

    impl NodeSink for Desk {
        fn node_status<'a>(&'a self, document: &'a Node) -> BoxFuture<'a, Result<(), SinkError>> {
            Box::pin(async move {
                let refused = {
                    let mut refusals = self.refusals.lock();
                    let refused = *refusals > 0;
                    *refusals = refusals.saturating_sub(1);
                    refused
                };
                if refused {
                    return Err("the disk is full".into());
                }
                Ok(self.taken.send(document.clone()).await?)
            })
        }
    }

    fn ready(node: &Node) -> (String, String) {
        let conditions = node.status.as_ref().unwrap().conditions.as_ref().unwrap();
        let ready = conditions.iter().find(|one| one.type_ == "Ready").unwrap();
        assert!(ready.last_heartbeat_time.is_some());
        (ready.status.clone(), ready.message.clone().unwrap_or_default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_goes_and_comes_back_is_told_both_times() {
        let runtime = crate::runtime::fake::FakeRuntime::with_images(&["busybox"]);
        let (taken, mut documents) = tokio::sync::mpsc::channel(8);
        let (shown, _) = tokio::sync::watch::channel(None);
        let host_ip = HostIp::default();
        let reporter = NodeReporter {
            identity: Identity {
                name: "pump-7".to_owned(),
                ..Identity::default()
            },
            runtime: Arc::new(runtime.clone()),
            sink: Arc::new(Desk {
                refusals: parking_lot::Mutex::new(2),
                taken,
            }),
            clock: protocol::clock::Clock::system(),
            pods_dir: PathBuf::from("/"),
            // The way to the loopback is there on every machine.
            peers: Box::new(|| Peers {
                configured: Some(IpAddr::from([127, 0, 0, 1])),
                connected: None,
            }),
            abilities: Abilities::default(),
            host_ip: host_ip.clone(),
            thresholds: Thresholds::default(),
            pressures: Pressures::default(),
            shown,
        };
        let (stop, mut tasks) = (CancellationToken::new(), tokio::task::JoinSet::new());
        tasks.spawn(reporter.run(stop.clone()));

        assert_eq!(ready(&documents.recv().await.unwrap()).0, "True");
        assert_eq!(
            host_ip.last(),
            Some(IpAddr::from([127, 0, 0, 1])),
            "pods hear of it"
        );
        runtime.set_down(true);
        let silent = Instant::now();
        let (status, message) = ready(&documents.recv().await.unwrap());
        assert!(silent.elapsed() + EVERY > DOWN_AFTER);
        assert_eq!(status, "False");
        assert!(message.starts_with("[container runtime is down, "), "{message}");
        runtime.set_down(false);
        let before = Instant::now();
        assert_eq!(ready(&documents.recv().await.unwrap()).0, "True");
        let waited = before.elapsed();
        assert!(
            waited <= Duration::from_secs(2),
            "a node that is not ready looks every second: {waited:?}"
        );
        stop.cancel();
        tasks.join_next().await.unwrap().unwrap();
    }
}
