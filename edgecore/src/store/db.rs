//! The handle to a store: one writer thread, a bounded queue, group commit.
//!
//! Commits that arrive while another one is on its way to the disk are merged, in order, into the next;
//! a flash card pays once for all of them. A failure of the disk ends the writer for good: everything that
//! comes later is answered [`StoreError::Stopped`], and [`Db::watch`] tells the supervisor, because the only
//! honest way on is to open the store again from what the disk really has.
//!
//! **Invariant:** `commit` returns `Ok` only for a batch that is durable.

use super::{Batch, MAX_BATCH_BYTES, MAX_OPS, MemoryStore, Store, StoreError, Table};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{sync::Arc, thread, time::Duration};
use thiserror::Error;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};

/// Requests that may wait; who comes later waits with them.
const QUEUE: usize = 64;
/// A commit that takes longer than this hangs.
const STUCK_AFTER: Duration = Duration::from_secs(30);
/// How often the watchdog looks.
const WATCH_EVERY: Duration = Duration::from_secs(5);
/// Rows read at a time.
const SCAN_CHUNK: usize = 256;

/// A cloneable handle to one store.
#[derive(Clone, Debug)]
pub struct Db(Backend);

#[derive(Clone, Debug)]
enum Backend {
    Writer {
        queue: mpsc::Sender<Request>,
        busy_since: Arc<Mutex<Option<Instant>>>,
    },
    /// No thread, so that tests may pause the clock.
    Memory(Arc<Mutex<MemoryStore>>),
}

#[derive(Debug)]
enum Request {
    Commit(Pending),
    Get(Table, String, Reply<Option<Bytes>>),
    Scan(Table, Reply<Vec<(String, Bytes)>>),
}

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

#[derive(Debug)]
struct Pending {
    batch: Batch,
    done: Reply<()>,
}

/// The store's writer has ended; the node must restart to open the store again.
#[derive(Debug, Error)]
pub enum WriterEnded {
    /// A commit has taken so long that it will never end.
    #[error("a commit of the store has hung for {after:?}; edgecore restarts to open it again")]
    Stuck {
        /// How long it has taken so far.
        after: Duration,
    },
    /// The writer stopped after a failure that is in the log.
    #[error("the store's writer has stopped after a failure; edgecore restarts to open it again")]
    Failed,
}

impl Db {
    /// Hands a store to a writer thread of its own.
    pub fn start(name: &str, store: impl Store + 'static) -> std::io::Result<Self> {
        let (queue, requests) = mpsc::channel(QUEUE);
        let busy_since = Arc::new(Mutex::new(None));
        let writer = Writer {
            store,
            requests,
            busy_since: busy_since.clone(),
            held: None,
        };
        thread::Builder::new()
            .name(format!("store-{name}"))
            .spawn(move || writer.run())?;
        Ok(Self(Backend::Writer { queue, busy_since }))
    }

    /// A store that forgets everything with its last handle.
    pub fn in_memory() -> Self {
        Self(Backend::Memory(Arc::default()))
    }

    /// The rows of a store that was read.
    pub(super) fn holding(store: MemoryStore) -> Self {
        Self(Backend::Memory(Arc::new(Mutex::new(store))))
    }

    /// A store in memory whose disk is full while the flag says so.
    #[cfg(test)]
    pub(crate) fn fillable() -> (Self, Arc<std::sync::atomic::AtomicBool>) {
        let full = Arc::default();
        let store = super::memory::Fillable::new(Arc::clone(&full));
        (Self::start("fillable", store).unwrap(), full)
    }

    /// Makes a batch durable.
    ///
    /// # Cancel safety
    ///
    /// A commit whose future is dropped may or may not happen; it never happens half.
    pub async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Writer { queue, .. } => {
                ask(queue, |done| Request::Commit(Pending { batch, done })).await
            }
            Backend::Memory(store) => store.lock().commit(&batch),
        }
    }

    /// The value of a key, from disk. For start-up and rare look-ups.
    pub async fn get(&self, table: Table, key: &str) -> Result<Option<Bytes>, StoreError> {
        match &self.0 {
            Backend::Writer { queue, .. } => {
                ask(queue, |done| Request::Get(table, key.to_owned(), done)).await
            }
            Backend::Memory(store) => store.lock().get(table, key),
        }
    }

    /// Every row of a table in order of its keys, from disk. For start-up.
    pub async fn scan(&self, table: Table) -> Result<Vec<(String, Bytes)>, StoreError> {
        match &self.0 {
            Backend::Writer { queue, .. } => ask(queue, |done| Request::Scan(table, done)).await,
            Backend::Memory(store) => store.lock().scan(table, None, usize::MAX),
        }
    }

    /// Returns when the writer has ended or hangs. A task of the supervisor's.
    pub async fn watch(self) -> WriterEnded {
        let Backend::Writer { queue, busy_since } = self.0 else {
            return std::future::pending().await;
        };
        loop {
            tokio::select! {
                () = queue.closed() => return WriterEnded::Failed,
                () = sleep(WATCH_EVERY) => {}
            }
            let after = busy_since.lock().map_or(Duration::ZERO, |since| since.elapsed());
            if after > STUCK_AFTER {
                return WriterEnded::Stuck { after };
            }
        }
    }
}

async fn ask<T>(
    queue: &mpsc::Sender<Request>,
    request: impl FnOnce(Reply<T>) -> Request,
) -> Result<T, StoreError> {
    let (done, answer) = oneshot::channel();
    queue.send(request(done)).await.map_err(|_| StoreError::Stopped)?;
    answer.await.map_err(|_| StoreError::Stopped)?
}

struct Writer<S> {
    store: S,
    requests: mpsc::Receiver<Request>,
    busy_since: Arc<Mutex<Option<Instant>>>,
    /// A request that was taken from the queue and did not fit into the group.
    held: Option<Request>,
}

impl<S: Store> Writer<S> {
    fn run(mut self) {
        while let Some(request) = self.held.take().or_else(|| self.requests.blocking_recv()) {
            // Nobody who asked is gone for long: an unread answer means a cancelled caller.
            match request {
                Request::Get(table, key, reply) => drop(reply.send(self.store.get(table, &key))),
                Request::Scan(table, reply) => drop(reply.send(scan_all(&self.store, table))),
                Request::Commit(first) => {
                    if let Err(error) = self.commit_group(first) {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "the store's writer stops"
                        );
                        return;
                    }
                }
            }
        }
    }

    /// Commits what waits, as one batch; an error means that the store is broken.
    fn commit_group(&mut self, first: Pending) -> Result<(), StoreError> {
        let Some((batch, waiting)) = self.gather(first) else {
            return Ok(());
        };
        *self.busy_since.lock() = Some(Instant::now());
        let result = self.store.commit(&batch);
        *self.busy_since.lock() = None;
        for done in waiting {
            drop(done.send(result.clone()));
        }
        result.or_else(|error| if error.breaks() { Err(error) } else { Ok(()) })
    }

    /// Merges the commits that wait, as far as the limits allow. A batch over the limits is answered alone.
    fn gather(&mut self, first: Pending) -> Option<(Batch, Vec<Reply<()>>)> {
        let mut group: Option<(Batch, Vec<Reply<()>>)> = None;
        let mut next = Some(first);
        while let Some(Pending { batch, done }) = next {
            if let Err(error) = batch.check() {
                drop(done.send(Err(error)));
            } else if let Some((merged, waiting)) = &mut group {
                if !fits(merged, &batch) {
                    self.held = Some(Request::Commit(Pending { batch, done }));
                    break;
                }
                merged.append(&batch);
                waiting.push(done);
            } else {
                group = Some((batch, vec![done]));
            }
            next = self.next_commit();
        }
        group
    }

    fn next_commit(&mut self) -> Option<Pending> {
        match self.requests.try_recv().ok()? {
            Request::Commit(pending) => Some(pending),
            other @ (Request::Get(..) | Request::Scan(..)) => {
                self.held = Some(other);
                None
            }
        }
    }
}

fn fits(merged: &Batch, batch: &Batch) -> bool {
    merged.len() + batch.len() <= MAX_OPS && merged.weight() + batch.weight() <= MAX_BATCH_BYTES
}

fn scan_all(store: &impl Store, table: Table) -> Result<Vec<(String, Bytes)>, StoreError> {
    let mut rows: Vec<(String, Bytes)> = Vec::new();
    loop {
        let chunk = store.scan(table, rows.last().map(|(key, _)| key.as_str()), SCAN_CHUNK)?;
        let whole = chunk.len() < SCAN_CHUNK;
        rows.extend(chunk);
        if whole {
            return Ok(rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Blocks its first commit until told to go on, and counts.
    struct Slow {
        inner: MemoryStore,
        go: std::sync::mpsc::Receiver<()>,
        commits: Arc<AtomicUsize>,
        fail: bool,
    }

    impl Store for Slow {
        fn get(&self, table: Table, key: &str) -> Result<Option<Bytes>, StoreError> {
            self.inner.get(table, key)
        }
        fn scan(
            &self,
            table: Table,
            after: Option<&str>,
            n: usize,
        ) -> Result<Vec<(String, Bytes)>, StoreError> {
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
    }

    fn slow(fail: bool) -> (Db, std::sync::mpsc::Sender<()>, Arc<AtomicUsize>) {
        let (go, wait) = std::sync::mpsc::channel();
        let commits = Arc::new(AtomicUsize::new(0));
        let store = Slow {
            inner: MemoryStore::new(),
            go: wait,
            commits: commits.clone(),
            fail,
        };
        (Db::start("test", store).unwrap(), go, commits)
    }

    fn one(n: usize) -> Batch {
        Batch::new()
            .put(Table::Meta, "last", n.to_string())
            .put(Table::Meta, format!("{n:02}"), "x")
    }

    #[tokio::test]
    async fn commits_that_wait_share_one_write_and_keep_their_order() {
        let (db, go, commits) = slow(false);
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
        assert!(
            commits.load(Ordering::SeqCst) <= 3,
            "20 commits became few writes"
        );
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
}
