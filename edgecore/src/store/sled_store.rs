//! sled 0.34.7, used by the one recipe that kept every acknowledged write.
//!
//! sled's own `flush` does not reach the platter: no fsync, and no flush of the device's cache. What does:
//! `apply_batch` on a single tree, `flush`, then `fdatasync` of a descriptor of our own on the same file,
//! after every batch. An unflushed pile of batches can deadlock sled, so there is never one; its background
//! flusher, which syncs an idle disk twice a second, is off. Large values would become unsynced blobs, so
//! they go to [content files](super::objects) first. Each batch also writes the [ledger](super::ledger).
//!
//! What it does not do: several trees (their transaction was not crash-tested), or syncing again after a
//! failed sync: the kernel may have dropped the pages that could not be written, so the store breaks.

mod files;
mod repair;

use super::{
    Batch, INLINE_LIMIT, MAX_BATCH_BYTES, Op, Store, StoreError, Table,
    envelope::{Content, Whole, fingerprint, raw_key, seal, unseal},
    ledger::{LEDGER_KEY, Ledger, Mark},
    objects::{Objects, sync_dir},
};
use bytes::Bytes;
pub(super) use files::check_engine;
#[cfg(test)]
pub(super) use files::remove_matching;
use files::{make_durable, open_engine, remove_generating};
use repair::Mending;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

/// A page table and the hot leaves fit; the edge reads from memory, not from here. What it may hold it holds in
/// the end: with twice as much an agent grows by a megabyte over a thousand pods that come and go.
const CACHE_BYTES: u64 = 2 * 1024 * 1024;

/// The file that says that nothing was written since the last open.
const SETTLED: &str = "settled";

/// A store on disk.
pub struct SledStore {
    path: PathBuf,
    db: sled::Db,
    /// Our own descriptor on sled's file, for the sync that sled leaves out.
    file: File,
    objects: Objects,
    ledger: Ledger,
    mark: Mark,
    /// Whether the disk says that nothing was written since the open.
    settled: bool,
    broken: bool,
    /// What reading everything has shown, and is not done yet.
    mending: Option<Mending>,
}

impl std::fmt::Debug for SledStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SledStore")
            .field("path", &self.path)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

/// A key whose value was not believed at load, and why; it is gone from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Table and key as written on disk.
    pub key: String,
    /// What did not fit.
    pub why: String,
}

/// What reading everything has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Rows that are gone, once the store is mended.
    pub damage: Vec<Damage>,
    /// Why the rows that are left may not be the newest.
    pub doubt: Option<String>,
    /// Bytes of keys and values in the log that count.
    pub live: u64,
    /// Rows of tables that only a newer program knows; they are kept.
    pub foreign: u64,
    /// A row that this program needs and only a newer one can read; it is kept too.
    pub newer: Option<String>,
}

/// Rows as they lie in the log.
pub(super) type RawRows = BTreeMap<Vec<u8>, Vec<u8>>;

impl SledStore {
    /// Opens the database in `path` with its large values in `objects`, and reads everything once: values
    /// whose digest does not fit are dropped and named in the result.
    ///
    /// The engine may panic on a damaged file: [`open`](super::open) is the ladder around this.
    pub fn open(path: &Path, objects: &Path) -> Result<(Self, Findings), StoreError> {
        let mut store = Self::open_unread(path, objects)?;
        let findings = store.read_all()?;
        store.mend()?;
        store.settle()?;
        store.check_version(&findings)?;
        Ok((store, findings))
    }

    /// Whether the database was not written to since it was last opened.
    pub(super) fn is_settled(path: &Path) -> bool {
        path.join(SETTLED).exists()
    }

    /// Makes durable what the engine did while it opened.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let log = self.path.join("db");
        self.file.sync_all().map_err(StoreError::io("sync", &log))?;
        make_durable(&self.path)
    }

    /// The database's directory has this name now.
    pub(super) fn moved_to(&mut self, path: &Path) {
        path.clone_into(&mut self.path);
    }

    /// Ends the open: all of it is durable, and what no key names is swept.
    pub(super) fn settle(&mut self) -> Result<(), StoreError> {
        self.objects.sweep();
        self.sync()?;
        if !self.settled {
            let path = self.path.join(SETTLED);
            File::create(&path).map_err(StoreError::io("create", &path))?;
            self.settled = true;
        }
        Ok(())
    }

    /// Says on the disk that what follows was written after the open.
    fn unsettle(&mut self) -> Result<(), StoreError> {
        if self.settled {
            let path = self.path.join(SETTLED);
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
            sync_dir(&self.path)?;
            self.settled = false;
        }
        Ok(())
    }

    /// Opens the database and believes it.
    pub(super) fn open_unread(path: &Path, objects: &Path) -> Result<Self, StoreError> {
        remove_generating(path)?;
        let db = open_engine(path)?;
        make_durable(path)?;
        let log = path.join("db");
        Ok(Self {
            path: path.to_owned(),
            db,
            file: File::open(&log).map_err(StoreError::io("open", &log))?,
            objects: Objects::open(objects.to_owned())?,
            ledger: Ledger::new(0),
            mark: Mark::open(path)?,
            settled: Self::is_settled(path),
            broken: false,
            mending: None,
        })
    }

    /// The sum of all rows.
    pub(super) const fn sum(&self) -> u128 {
        self.ledger.sum
    }

    fn value(&self, table: Table, key: &str, sealed: &[u8]) -> Result<Bytes, StoreError> {
        let damaged = |why| StoreError::Damaged {
            table,
            key: key.to_owned(),
            why,
        };
        match unseal(&raw_key(table, key), sealed).map_err(damaged)? {
            Whole::Known(Content::Inline(value)) => Ok(value),
            Whole::Known(Content::File { hash, .. }) => self
                .objects
                .read(&hash)
                .ok_or_else(|| damaged("its content file is missing or damaged")),
            Whole::Later(_) => Err(damaged("it is of a later version")),
        }
    }

    /// Whether this program can read all that it needs.
    pub(super) fn check_version(&self, findings: &Findings) -> Result<(), StoreError> {
        findings.newer.clone().map_or(Ok(()), |what| {
            let path = self.path.clone();
            Err(StoreError::Newer { path, what })
        })
    }

    /// The recipe: one batch with its ledger, one flush, one sync.
    fn apply(&mut self, mut batch: sled::Batch, ledger: Ledger) -> Result<(), StoreError> {
        self.broken = true; // Until all of it has succeeded.
        self.unsettle()?;
        batch.insert(LEDGER_KEY, ledger.encode());
        self.db
            .apply_batch(batch)
            .map_err(|source| engine(&self.path, source))?;
        self.db.flush().map_err(|source| engine(&self.path, source))?;
        self.file
            .sync_data()
            .map_err(StoreError::io("sync", self.path.join("db")))?;
        self.broken = false;
        self.ledger = ledger;
        self.mark.keep(ledger);
        Ok(())
    }

    /// A row as it lies in the log.
    #[cfg(test)]
    pub(super) fn row(&self, raw: &[u8]) -> Option<Vec<u8>> {
        self.db.get(raw).unwrap().map(|sealed| sealed.to_vec())
    }

    /// Writes a row as another program may have written it.
    #[cfg(test)]
    pub(super) fn put_row(&mut self, raw: &[u8], sealed: &[u8]) {
        let mut batch = sled::Batch::default();
        batch.insert(raw, sealed);
        self.apply(batch, self.ledger.after(0, fingerprint(sealed)))
            .unwrap();
    }

    /// Puts large values into files and says what the log shall hold, by key on disk.
    fn prepare(&self, batch: &Batch) -> Result<BTreeMap<Vec<u8>, Option<Content>>, StoreError> {
        let known = batch.ops().iter();
        let known = known.map(|(table, key, op)| (raw_key(*table, key), op));
        let foreign = batch.foreign().iter().map(|(raw, op)| (raw.clone(), op));
        let last: BTreeMap<_, _> = known.chain(foreign).collect();
        let threshold = inline_threshold(&last.values().copied());
        let mut prepared = BTreeMap::new();
        for (raw, op) in last {
            let content = match op {
                Op::Delete => None,
                Op::Put(value) if value.len() <= threshold => Some(Content::Inline(value.clone())),
                Op::Put(value) => Some(Content::File {
                    hash: self.objects.write(value)?,
                    len: value.len(),
                }),
            };
            prepared.insert(raw, content);
        }
        Ok(prepared)
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        if !self.broken && self.ledger.is_begun() {
            self.mark.write(self.ledger);
        }
    }
}

impl Store for SledStore {
    fn get(&self, table: Table, key: &str) -> Result<Option<Bytes>, StoreError> {
        let sealed = self
            .db
            .get(raw_key(table, key))
            .map_err(|source| engine(&self.path, source))?;
        sealed.map(|sealed| self.value(table, key, &sealed)).transpose()
    }

    fn scan(
        &self,
        table: Table,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Bytes)>, StoreError> {
        let prefix = raw_key(table, "");
        let mut from = raw_key(table, after.unwrap_or_default());
        if after.is_some() {
            from.push(0); // The first key behind `after`.
        }
        let mut rows = Vec::new();
        for row in self.db.range(from..) {
            let (raw, sealed) = row.map_err(|source| engine(&self.path, source))?;
            if rows.len() == limit || !raw.starts_with(&prefix) {
                break;
            }
            let key = String::from_utf8_lossy(&raw[prefix.len()..]).into_owned();
            let value = self.value(table, &key, &sealed)?;
            rows.push((key, value));
        }
        Ok(rows)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if self.broken {
            return Err(StoreError::Stopped);
        }
        batch.check()?;
        if batch.is_empty() {
            return Ok(());
        }
        self.mend()?;
        let prepared = self.prepare(batch).inspect_err(|_| self.broken = true)?;
        let (mut released, mut rows) = (Vec::new(), sled::Batch::default());
        let (mut old, mut new) = (0_u128, 0_u128);
        for (raw, content) in &prepared {
            let before = self.db.get(raw).map_err(|source| engine(&self.path, source))?;
            if let Some(sealed) = before {
                old = old.wrapping_add(fingerprint(&sealed));
                released.extend(unseal(raw, &sealed).ok().and_then(|whole| whole.names()));
            }
            if let Some(content) = content {
                let sealed = seal(raw, content);
                new = new.wrapping_add(fingerprint(&sealed));
                rows.insert(raw.as_slice(), sealed);
            } else {
                rows.remove(raw.as_slice());
            }
        }
        self.apply(rows, self.ledger.after(old, new))?;
        for content in prepared.into_values().flatten() {
            if let Content::File { hash, .. } = content {
                self.objects.name(hash);
            }
        }
        for hash in released {
            self.objects.release(hash);
        }
        if self.objects.sweep_is_due() {
            self.objects.sweep();
        }
        Ok(())
    }
}

/// The largest value that stays in the log, so that the whole batch does not outgrow its limit.
fn inline_threshold<'a>(ops: &(impl Iterator<Item = &'a Op> + Clone)) -> usize {
    let mut threshold = INLINE_LIMIT;
    let inline = |limit: usize| -> usize {
        let sizes = ops
            .clone()
            .map(|op| if let Op::Put(value) = op { value.len() } else { 0 });
        sizes.filter(|len| *len <= limit).sum()
    };
    while threshold > 256 && inline(threshold) > MAX_BATCH_BYTES {
        threshold /= 2;
    }
    threshold
}

fn engine(path: &Path, source: sled::Error) -> StoreError {
    StoreError::Engine {
        path: path.to_owned(),
        source: Arc::new(source),
    }
}
