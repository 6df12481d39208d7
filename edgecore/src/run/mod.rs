//! `edgecore run`: puts the parts of the node together and owns them.
//!
//! ```text
//! store ──► Desired ──► pods::Manager ──► runtime
//!   ▲         ▲              │ status
//!   │         │              ▼
//!   └────── Uplink ◄────── Reporter ◄── NodeReporter
//! ```
//!
//! Everything starts from the store: the link comes up beside the pods and nothing waits for it,
//! and the runtime may come as late as it likes.
//!
//! **Invariant:** what this node knows at start is what the store holds; the network adds to it
//! later.

mod address;
mod devices;
mod frozen;
mod network;
mod plugin;
mod pods;
mod repairs;
mod reports;
mod status;
mod whose;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Node;
use protocol::clock::Clock;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cli::Paths;
use crate::cli::control::Control;
use crate::config::{Address, Config};
use crate::devices::{Core, Ground, mqtt};
use crate::identity::Identity;
use crate::node::address::Peers;
use crate::node::host_ip::HostIp;
use crate::node::images::ImagesApart;
use crate::node::pressures::Pressures;
use crate::node::report::{AskPeers, NodeReporter};
use crate::pods::manager::Progress;
use crate::reported::Reporter;
use crate::runtime::{Abilities, Cri, Runtime};
use crate::state::{Desired, Remembered};
use crate::store::{Batch, Db, Op, Stores, Table, open_stores_or_freeze};
use crate::supervise::{BoxError, Cause, Supervisor, Task};
use crate::uplink::{Budgets, DesiredFlow, Dialer, Link, ServerTime, Uplink, follow_address, notice_sleep};

/// How long the tasks get to end; the service manager gives more.
const GRACE: Duration = Duration::from_secs(5);

/// The parts that several tasks share.
struct Parts {
    paths: Paths,
    config: Config,
    clock: Clock,
    identity: Arc<Identity>,
    server_time: Arc<ServerTime>,
    stores: Stores,
    desired: Desired,
    flow: Arc<DesiredFlow>,
    reporter: Arc<Reporter>,
    devices: Arc<Core>,
    mqtt: Arc<mqtt::Counters>,
    runtime: Arc<dyn Runtime>,
    link: Link,
    progress: Progress,
    node: watch::Sender<Option<Node>>,
    abilities: Abilities,
    images: ImagesApart,
    host_ip: HostIp,
    pressures: Pressures,
}

/// Runs the node until a signal, or until it cannot go on.
pub async fn run(paths: Paths, clock: Clock) -> anyhow::Result<()> {
    let config = Config::load(&paths.config())?;
    // Bound first: a second edgecore ends here, before it touches anything.
    let control = Control::bind(&paths.control_socket()).await?;
    let parts = Arc::new(Parts::open(paths, config, clock).await?);
    let uplink = parts.uplink();
    tracing::info!(node = %parts.config.node_name, objects = parts.desired.objects(), "edgecore starts");
    repairs::tell(&parts).await;
    plugin::lead_here(&parts.paths);

    let mut node = Supervisor::new(GRACE);
    let pods = Arc::clone(&parts);
    node.spawn(Task::Pods, |stop| async move { pods::run(&pods, stop).await });
    let (link, meta) = (parts.link.clone(), parts.stores.meta.clone());
    let addresses = parts.host_ip.changes();
    node.spawn(Task::Uplink, |stop| {
        ended(async move {
            tokio::join!(
                link.budgets().keep(&meta, &stop),
                notice_sleep(&link, &stop),
                follow_address(addresses, &link, &stop),
                uplink.run(stop.clone()),
            );
        })
    });
    let reporter = parts.node_reporter();
    node.spawn(Task::Node, |stop| ended(reporter.run(stop)));
    let pod_api = Arc::clone(&parts);
    node.spawn(Task::PodApi, |stop| {
        ended(async move { network::run(&pod_api, stop).await })
    });
    let with_devices = Arc::clone(&parts);
    node.spawn(Task::Devices, |stop| devices::run(with_devices, stop));
    let sources = status::sources(Arc::clone(&parts));
    node.spawn(Task::Control, |stop| ended(control.serve(sources, stop)));
    if parts.stores.frozen().is_some() {
        let frozen = Arc::clone(&parts);
        node.spawn(
            Task::Store,
            |stop| async move { frozen::thaw(&frozen, stop).await },
        );
    }
    for db in [&parts.stores.meta, &parts.stores.outbox] {
        let db = db.clone();
        node.spawn(Task::Store, |stop| watch_store(db, stop));
    }
    let outcome = node.run(asked_to_stop()?).await;
    match outcome.cause {
        Cause::Signal => Ok(()),
        Cause::Lost(task, result) => {
            let error: anyhow::Error = result
                .err()
                .map_or_else(|| anyhow::anyhow!("it ended"), anyhow::Error::from_boxed);
            Err(error.context(format!(
                "the task {task} ended; the node stops, its containers go on"
            )))
        }
        Cause::Panicked(panic) => Err(anyhow::Error::new(panic).context("a task panicked; the node stops")),
    }
}

impl Parts {
    async fn open(paths: Paths, config: Config, clock: Clock) -> anyhow::Result<Self> {
        // Where a read-only disk is copied to be read: in memory as a rule. /tmp may be on a disk; the copy is removed
        // as soon as it is read, and one that a power cut left there is taken for no store.
        let scratch = [paths.run_dir(), std::env::temp_dir()];
        let stores = open_stores_or_freeze(&paths.state_dir(), &scratch);
        let stores = stores.context("the store cannot be opened")?;
        // Before anything looks at the clock: there may be no link for a long time.
        let server_time = ServerTime::load(stores.meta.clone(), clock.clone()).await;
        accept_new_cluster(&paths, &stores).await?;
        let (desired, remembered) = Desired::load(stores.meta.clone()).await?;
        let reporter = Reporter::load(stores.outbox.clone())
            .await
            .context("the outbox cannot be read")?;
        let runtime = Cri::new(&config.runtime_endpoint.to_string())?;
        let budgets = Budgets::load(config.budgets.clone(), &stores.meta, clock.clone()).await;
        let link = Link::within(budgets, &clock);
        let identity = Identity::at_start(config.node_name.clone(), paths.identity(), clock.clone());
        let (reporter, flow) = (Arc::new(reporter), DesiredFlow::new(desired.clone(), remembered));
        let ground = Ground {
            journal_dir: paths.at(&config.devices.journal_dir),
            root: paths.at("/"),
            db: stores.outbox.clone(),
            clock: clock.clone(),
            cluster: Arc::new(devices::Outbox::new(Arc::clone(&reporter), &link)),
            source: Arc::new(devices::Held {
                desired: desired.clone(),
                flow: Arc::clone(&flow),
            }),
        };
        Ok(Self {
            devices: Core::open(ground).await?,
            mqtt: Arc::default(),
            flow,
            desired,
            reporter,
            runtime: Arc::new(runtime),
            link,
            progress: Progress::default(),
            node: watch::channel(None).0,
            abilities: Abilities::default(),
            images: ImagesApart::default(),
            host_ip: HostIp::default(),
            pressures: Pressures::default(),
            paths,
            config,
            clock,
            identity: Arc::new(identity),
            server_time: Arc::new(server_time),
            stores,
        })
    }

    fn uplink(&self) -> Uplink {
        let dialer = Dialer::new(
            Arc::clone(&self.identity),
            self.clock.clone(),
            self.config.proxy.clone(),
        );
        Uplink {
            addresses: self.config.addresses.clone(),
            dialer: Arc::new(dialer),
            clock: self.clock.clone(),
            server_time: Arc::clone(&self.server_time),
            boot_id: rand::random(),
            desired: Arc::clone(&self.flow),
            identity: Arc::clone(&self.identity),
            reporter: Arc::clone(&self.reporter),
            progress: self.progress.clone(),
            link: self.link.clone(),
        }
    }

    fn node_reporter(self: &Arc<Self>) -> NodeReporter {
        NodeReporter {
            identity: self.config.identity(),
            runtime: Arc::clone(&self.runtime),
            sink: Arc::clone(&self.reporter) as _,
            clock: self.clock.clone(),
            pods_dir: self.paths.kubelet_dir(),
            peers: self.peers(),
            abilities: self.abilities.clone(),
            host_ip: self.host_ip.clone(),
            policy: self.config.eviction,
            before: self.reporter.node_conditions(),
            images: self.images.clone(),
            pressures: self.pressures.clone(),
            shown: self.node.clone(),
        }
    }

    /// Where cloudcore is: the first address that is one and not a name, and who is connected.
    fn peers(&self) -> AskPeers {
        let link = self.link.clone();
        let host = |address: &Address| address.host.parse().ok();
        let configured = self.config.addresses.iter().find_map(host);
        Box::new(move || Peers {
            configured,
            connected: link.remote(),
        })
    }
}

/// The operator said that another cluster may take this node: what the old one wanted is
/// forgotten, and its containers end once the new one has spoken.
async fn accept_new_cluster(paths: &Paths, stores: &Stores) -> anyhow::Result<()> {
    let Ok(cluster) = std::fs::read_to_string(paths.replace_cluster()) else {
        return Ok(());
    };
    if stores.frozen().is_some() {
        // What the old one wanted must be forgotten for good, or it comes back with the next start.
        tracing::error!("{}", frozen::WAITS);
        return Ok(());
    }
    let (_, Remembered { fences, .. }) = Desired::load(stores.meta.clone()).await?;
    if !fences.cluster_id.is_empty() && fences.cluster_id != cluster.trim() {
        tracing::warn!(
            old = fences.cluster_id,
            new = cluster.trim(),
            "this node moves to another cluster"
        );
        // The fences last: a power cut in between leaves the old cluster's name, and this is done again.
        forget(
            &stores.outbox,
            &[Table::Outbox, Table::Event, Table::PodState, Table::Device],
        )
        .await?;
        forget(
            &stores.meta,
            &[Table::Token, Table::Absent, Table::Desired, Table::Fence],
        )
        .await?;
    }
    std::fs::remove_file(paths.replace_cluster()).context("the mark of a new cluster stays")
}

async fn forget(db: &Db, tables: &[Table]) -> anyhow::Result<()> {
    for table in tables {
        let rows = db.scan(*table).await.context("the old cluster's objects stay")?;
        for chunk in rows.chunks(256) {
            let mut batch = Batch::new();
            for (key, _) in chunk {
                batch.push(*table, key.clone(), Op::Delete);
            }
            db.commit(batch).await.context("the old cluster's objects stay")?;
        }
    }
    Ok(())
}

async fn watch_store(db: Db, stop: CancellationToken) -> Result<(), BoxError> {
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = db.watch() => Err(ended.into()),
    }
}

fn asked_to_stop() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("signals cannot be caught")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("signals cannot be caught")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// A task that has no way to fail.
async fn ended(task: impl Future<Output = ()>) -> Result<(), BoxError> {
    task.await;
    Ok(())
}
