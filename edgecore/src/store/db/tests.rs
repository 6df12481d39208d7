//! What a writer answers, and when it is given up.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Blocks its first commit until told to go on, and counts.
struct Slow {
    inner: MemoryStore,
    go: std::sync::mpsc::Receiver<()>,
    commits: Arc<AtomicUsize>,
    fail: bool,
    merges: bool,
}

impl Store for Slow {
    fn get(&self, table: Table, key: &str) -> Result<Option<Bytes>, StoreError> {
        self.inner.get(table, key)
    }
    fn scan(&self, table: Table, after: Option<&str>, n: usize) -> Result<Vec<(String, Bytes)>, StoreError> {
        self.inner.scan(table, after, n)
    }
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if self.commits.fetch_add(1, Ordering::SeqCst) == 0 {
            self.go.recv().ok();
        }
        if self.fail {
            return Err(StoreError::io("sync", "/x")(std::io::ErrorKind::Other.into()));
        }
        self.inner.commit(batch)
    }
    fn merges(&self) -> bool {
        self.merges
    }
}

fn slow(fail: bool) -> (Db, std::sync::mpsc::Sender<()>, Arc<AtomicUsize>) {
    slow_that(fail, true)
}

fn slow_that(fail: bool, merges: bool) -> (Db, std::sync::mpsc::Sender<()>, Arc<AtomicUsize>) {
    let (go, wait) = std::sync::mpsc::channel();
    let commits = Arc::new(AtomicUsize::new(0));
    let store = Slow {
        inner: MemoryStore::new(),
        go: wait,
        commits: commits.clone(),
        fail,
        merges,
    };
    (Db::start("test", store).unwrap(), go, commits)
}

fn one(n: usize) -> Batch {
    Batch::new()
        .put(Table::Meta, "last", n.to_string())
        .put(Table::Meta, format!("{n:02}"), "x")
}

#[tokio::test]
async fn commits_that_wait_share_one_write_where_the_store_allows_it_and_keep_their_order() {
    for (merges, writes) in [(true, 1..=3), (false, 20..=20)] {
        let (db, go, commits) = slow_that(false, merges);
        let mut all: Vec<_> = (0..20).map(|n| Box::pin(db.commit(one(n)))).collect();
        // Polled in order, so queued in order; the first one holds the writer.
        for future in &mut all {
            assert!(futures::poll!(future).is_pending());
        }
        go.send(()).unwrap();
        for future in all {
            future.await.unwrap();
        }
        assert_eq!(db.get(Table::Meta, "last").await.unwrap().unwrap(), "19");
        assert_eq!(db.scan(Table::Meta).await.unwrap().len(), 21);
        let seen = commits.load(Ordering::SeqCst);
        assert!(writes.contains(&seen), "20 commits became {seen} writes");
    }
}

#[tokio::test]
async fn a_batch_over_the_limit_is_refused_alone_and_the_store_lives_on() {
    let (db, go, _) = slow(false);
    go.send(()).unwrap();
    let mut huge = Batch::new();
    (0..=MAX_OPS).for_each(|n| huge.push(Table::Meta, n.to_string(), super::super::Op::Delete));
    assert!(matches!(
        db.commit(huge).await,
        Err(StoreError::TooManyOps { ops: 513 })
    ));
    db.commit(one(1)).await.unwrap();
}

#[tokio::test]
async fn a_failed_sync_ends_the_writer_for_good() {
    let (db, go, _) = slow(true);
    go.send(()).unwrap();
    assert!(matches!(db.commit(one(1)).await, Err(StoreError::Io { .. })));
    assert!(matches!(db.commit(one(2)).await, Err(StoreError::Stopped)));
    assert!(matches!(db.watch().await, WriterEnded::Failed));
}

/// Refuses everything, and takes a disk once it is told to.
struct Refusing(Arc<std::sync::atomic::AtomicBool>);

const REFUSED: StoreError = StoreError::ReadOnly {
    path: std::path::PathBuf::new(),
};

impl Store for Refusing {
    fn get(&self, _: Table, _: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(None)
    }
    fn scan(&self, _: Table, _: Option<&str>, _: usize) -> Result<Vec<(String, Bytes)>, StoreError> {
        Ok(Vec::new())
    }
    fn commit(&mut self, _: &Batch) -> Result<(), StoreError> {
        Err(REFUSED)
    }
    fn thaw(&mut self, _: Box<dyn Store>) -> Result<(), StoreError> {
        self.0.load(Ordering::SeqCst).then_some(()).ok_or(REFUSED)
    }
}

#[tokio::test]
async fn a_disk_is_handed_over_alone_and_its_refusal_ends_nothing() {
    let takes = Arc::default();
    let db = Db::start("test", Refusing(Arc::clone(&takes))).unwrap();
    for is_taken in [false, true] {
        takes.store(is_taken, Ordering::SeqCst);
        let commits = || futures::future::join_all((0..10).map(|n| db.commit(one(n))));
        let thaw = db.thaw(Box::new(MemoryStore::new()));
        let (before, thawed, after) = tokio::join!(commits(), thaw, commits());
        assert_eq!(thawed.is_ok(), is_taken);
        for refused in before.into_iter().chain(after) {
            assert!(matches!(refused, Err(StoreError::ReadOnly { .. })));
        }
    }
}

/// Folds for as long as it is told to: each word is one commit of the database.
struct Folding(std::sync::mpsc::Receiver<()>, Pulse);

impl Store for Folding {
    fn get(&self, _: Table, _: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(None)
    }
    fn scan(&self, _: Table, _: Option<&str>, _: usize) -> Result<Vec<(String, Bytes)>, StoreError> {
        Ok(Vec::new())
    }
    fn commit(&mut self, _: &Batch) -> Result<(), StoreError> {
        while self.0.recv().is_ok() {
            self.1.beat();
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_fold_is_no_hang_and_one_commit_of_it_that_never_ends_is() {
    let (word, words) = std::sync::mpsc::channel();
    let pulse = Pulse::default();
    let db = Db::start_with("test", Folding(words, pulse.clone()), pulse.clone()).unwrap();
    let mut commit = Box::pin(db.commit(one(1)));
    assert!(futures::poll!(&mut commit).is_pending());
    let mut watch = Box::pin(db.clone().watch());
    let mut step = None;
    for _ in 0..10 {
        word.send(()).unwrap();
        while pulse.step() == step || pulse.step().is_none() {
            thread::yield_now();
        }
        step = pulse.step();
        tokio::select! {
            ended = &mut watch => panic!("{ended}"),
            () = sleep(STUCK_AFTER / 2) => {}
        }
    }
    assert!(matches!(watch.await, WriterEnded::Stuck { .. }));
}
