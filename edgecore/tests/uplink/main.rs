//! The uplink against a listener over the loopback, with the cores of the protocol as the cloud.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;
mod events;
mod pki;
mod relay;
mod renewal;
mod replica;
mod ways;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use edgecore::config::{Address, Proxy};
use edgecore::identity::Identity;
use edgecore::pods::manager::Progress;
use edgecore::pods::seams::PodSource as _;
use edgecore::reported::Reporter;
use edgecore::state::Desired;
use edgecore::store::Db;
use edgecore::uplink::{DesiredFlow, Dialer, Link, LinkState, ServerTime, Uplink};
use protocol::clock::Clock;
use protocol::reported::OutboxKey;
use protocol::tls::Credentials;
use protocol::wire::{Superseded, Welcome, session_down};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use cluster::{CLUSTER, Cluster, reject, welcome};
use pki::Authority;
use replica::Replica;

/// Nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster, its CA, and one edge that dials the one address.
struct World {
    authority: Authority,
    cluster: Arc<Cluster>,
    address: SocketAddr,
    replica: Option<Replica>,
    edge: Edge,
}

struct Edge {
    meta: Db,
    desired: Desired,
    reporter: Arc<Reporter>,
    link: Link,
    identity: Arc<Identity>,
    _running: JoinSet<()>,
}

impl World {
    async fn new() -> Self {
        let (authority, cluster) = (Authority::new(), Cluster::new());
        let replica = Replica::listen(&authority, &cluster, "127.0.0.1:0".parse().unwrap()).await;
        let address = replica.address;
        Self {
            edge: Edge::start(&authority, address.to_string().parse().unwrap(), None).await,
            authority,
            cluster,
            address,
            replica: Some(replica),
        }
    }

    async fn cut(&mut self) {
        self.replica = None;
        until(self.edge.link.watch(), |state| !state.is_connected()).await;
    }

    async fn come_back(&mut self) {
        self.replica = Some(Replica::listen(&self.authority, &self.cluster, self.address).await);
    }

    async fn pods(&self, count: usize) {
        let desired = &self.edge.desired;
        until(desired.pods_changed(), |_| desired.pods().len() == count).await;
    }

    async fn hellos(&self, count: usize) {
        until(self.cluster.hellos.subscribe(), |hellos| hellos.len() >= count).await;
    }

    /// Waits for the report that the pod says `message`.
    async fn reported(&self, message: &str) {
        let says = |(key, payload): &(OutboxKey, Vec<u8>)| {
            matches!(key, OutboxKey::Pod(_)) && String::from_utf8_lossy(payload).contains(message)
        };
        until(self.cluster.reports.subscribe(), |reports| {
            reports.iter().any(says)
        })
        .await;
    }

    async fn report(&self, message: &str) {
        let pod = self.edge.desired.pods()[0].pod.clone();
        let status = serde_json::from_value(serde_json::json!({ "message": message })).unwrap();
        self.edge.reporter.pod_status(&pod, &status, None).await.unwrap();
    }
}

impl Edge {
    async fn start(authority: &Authority, address: Address, proxy: Option<Proxy>) -> Self {
        Self::start_as(authority.node("edge-1"), authority, address, proxy).await
    }

    async fn start_as(
        node: Credentials,
        authority: &Authority,
        address: Address,
        proxy: Option<Proxy>,
    ) -> Self {
        let link = Link::new(&Clock::system());
        Self::start_with(node, authority, address, proxy, link).await
    }

    async fn start_with(
        node: Credentials,
        authority: &Authority,
        address: Address,
        proxy: Option<Proxy>,
        link: Link,
    ) -> Self {
        let (meta, outbox) = (Db::in_memory(), Db::in_memory());
        let (desired, remembered) = Desired::load(meta.clone()).await.unwrap();
        let reporter = Arc::new(Reporter::load(outbox).await.unwrap());
        let clock = Clock::system();
        let trusted = authority.certificate.clone();
        let identity = Identity::fixed("edge-1".parse().unwrap(), node, trusted, clock.clone()).unwrap();
        let identity = Arc::new(identity);
        let dialer = Dialer::new(Arc::clone(&identity), clock.clone(), proxy);
        let uplink = Uplink {
            addresses: vec![address],
            dialer: Arc::new(dialer),
            server_time: Arc::new(ServerTime::load(meta.clone(), clock.clone()).await),
            clock,
            boot_id: [1; 16],
            desired: DesiredFlow::new(desired.clone(), remembered),
            identity: Arc::clone(&identity),
            reporter: Arc::clone(&reporter),
            progress: Progress::default(),
            link: link.clone(),
        };
        let mut running = JoinSet::new();
        running.spawn(uplink.run(CancellationToken::new()));
        Self {
            meta,
            desired,
            reporter,
            link,
            identity,
            _running: running,
        }
    }
}

async fn until<T>(mut changes: watch::Receiver<T>, holds: impl FnMut(&T) -> bool) {
    let found = timeout(PATIENCE, changes.wait_for(holds)).await;
    assert!(matches!(found, Ok(Ok(_))), "it never came about");
}

fn reason(state: &LinkState) -> &str {
    state.last_error().map_or("", String::as_str)
}

#[tokio::test]
async fn what_the_cluster_wants_arrives_and_is_durable() {
    let world = World::new().await;
    world.cluster.add_pod("a");
    world.pods(1).await;
    let (again, remembered) = Desired::load(world.edge.meta.clone()).await.unwrap();
    assert_eq!(again.pods().len(), 1);
    assert_eq!(remembered.held.len(), 2, "the pod came with what it names");
    assert_eq!(remembered.fences.cluster_id, CLUSTER);
}

#[tokio::test]
async fn a_cut_link_resumes_and_nothing_is_lost_either_way() {
    let mut world = World::new().await;
    world.cluster.add_pod("a");
    world.pods(1).await;
    world.report("before").await;
    world.reported("before").await;

    world.cut().await;
    world.cluster.add_pod("b");
    world.report("while the link was cut").await;
    world.come_back().await;

    world.reported("while the link was cut").await;
    world.pods(2).await;
    let hellos = world.cluster.hellos.borrow().clone();
    assert_eq!(hellos[1].1.cluster_id, CLUSTER);
}

#[tokio::test]
async fn a_node_that_is_told_when_to_come_back_comes_then() {
    const LATER: Duration = Duration::from_millis(1_200);
    let mut world = World::new().await;
    world.hellos(1).await;
    world.cut().await;
    world
        .cluster
        .answer_next_with(reject(u64::try_from(LATER.as_millis()).unwrap()));
    world.come_back().await;
    world.hellos(3).await;
    let hellos = world.cluster.hellos.borrow().clone();
    let waited = hellos[2].0 - hellos[1].0;
    assert!(waited >= LATER && waited < LATER * 5, "{waited:?}");
}

#[tokio::test]
async fn another_cluster_is_refused_and_changes_nothing() {
    let mut world = World::new().await;
    world.cluster.add_pod("a");
    world.pods(1).await;
    world.cut().await;
    for _ in 0..3 {
        world
            .cluster
            .answer_next_with(session_down::Kind::Welcome(welcome("another")));
    }
    world.come_back().await;
    until(world.edge.link.watch(), |state| {
        reason(state).contains("cannot take part")
    })
    .await;
    assert_eq!(world.edge.desired.pods().len(), 1);

    // Its own cluster, at the same address, is welcome again.
    world.cluster.add_pod("b");
    world.pods(2).await;
}

#[tokio::test]
async fn a_superseded_session_ends_and_the_node_comes_back() {
    let world = World::new().await;
    world.cluster.add_pod("a");
    world.pods(1).await;
    let by = "replica-2".to_owned();
    let superseded = session_down::Kind::Superseded(Superseded { by });
    world.replica.as_ref().unwrap().say(superseded);
    world.hellos(2).await;
    world.cluster.add_pod("b");
    world.pods(2).await;
}
