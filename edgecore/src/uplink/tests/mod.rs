//! When a session is in doubt, and where it goes then. The test is the cloud.

mod hints;
mod memory;
mod race;
mod renewal;
mod reopen;

use std::sync::Arc;
use std::time::Duration;

use protocol::clock::{Clock, build_time, millis};
use protocol::transport::{ByteReader, ByteWriter, Connection as _, Transport};
use protocol::wire::{
    BeatAck, Degraded, FrameReader, FrameWriter, Open, SessionDown, SessionUp, Superseded, Welcome,
    session_down, session_up,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::memory::{Gate, Memory};
use super::beats::LOST_AFTER;
use super::{DesiredFlow, Link, LinkState, ServerTime, Uplink};
use crate::config::Address;
use crate::identity::Identity;
use crate::identity::testing::Pki;
use crate::pods::manager::Progress;
use crate::reported::Reporter;
use crate::state::Desired;
use crate::store::Db;

const NODE: &str = "pump-7";
const KEEPALIVE: Duration = Duration::from_secs(25);

fn next_year() -> u64 {
    millis(build_time()) + 365 * 86_400_000
}

/// An uplink, and the test's hands on what it dials.
struct World {
    meta: Db,
    gate: Arc<Gate>,
    dialled: mpsc::Receiver<(Address, Memory)>,
    link: Link,
    pki: Pki,
    identity: Arc<Identity>,
    reporter: Arc<Reporter>,
    stop: CancellationToken,
    running: JoinSet<()>,
}

/// The cloud's end of one session.
struct Replica {
    connection: Arc<Memory>,
    reader: FrameReader<ByteReader>,
    writer: FrameWriter<ByteWriter>,
    renew_before_ms: u64,
}

impl World {
    async fn new(addresses: &[&str]) -> Self {
        Self::with_certificate(addresses, Duration::from_hours(24 * 1000)).await
    }

    /// The same with a certificate that ends so long from now.
    async fn with_certificate(addresses: &[&str], life: Duration) -> Self {
        Self::on(Db::in_memory(), addresses, life).await
    }

    /// The same with a store of the test's.
    async fn on(meta: Db, addresses: &[&str], life: Duration) -> Self {
        let (gate, dialled) = Gate::new();
        let (desired, remembered) = Desired::load(meta.clone()).await.unwrap();
        let clock = Clock::system();
        let link = Link::new(&clock);
        let (pki, node) = (Pki::new(), NODE.parse().unwrap());
        let credentials = pki.credentials(NODE, clock.now() + life);
        let identity = Identity::fixed(node, credentials, pki.authority(), clock.clone());
        let identity = Arc::new(identity.unwrap());
        let reporter = Arc::new(Reporter::load(Db::in_memory()).await.unwrap());
        let uplink = Uplink {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            dialer: Arc::clone(&gate) as _,
            server_time: Arc::new(ServerTime::load(meta.clone(), clock.clone()).await),
            clock: clock.clone(),
            boot_id: [1; 16],
            desired: DesiredFlow::new(desired, remembered),
            identity: Arc::clone(&identity),
            reporter: Arc::clone(&reporter),
            progress: Progress::default(),
            link: link.clone(),
        };
        let (stop, mut running) = (CancellationToken::new(), JoinSet::new());
        running.spawn(uplink.run(stop.clone()));
        Self {
            meta,
            gate,
            dialled,
            link,
            pki,
            identity,
            reporter,
            stop,
            running,
        }
    }

    /// The next dial, which goes on waiting.
    async fn knock(&mut self) -> (Address, Memory) {
        self.dialled.recv().await.unwrap()
    }

    /// Lets the next dial in, up to its Hello.
    async fn hello(&mut self) -> Replica {
        let (_, connection) = self.knock().await;
        self.gate.let_one_in();
        Replica::greeted(connection).await
    }

    async fn session(&mut self, name: &str) -> Replica {
        let mut replica = self.hello().await;
        replica.welcome(name, true).await;
        replica
    }

    async fn connected_to(&self, name: &str) {
        let at = |state: &LinkState| matches!(state, LinkState::Connected { replica, .. } if replica == name);
        self.link.watch().wait_for(at).await.unwrap();
    }

    /// What a start in 1970 without a link would take for now, once that is so.
    async fn kept_time(&self, is_so: impl Fn(u64) -> bool) {
        for _ in 0..100 {
            let clock = Clock::with_offset(-60 * 365 * 86_400);
            ServerTime::load(self.meta.clone(), clock.clone()).await;
            if is_so(clock.now_millis()) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("it was not kept");
    }
}

impl Replica {
    async fn greeted(connection: Memory) -> Self {
        let (open, stream) = connection.accept().await.unwrap();
        assert_eq!(open, Open::session());
        let mut replica = Self {
            connection: Arc::new(connection),
            reader: FrameReader::new(stream.recv),
            writer: FrameWriter::new(stream.send),
            renew_before_ms: 0,
        };
        assert!(matches!(replica.heard().await, session_up::Kind::Hello(_)));
        replica
    }

    async fn heard(&mut self) -> session_up::Kind {
        let said = self.reader.read::<SessionUp>().await.unwrap();
        said.unwrap().kind.unwrap()
    }

    async fn beat(&mut self) -> u64 {
        match self.heard().await {
            session_up::Kind::Beat(beat) => beat.seq,
            other @ (session_up::Kind::Hello(_)
            | session_up::Kind::Goodbye(_)
            | session_up::Kind::Renew(_)) => {
                panic!("not a beat: {other:?}")
            }
        }
    }

    async fn say(&mut self, kind: session_down::Kind) {
        self.writer
            .write(&SessionDown { kind: Some(kind) })
            .await
            .unwrap();
    }

    async fn welcome(&mut self, replica: &str, api_reachable: bool) {
        let welcome = Welcome {
            version: 1,
            cluster_id: "cluster".to_owned(),
            replica: replica.to_owned(),
            keepalive_ms: u64::try_from(KEEPALIVE.as_millis()).unwrap(),
            api_reachable,
            server_time_ms: next_year(),
            renew_before_ms: self.renew_before_ms,
            ..Welcome::default()
        };
        self.say(session_down::Kind::Welcome(welcome)).await;
    }

    async fn answer(&mut self) {
        self.answer_at(0).await;
    }

    async fn answer_at(&mut self, server_time_ms: u64) {
        let seq = self.beat().await;
        let ack = BeatAck { seq, server_time_ms };
        self.say(session_down::Kind::BeatAck(ack)).await;
    }

    async fn degraded(&mut self) {
        let reason = "the API server does not answer".to_owned();
        self.say(session_down::Kind::Degraded(Degraded { reason })).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_session_is_probed_and_then_another_connection_takes_its_place() {
    let mut world = World::new(&["a"]).await;
    let mut first = world.session("first").await;
    first.answer().await;
    assert_eq!(first.beat().await, 2);
    let asked = Instant::now();
    assert_eq!(first.beat().await, 3);
    assert_eq!(asked.elapsed().as_secs(), 3, "probed");

    let (_, connection) = world.knock().await;
    assert_eq!(asked.elapsed().as_secs(), 6, "dialled beside");
    assert!(!first.connection.is_closed());
    assert!(!world.link.watch().borrow().is_connected());

    world.gate.let_one_in();
    let mut second = Replica::greeted(connection).await;
    assert!(!first.connection.is_closed(), "it may still answer");
    second.welcome("second", true).await;
    world.connected_to("second").await;
    assert!(first.connection.is_closed());
    second.answer().await;
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_that_answers_first_is_kept() {
    let mut world = World::new(&["a"]).await;
    let mut first = world.session("first").await;
    let (_, second) = world.knock().await;
    assert!(!world.link.watch().borrow().is_connected());
    first.answer().await;
    world.connected_to("first").await;
    second.closed().await;
    assert!(!first.connection.is_closed());
    assert!(second.accept().await.is_err(), "it never said Hello");
}

#[tokio::test(start_paused = true)]
async fn a_session_over_websocket_moves_to_quic_when_that_answers() {
    let mut world = World::new(&["a"]).await;
    *world.gate.won.lock() = Transport::WebSocket;
    let mut first = world.session("first").await;
    let began = Instant::now();
    let (_, probe) = loop {
        tokio::select! {
            () = first.answer() => {}
            knock = world.knock() => break knock,
        }
    };
    assert!(
        (90..=150).contains(&began.elapsed().as_secs()),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(probe.transport(), Transport::Quic);
    world.gate.let_one_in();
    let mut second = Replica::greeted(probe).await;
    // What a replica does to the older session.
    first
        .say(session_down::Kind::Superseded(Superseded::default()))
        .await;
    second.welcome("second", true).await;
    world.connected_to("second").await;
    assert!(first.connection.is_closed());
    let over = |state: &LinkState| {
        matches!(
            state,
            LinkState::Connected {
                transport: Transport::Quic,
                ..
            }
        )
    };
    assert!(over(&world.link.watch().borrow()));

    // Over QUIC nothing is probed.
    for _ in 0..20 {
        second.answer().await;
    }
    assert!(world.dialled.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_gets_no_answer_disturbs_no_session() {
    let mut world = World::new(&["a"]).await;
    *world.gate.won.lock() = Transport::WebSocket;
    let mut first = world.session("first").await;
    let mut probes = Vec::new();
    for _ in 0..40 {
        first.answer().await;
        probes.extend(world.dialled.try_recv().ok());
    }
    assert_eq!(probes.len(), 1, "it waits at the gate");
    assert!(!first.connection.is_closed() && world.link.watch().borrow().is_connected());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_nothing_can_replace_ends_by_itself() {
    let mut world = World::new(&["a"]).await;
    let first = world.session("first").await;
    let began = Instant::now();
    let _waits = world.knock().await;
    first.connection.closed().await;
    let took = began.elapsed();
    assert!(took >= LOST_AFTER && took < LOST_AFTER + KEEPALIVE, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_degraded_replica_is_left_for_one_that_reaches_its_api_server() {
    let mut world = World::new(&["a", "b"]).await;
    let mut first = world.session("first").await;
    first.degraded().await;
    let (address, connection) = world.knock().await;
    assert_eq!(address.host, "b");
    world.gate.let_one_in();
    let mut second = Replica::greeted(connection).await;
    second.welcome("second", true).await;
    world.connected_to("second").await;
    assert!(first.connection.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_degraded_replica_is_kept_when_no_other_is_better() {
    let mut world = World::new(&["a"]).await;
    let mut first = world.session("first").await;
    first.degraded().await;
    let mut second = world.hello().await;
    second.welcome("second", false).await;
    second.connection.closed().await;
    for _ in 0..5 {
        first.answer().await;
    }
    assert!(!first.connection.is_closed());
    let now = world.link.watch().borrow().clone();
    assert!(matches!(now, LinkState::Connected { replica, api_reachable: false, .. } if replica == "first"));
}

#[tokio::test(start_paused = true)]
async fn a_degraded_replica_is_left_later_when_the_first_try_reached_no_better_one() {
    let mut world = World::new(&["a"]).await;
    let mut first = world.session("first").await;
    first.degraded().await;
    let began = Instant::now();
    for tries in 1..=6 {
        let mut connection = None;
        for _ in 0..60 {
            first.answer().await;
            connection = world.dialled.try_recv().ok();
            if connection.is_some() {
                break;
            }
        }
        let (_, connection) = connection.expect("it does not look again");
        world.gate.let_one_in();
        let mut other = Replica::greeted(connection).await;
        other.welcome("other", tries == 6).await;
        if tries < 6 {
            other.connection.closed().await;
        } else {
            world.connected_to("other").await;
        }
    }
    let took = began.elapsed().as_secs();
    assert!((200..1_200).contains(&took), "seldom: {took} s");
}

#[tokio::test(start_paused = true)]
async fn the_clouds_time_is_known_after_a_boot_in_1970_without_a_link() {
    let mut world = World::new(&["a"]).await;
    let _first = world.session("first").await;
    world.connected_to("first").await;
    world.kept_time(|told| told >= next_year()).await;
}

#[tokio::test(start_paused = true)]
async fn a_cloudcore_whose_clock_was_far_ahead_locks_the_node_out_of_no_other() {
    let mut world = World::new(&["a"]).await;
    let first = world.session("first").await;
    world.connected_to("first").await;
    world.kept_time(|told| told >= next_year()).await;
    let by = Duration::from_secs(1);
    let ended = protocol::tls::TlsFault::Expired { by };
    world
        .gate
        .faults
        .lock()
        .push_back(protocol::transport::TransportError::Tls(ended));
    world.gate.let_one_in();
    drop(first);
    let _refused = world.knock().await;
    let refused = |state: &LinkState| {
        state
            .last_error()
            .is_some_and(|why| why.contains("certificate ended"))
    };
    world.link.watch().wait_for(refused).await.unwrap();
    world.kept_time(|told| told < next_year()).await;
    world.session("second").await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_says_goodbye() {
    let mut world = World::new(&["a"]).await;
    let mut first = world.session("first").await;
    first.answer().await;
    world.stop.cancel();
    assert!(matches!(first.heard().await, session_up::Kind::Goodbye(_)));
    let ended = timeout(KEEPALIVE, world.running.join_next()).await;
    assert!(ended.unwrap().unwrap().is_ok());
}
