//! The handle to a store: one writer thread, a bounded queue, group commit.
//!
//! Commits that arrive while another one is on its way to the disk are merged, in order, into the next;
//! a flash card pays once for all of them. A failure of the disk ends the writer for good: everything that
//! comes later is answered [`StoreError::Stopped`], and [`Db::watch`] tells the supervisor, because the only
//! honest way on is to open the store again from what the disk really has.
//!
//! **Invariant:** `commit` returns `Ok` only for a batch that is durable.

use super::{
    Batch, MAX_BATCH_BYTES, MAX_OPS, MemoryStore, Store, StoreError, Table,
    pulse::{Pulse, Watched},
};
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
/// A commit that takes longer than this hangs; of one that is many of the database, each is timed alone.
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
        pulse: Pulse,
    },
    /// No thread, so that tests may pause the clock.
    Memory(Arc<Mutex<MemoryStore>>),
}

enum Request {
    Commit(Pending),
    Thaw(Box<dyn Store>, Reply<()>),
    Get(Table, String, Reply<Option<Bytes>>),
    Scan(Table, Reply<Vec<(String, Bytes)>>),
}

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

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
        /// For how long it was seen.
        after: Duration,
    },
    /// The writer stopped after a failure that is in the log.
    #[error("the store's writer has stopped after a failure; edgecore restarts to open it again")]
    Failed,
}

impl Db {
    /// Hands a store to a writer thread of its own.
    pub fn start(name: &str, store: impl Store + 'static) -> std::io::Result<Self> {
        Self::start_with(name, store, Pulse::default())
    }

    /// The same for a store that says itself when it comes to its next step.
    pub(super) fn start_with(name: &str, store: impl Store + 'static, pulse: Pulse) -> std::io::Result<Self> {
        let (queue, requests) = mpsc::channel(QUEUE);
        let writer = Writer {
            store,
            requests,
            pulse: pulse.clone(),
            held: None,
        };
        thread::Builder::new()
            .name(format!("store-{name}"))
            .spawn(move || writer.run())?;
        Ok(Self(Backend::Writer { queue, pulse }))
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

    /// Hands the disk to a store that [stands in](Store::thaw) for it. Alone: no commit that is refused meanwhile is
    /// part of the answer.
    pub(super) async fn thaw(&self, disk: Box<dyn Store>) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Writer { queue, .. } => ask(queue, |done| Request::Thaw(disk, done)).await,
            Backend::Memory(store) => store.lock().thaw(disk),
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
        let Backend::Writer { queue, pulse } = self.0 else {
            return std::future::pending().await;
        };
        let mut watched = Watched::default();
        loop {
            tokio::select! {
                () = queue.closed() => return WriterEnded::Failed,
                () = sleep(WATCH_EVERY) => {}
            }
            let after = watched.look(pulse.step(), Instant::now());
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
    pulse: Pulse,
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
                Request::Thaw(disk, reply) => {
                    if !self.work(vec![reply], |store| store.thaw(disk)) {
                        return;
                    }
                }
                Request::Commit(first) => {
                    let group = self.gather(first);
                    if group.is_some_and(|(batch, waiting)| !self.work(waiting, |store| store.commit(&batch)))
                    {
                        return;
                    }
                }
            }
        }
    }

    /// Does what may take long, and answers; whether the store can be used after it.
    fn work(&mut self, waiting: Vec<Reply<()>>, work: impl FnOnce(&mut S) -> Result<(), StoreError>) -> bool {
        self.pulse.turn();
        let result = work(&mut self.store);
        self.pulse.turn();
        for done in waiting {
            drop(done.send(result.clone()));
        }
        match result {
            Err(error) if error.breaks() => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the store's writer stops");
                false
            }
            _ => true,
        }
    }

    /// Merges the commits that wait, as far as the limits and the store allow. A batch over the limits is answered alone.
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
            next = if self.store.merges() {
                self.next_commit()
            } else {
                None
            };
        }
        group
    }

    fn next_commit(&mut self) -> Option<Pending> {
        match self.requests.try_recv().ok()? {
            Request::Commit(pending) => Some(pending),
            other @ (Request::Get(..) | Request::Scan(..) | Request::Thaw(..)) => {
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
mod tests;
