//! What an uplink learns from the sessions before, from cloudcore, and from the device.

use bytes::Bytes;
use protocol::transport::TransportError;
use protocol::wire::{Reject, RejectCode};

use super::*;
use crate::store::{Batch, MemoryStore, Store, StoreError, Table};

const MINUTE: Duration = Duration::from_mins(1);

impl Replica {
    async fn reject(&mut self, retry_after: Duration) {
        let reject = Reject {
            code: RejectCode::Busy as u32,
            text: "the API server is away".to_owned(),
            retry_after_ms: u64::try_from(retry_after.as_millis()).unwrap(),
            ..Reject::default()
        };
        self.say(session_down::Kind::Reject(reject)).await;
    }

    /// Answers every beat for so long.
    async fn live(&mut self, span: Duration) {
        let began = Instant::now();
        while began.elapsed() < span {
            self.answer().await;
        }
    }
}

impl World {
    /// Moves the link to the connection that was dialled beside a silent one.
    async fn move_to(&mut self, connection: Memory, name: &str) -> Replica {
        self.gate.let_one_in();
        let mut replica = Replica::greeted(connection).await;
        replica.welcome(name, true).await;
        self.connected_to(name).await;
        replica
    }

    fn first(&self) -> Transport {
        self.gate.ways.first()
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_that_are_all_told_the_same_do_not_come_back_in_step() {
    const LATER: Duration = Duration::from_secs(1);
    let mut world = World::new(&["a"]).await;
    let (mut waited, mut told) = (Vec::new(), None);
    for _ in 0..8 {
        let mut replica = world.hello().await;
        waited.extend(told.map(|told: Instant| told.elapsed()));
        replica.reject(LATER).await;
        told = Some(Instant::now());
    }
    assert!(waited.iter().all(|waited| *waited >= LATER), "{waited:?}");
    assert!(waited.iter().any(|one| *one != waited[0]), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn quic_that_greets_and_then_carries_nothing_gives_way() {
    let mut world = World::new(&["a"]).await;
    let mut first = world.session("first").await;
    first.live(MINUTE).await;
    let (_, connection) = world.knock().await;
    assert_eq!(world.first(), Transport::Quic, "that happens");
    let mut second = world.move_to(connection, "second").await;
    second.live(MINUTE).await;
    let (_, connection) = world.knock().await;
    assert_eq!(world.first(), Transport::WebSocket);

    // It carries after all, and goes first again once it has for long.
    let mut third = world.move_to(connection, "third").await;
    third.live(11 * MINUTE).await;
    let _waits = world.knock().await;
    assert_eq!(world.first(), Transport::Quic);
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_quic_swallows_counts_like_a_session() {
    let mut world = World::new(&["a"]).await;
    for _ in 0..2 {
        assert_eq!(world.first(), Transport::Quic);
        let swallowed = world.hello().await;
        swallowed.connection.closed().await;
    }
    let _waits = world.knock().await;
    assert_eq!(world.first(), Transport::WebSocket);
}

#[tokio::test(start_paused = true)]
async fn a_silence_that_passes_is_not_held_against_quic() {
    let mut world = World::new(&["a"]).await;
    let mut first = world.session("first").await;
    for _ in 0..3 {
        let (_, beside) = world.knock().await;
        first.answer().await;
        world.connected_to("first").await;
        drop(beside);
        first.live(MINUTE).await;
    }
    assert_eq!(world.first(), Transport::Quic);
}

#[tokio::test(start_paused = true)]
async fn a_session_asks_at_once_when_the_device_has_slept_or_moved() {
    let mut world = World::new(&["a"]).await;
    let mut first = world.session("first").await;
    first.answer().await;
    sleep(Duration::from_secs(5)).await;
    let asked = Instant::now();
    world.link.nudge();
    first.answer().await;
    assert_eq!(asked.elapsed().as_secs(), 0);
    // And then no more often than before.
    first.answer().await;
    assert_eq!(asked.elapsed().as_secs(), KEEPALIVE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn without_a_session_the_next_dial_comes_at_once_unless_cloudcore_said_when() {
    const LATER: Duration = Duration::from_mins(1);
    let mut world = World::new(&["a"]).await;
    let began = Instant::now();
    for _ in 0..20 {
        world.gate.faults.lock().push_back(TransportError::Reset);
        let _refused = world.knock().await;
        world.gate.let_one_in();
        let mut state = world.link.watch();
        state.changed().await.unwrap();
        world.link.nudge();
    }
    assert_eq!(began.elapsed().as_secs(), 0);
    let mut replica = world.hello().await;
    let mut state = world.link.watch();
    let told = Instant::now();
    replica.reject(LATER).await;
    state.changed().await.unwrap();
    world.link.nudge();
    let _waits = world.knock().await;
    assert!(told.elapsed() >= LATER, "{:?}", told.elapsed());
}

/// A disk on which no write ends before the test does.
struct Stuck(MemoryStore, std::sync::mpsc::Receiver<()>);

impl Store for Stuck {
    fn get(&self, table: Table, key: &str) -> Result<Option<Bytes>, StoreError> {
        self.0.get(table, key)
    }

    fn scan(&self, table: Table, after: Option<&str>, n: usize) -> Result<Vec<(String, Bytes)>, StoreError> {
        self.0.scan(table, after, n)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.1.recv().ok();
        self.0.commit(batch)
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_takes_no_write_holds_up_neither_hello_nor_beats() {
    let (until, wait) = std::sync::mpsc::channel();
    let meta = Db::start("stuck", Stuck(MemoryStore::new(), wait)).unwrap();
    let mut world = World::on(meta, &["a"], Duration::from_hours(24 * 1000)).await;
    let mut first = world.session("first").await;
    timeout(MINUTE, world.connected_to("first")).await.unwrap();
    for day in 1..5 {
        first.answer_at(next_year() + day * 86_400_000).await;
    }
    first.answer().await;
    assert!(!first.connection.is_closed() && world.link.watch().borrow().is_connected());
    drop(until);
}
