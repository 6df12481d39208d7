//! Looks at the device every ten seconds and reports the node when it changed.
//!
//! The only waiting part of `node`. It decides nothing: `watch.rs` says what to send.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::address::Peers;
use super::conditions::Now;
use super::document::{self, Identity};
use super::host_ip::HostIp;
use super::images::ImagesApart;
use super::pressures::Pressures;
use super::shortage::Policy;
use super::watch::Watch;
use super::{Machine, Observation, address, observe};
use crate::reported::{ReportError, Reporter};
use crate::runtime::{Abilities, Runtime};

/// How long the runtime may take to describe itself before the look counts as missed.
const PATIENCE: Duration = Duration::from_secs(8);

/// An error of whatever takes the documents.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// Where node documents go: the outbox, in the running node.
pub trait NodeSink: Send + Sync + 'static {
    /// Takes the document; returns when it is durable, or kept to be written once there is room.
    fn node_status<'a>(&'a self, document: &'a Node) -> BoxFuture<'a, Result<(), SinkError>>;
}

impl NodeSink for Reporter {
    fn node_status<'a>(&'a self, document: &'a Node) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async {
            match self.node(document).await {
                // The outbox has it, sends it, and writes it with what comes next. Offered anew it would be
                // another document, for its heartbeats are.
                Err(ReportError::Store(error)) if !error.breaks() => {
                    tracing::warn!(%error, "the node document waits in memory");
                    Ok(())
                }
                taken => Ok(taken?),
            }
        })
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
    /// When the node is under pressure.
    pub policy: Policy,
    /// The conditions that were told before a restart.
    pub before: Vec<NodeCondition>,
    /// Where images lie, for whoever measures that.
    pub images: ImagesApart,
    /// The pressures that hold, for whoever admits pods.
    pub pressures: Pressures,
    /// The newest document, for whoever shows the node locally.
    pub shown: tokio::sync::watch::Sender<Option<Node>>,
}

/// Asks where cloudcore is now.
pub type AskPeers = Box<dyn Fn() -> Peers + Send + Sync>;

impl NodeReporter {
    /// Runs until `stop`. A document that the sink did not take is offered again next time.
    pub async fn run(self, stop: CancellationToken) {
        let machine = observe::machine(std::path::Path::new("/"));
        let mut watch = Watch::of(&self.policy, self.pressures.clone(), &self.before);
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
        if runtime.is_ok() {
            self.images.learn(&*self.runtime, &self.pods_dir).await;
        }
        let device_address = address::of_device((self.peers)()).await;
        self.host_ip.learn(device_address);
        Observation {
            machine: machine.clone(),
            load: observe::load(std::path::Path::new("/"), &self.pods_dir, self.images.dir()),
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
    use std::net::IpAddr;

    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::node::watch::{DOWN_AFTER, EVERY};
    use crate::runtime::fake::FakeRuntime;
    use crate::store::{Db, Table};

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

    fn reporter(runtime: &FakeRuntime, sink: Arc<dyn NodeSink>) -> NodeReporter {
        NodeReporter {
            identity: Identity {
                name: "pump-7".to_owned(),
                ..Identity::default()
            },
            runtime: Arc::new(runtime.clone()),
            sink,
            clock: protocol::clock::Clock::system(),
            pods_dir: PathBuf::from("/"),
            // The way to the loopback is there on every machine.
            peers: Box::new(|| Peers {
                configured: Some(IpAddr::from([127, 0, 0, 1])),
                connected: None,
            }),
            abilities: Abilities::default(),
            host_ip: HostIp::default(),
            policy: Policy::default(),
            before: Vec::new(),
            images: ImagesApart::default(),
            pressures: Pressures::default(),
            shown: tokio::sync::watch::channel(None).0,
        }
    }

    #[tokio::test]
    async fn a_full_disk_makes_no_new_report_of_a_node_that_does_not_change() {
        let (db, full) = Db::fillable();
        full.store(true, std::sync::atomic::Ordering::Relaxed);
        let outbox = Arc::new(Reporter::load(db.clone()).await.unwrap());
        let runtime = FakeRuntime::with_images(&["busybox"]);
        let mut reporter = reporter(&runtime, Arc::clone(&outbox) as _);
        let mut watch = Watch::of(&reporter.policy, reporter.pressures.clone(), &[]);
        for look in 0..100 {
            // Each has another heartbeat.
            reporter.clock = protocol::clock::Clock::with_offset(10 * look);
            reporter.once(&Machine::default(), &mut watch).await;
        }
        full.store(false, std::sync::atomic::Ordering::Relaxed);
        outbox.gone(&Pod::default()).await.unwrap();
        let rows = db.scan(Table::Outbox).await.unwrap();
        let last: u64 = rows.last().unwrap().0.parse().unwrap();
        assert!(rows.len() == 2 && last < 10, "{} rows up to {last}", rows.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_goes_and_comes_back_is_told_both_times() {
        let runtime = FakeRuntime::with_images(&["busybox"]);
        let (taken, mut documents) = tokio::sync::mpsc::channel(8);
        let reporter = reporter(
            &runtime,
            Arc::new(Desk {
                refusals: parking_lot::Mutex::new(2),
                taken,
            }),
        );
        let host_ip = reporter.host_ip.clone();
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
