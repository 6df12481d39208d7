//! What an uplink learns from the sessions before, from cloudcore, and from the device.

use bytes::Bytes;
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
