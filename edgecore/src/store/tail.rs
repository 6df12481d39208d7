//! A short log in front of a database, so that a small commit writes little.
//!
//! The engine writes about three times what a batch holds, and content files besides. Devices of a node
//! without a link commit twice a second, nearly the same each time: that would be gigabytes a day. Here a
//! commit is one frame at the end of a file, packed with an earlier frame as dictionary, and one sync. Only
//! the newest of each key goes into the database: when the file has grown, and at the next open.
//!
//! ```text
//! commit ──frame──► <root>/<name>.tail ──newest of each key──► database ──► the file starts again
//! ```
//!
//! A power cut leaves the last frame torn; that one was not acknowledged. A frame that is whole was. Whole frames
//! behind one that is not, with numbers that go on, show that a bad disk damaged what was acknowledged: `read` goes
//! on with them, the file is kept aside, and the cluster is told. Frames with other numbers are of an earlier life
//! of the file, and in the database. Changes of tables that are not known here, made by a newer program, go into
//! the database as they are; at a frame that cannot be understood the store is not opened.
//!
//! What it does not do: read frames whose dictionary is in a damaged one. They are told as missing.
//!
//! **Invariant:** the database and the frames, in order, are what was committed, at every instant.

mod frame;
mod read;

use super::{
    Batch, Incident, MAX_BATCH_BYTES, MAX_OPS, Op, QUARANTINED, Store, StoreError, Table, guarded::bytes_of,
    objects::sync_dir, pulse::Pulse, space::Space, untold,
};
use bytes::Bytes;
use frame::value_of;
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// A file that is larger goes into the database.
const MOST_BYTES: u64 = 4 * 1024 * 1024;
/// So do more keys than this, or more in their values: they are held in memory.
const MOST_KEYS: usize = 4096;
const MOST_HELD: usize = 1536 * 1024;
/// A batch that holds more goes there at once: packing it is worth little.
const MOST_OF_BATCH: usize = 512 * 1024;
/// The changes of a frame that are worth being a dictionary, and how much of them is.
const WORTH: usize = 1024;
const DICTIONARY: usize = 64 * 1024;
/// Fast, and with a dictionary as good as any.
const LEVEL: i32 = 1;

const PLAIN: u8 = 0;
const WITH_DICTIONARY: u8 = 1;

/// A database behind its short log.
pub(super) struct Tail<S> {
    store: S,
    space: Option<Arc<Space>>,
    path: PathBuf,
    file: File,
    len: u64,
    /// So much of the file the disk may still have after a power cut.
    lasting: u64,
    /// The number of the next frame.
    next: u64,
    dictionary: Vec<u8>,
    pending: BTreeMap<(Table, String), Pending>,
    /// The newest change of each key of tables that are not known here. Only reading the file adds some.
    foreign: BTreeMap<Vec<u8>, Op>,
    /// What was damaged when it was opened.
    found: Option<Incident>,
    /// That damage is still in the file.
    is_damaged: bool,
    /// Each commit of the database is a step, and each frame.
    pulse: Pulse,
    broken: bool,
}

/// The newest change of a key.
struct Pending {
    op: Op,
    /// The database has the key.
    is_old: bool,
}

/// Changes on their way into the database, as many at a time as it takes.
struct Put<'a, S> {
    store: &'a mut S,
    pulse: &'a Pulse,
    batch: Batch,
    weight: usize,
}

impl<S: Store> Put<'_, S> {
    /// The batch that has room for one more change.
    fn room(&mut self, key: usize, op: &Op) -> Result<&mut Batch, StoreError> {
        let more = key + value_of(op).map_or(0, Bytes::len);
        let is_over = self.batch.len() == MAX_OPS || self.weight + more > MAX_BATCH_BYTES;
        if is_over && !self.batch.is_empty() {
            self.commit()?;
            (self.batch, self.weight) = (Batch::new(), 0);
        }
        self.weight += more;
        Ok(&mut self.batch)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.pulse.beat();
        self.store.commit(&self.batch)
    }
}

impl<S: Store> Tail<S> {
    /// Puts the log at `path` in front of a database, and what it holds into it.
    pub(super) fn open(path: &Path, store: S, space: Option<Arc<Space>>) -> Result<Self, StoreError> {
        let mut tail = Self {
            store,
            space,
            path: path.to_owned(),
            file: open_file(path)?,
            len: 0,
            lasting: 0,
            // Never the number that frames of an earlier life go on with.
            next: u64::from(rand::random::<u32>()) << 24,
            dictionary: Vec::new(),
            pending: BTreeMap::new(),
            foreign: BTreeMap::new(),
            found: None,
            is_damaged: false,
            pulse: Pulse::default(),
            broken: false,
        };
        tail.read()?;
        if let Some(incident) = &tail.found {
            // Before it is acted on, as all repairs are.
            untold::add(&untold::path(path), std::slice::from_ref(incident));
            tail.is_damaged = true;
        }
        // On a full disk the database stays as it is, and the log in front of it.
        tail.fold_if_there_is_room()?;
        Ok(tail)
    }

    /// What it counts its steps with, for whoever watches the writer.
    pub(super) fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Counts its steps with this one.
    pub(super) fn beating(mut self, pulse: Pulse) -> Self {
        self.pulse = pulse;
        self
    }

    /// What was damaged when it was opened.
    pub(super) fn found(&self) -> Option<Incident> {
        self.found.clone()
    }

    /// The database alone.
    pub(super) fn into_store(self) -> S {
        self.store
    }

    fn pack(&self, raw: &[u8]) -> io::Result<Vec<u8>> {
        let kind = if self.dictionary.is_empty() {
            PLAIN
        } else {
            WITH_DICTIONARY
        };
        let packed = zstd::bulk::Compressor::with_dictionary(LEVEL, &self.dictionary)?.compress(raw)?;
        frame::write(self.next, kind, &packed)
    }

    /// The first frame that is large enough is the dictionary of all that follow.
    fn learn(&mut self, raw: &[u8]) {
        if self.dictionary.is_empty() && raw.len() >= WORTH {
            self.dictionary = raw[..raw.len().min(DICTIONARY)].to_vec();
        }
    }

    /// Takes a batch in, whose frame is on the disk.
    fn take(&mut self, batch: &Batch) {
        for (table, key, op) in batch.ops() {
            let place = (*table, key.clone());
            let is_old = match self.pending.get(&place) {
                Some(before) => before.is_old,
                // One that cannot be read is there as well.
                None => self.store.get(*table, key).map_or(true, |value| value.is_some()),
            };
            // What came and went since the last time need not go through the database.
            if matches!(op, Op::Delete) && !is_old {
                self.pending.remove(&place);
            } else {
                self.pending.insert(
                    place,
                    Pending {
                        op: op.clone(),
                        is_old,
                    },
                );
            }
        }
        self.foreign.extend(batch.foreign().iter().cloned());
    }

    /// Puts what is pending into the database, and begins the file anew.
    fn fold(&mut self) -> Result<(), StoreError> {
        if let Err(error) = self.put_all() {
            // Some of it may be there now.
            for pending in self.pending.values_mut() {
                pending.is_old = true;
            }
            return Err(error);
        }
        self.pending.clear();
        self.foreign.clear();
        self.dictionary = Vec::new();
        self.len = 0;
        self.empty()
    }

    /// Shortens the file for good: what goes past it into the database must not find old frames behind it
    /// at the next open.
    fn empty(&mut self) -> Result<(), StoreError> {
        if self.is_damaged {
            return self.put_aside();
        }
        self.cut(0)?;
        if self.lasting > 0 {
            self.file.sync_all().map_err(StoreError::io("sync", &self.path))?;
            self.lasting = 0;
        }
        Ok(())
    }

    /// Keeps the damaged file for whoever wants to look, and begins another.
    fn put_aside(&mut self) -> Result<(), StoreError> {
        fs::rename(&self.path, aside(&self.path)).map_err(StoreError::io("rename", &self.path))?;
        self.file = open_file(&self.path)?;
        (self.lasting, self.is_damaged) = (0, false);
        Ok(())
    }

    fn put_all(&mut self) -> Result<(), StoreError> {
        let mut put = Put {
            store: &mut self.store,
            pulse: &self.pulse,
            batch: Batch::new(),
            weight: 0,
        };
        for ((table, key), Pending { op, .. }) in &self.pending {
            put.room(key.len(), op)?.push(*table, key.clone(), op.clone());
        }
        for (raw, op) in &self.foreign {
            put.room(raw.len(), op)?.push_foreign(raw.clone(), op.clone());
        }
        put.commit()
    }

    fn fold_if_there_is_room(&mut self) -> Result<(), StoreError> {
        match self.fold() {
            Err(error) if error.is_full() => Ok(()),
            folded => folded,
        }
    }

    fn cut(&self, len: u64) -> Result<(), StoreError> {
        self.file
            .set_len(len)
            .map_err(StoreError::io("shorten", &self.path))
    }

    fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if let Some(space) = &self.space {
            space.check(bytes_of(batch))?;
        }
        let raw = frame::encode(batch);
        let packed = self
            .pack(&raw)
            .map_err(StoreError::io("pack a frame of", &self.path))?;
        if let Err(error) = self.file.write_all_at(&packed, self.len) {
            let error = StoreError::io("write", &self.path)(error);
            let cut = self.cut(self.len);
            return Err(match (&self.space, cut) {
                (Some(space), Ok(())) if error.is_full() => space.full(),
                _ => error,
            });
        }
        self.file
            .sync_data()
            .map_err(StoreError::io("sync", &self.path))?;
        self.len += packed.len() as u64;
        self.lasting = self.len;
        self.next += 1;
        self.learn(&raw);
        Ok(())
    }

    fn commit_checked(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if weight(batch.ops().iter().map(|(_, _, op)| op)) > MOST_OF_BATCH {
            self.fold()?;
            self.pulse.beat();
            return self.store.commit(batch);
        }
        self.write(batch)?;
        self.take(batch);
        let held = weight(self.pending.values().map(|pending| &pending.op));
        if self.len > MOST_BYTES || self.pending.len() > MOST_KEYS || held > MOST_HELD {
            // The batch is durable as it is.
            return self.fold_if_there_is_room();
        }
        Ok(())
    }
}

fn open_file(path: &Path) -> Result<File, StoreError> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let file = options.mode(0o600).open(path);
    let file = file.map_err(StoreError::io("open", path))?;
    path.parent().map_or(Ok(()), sync_dir)?;
    Ok(file)
}

/// Where a damaged log is kept.
pub(super) fn aside(path: &Path) -> PathBuf {
    path.with_extension(format!("tail.{QUARANTINED}"))
}

fn weight<'a>(ops: impl Iterator<Item = &'a Op>) -> usize {
    ops.filter_map(value_of).map(Bytes::len).sum()
}

impl<S: Store> Store for Tail<S> {
    fn get(&self, table: Table, key: &str) -> Result<Option<Bytes>, StoreError> {
        match self.pending.get(&(table, key.to_owned())) {
            Some(pending) => Ok(value_of(&pending.op).cloned()),
            None => self.store.get(table, key),
        }
    }

    fn scan(
        &self,
        table: Table,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Bytes)>, StoreError> {
        let mine = || {
            let mine = self.pending.range((table, String::new())..);
            mine.take_while(|((of, _), _)| *of == table)
                .filter(|((_, key), _)| after.is_none_or(|after| key.as_str() > after))
        };
        // Enough that what is left of them fills the answer, whatever was deleted.
        let rows = self
            .store
            .scan(table, after, limit.saturating_add(mine().count()))?;
        let mut rows: BTreeMap<String, Bytes> = rows.into_iter().collect();
        for ((_, key), pending) in mine() {
            match value_of(&pending.op) {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        Ok(rows.into_iter().take(limit).collect())
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if self.broken {
            return Err(StoreError::Stopped);
        }
        batch.check()?;
        if batch.is_empty() {
            return Ok(());
        }
        let done = self.commit_checked(batch);
        self.broken = done
            .as_ref()
            .is_err_and(|error| error.breaks() && !error.is_full());
        done
    }
}

#[cfg(test)]
mod tests;
