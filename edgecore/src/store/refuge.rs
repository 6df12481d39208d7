//! A disk that became read-only: the node goes on with a copy of its stores in memory.
//!
//! The kernel makes a file system read-only when it does not trust it any more. What lies there can still be
//! read, so that the pods need not be without their agent. What is committed meanwhile survives the agent, and
//! not the power; the log, `edgecore status` and an event of the Node say so.
//!
//! ```text
//! <root> is read-only:       its databases ──copied──► <refuge>, below /run, opened with the ladder
//! a start while it still is:                           <refuge> again: it is the newer one
//! a start when it is not:    <root> ◄──what differs──  <refuge>, which is removed then
//! ```
//!
//! What it does not do: look whether the disk can be written to again while the node runs.
//!
//! **Invariant:** what is called `<refuge>` is a whole copy: it is made and removed under other names.

use super::{
    Batch, Incident, MAX_OPS, MemoryStore, Op, Rung, Store, StoreError, Stores, Table, copy, format,
    look::rows,
    place::{Place, remove_all},
    recovery::{SAYS, tail_of},
    space::Space,
    stores::{HOLDS, open_at},
};
use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    io::ErrorKind,
    os::unix::fs::DirBuilderExt,
    path::Path,
};

/// The largest databases that are copied into memory.
const MOST_BYTES: u64 = 64 * 1024 * 1024;
/// A database is copied once more when it is opened, and grows.
const ROOM: u64 = 4;

/// Opens both databases below `root`; while they cannot be written there, their copy in `refuge`.
pub fn open_stores_or_copy(root: &Path, refuge: &Path) -> Result<Stores, StoreError> {
    let newer = refuge.is_dir();
    let error = match open_at(root, Space::of(root.to_owned()), newer.then_some(refuge)) {
        // What is in the refuge waits there until there is room for it.
        Err(error) if error.is_read_only() || newer && error.is_full() => error,
        opened => {
            let stores = opened?;
            remove(refuge)?;
            return Ok(stores);
        }
    };
    tracing::error!(
        error = &error as &dyn std::error::Error,
        refuge = %refuge.display(),
        "the store cannot be written; the node goes on with a copy in memory"
    );
    if !newer {
        if !root.join(HOLDS).is_dir() {
            return Err(error);
        }
        make(root, refuge)?;
    }
    let mut stores = open_at(refuge, Space::without_ballast(refuge.to_owned()), None)?;
    stores.incidents.push(Incident {
        database: root.display().to_string(),
        rung: Rung::ReadOnly,
        detail: format!(
            "{error}; what changes from now on is lost with the power: see dmesg, make the disk writable, and \
             restart edgecore"
        ),
    });
    Ok(stores)
}

fn make(root: &Path, refuge: &Path) -> Result<(), StoreError> {
    format::check(root)?;
    let making = refuge.with_extension("new");
    remove_all(&making)?;
    // It holds Secrets.
    let made = DirBuilder::new().mode(0o700).recursive(true).create(&making);
    made.map_err(StoreError::io("create", &making))?;
    let bytes = |name: &&str| {
        let log = fs::metadata(tail_of(root, name)).map_or(0, |log| log.len());
        Place::new(root, name).disk_bytes() + log
    };
    let bytes: u64 = [HOLDS, SAYS].iter().map(bytes).sum();
    let free = Space::without_ballast(making.clone()).free();
    if bytes > MOST_BYTES || free.is_some_and(|free| bytes * ROOM > free) {
        let what = "copy the store, whose disk is read-only, to";
        return Err(StoreError::io(what, refuge)(ErrorKind::StorageFull.into()));
    }
    for name in [HOLDS, SAYS] {
        copy::database(root, name, &making)?;
    }
    fs::rename(&making, refuge).map_err(StoreError::io("rename", making))
}

fn remove(refuge: &Path) -> Result<(), StoreError> {
    let gone = refuge.with_extension("gone");
    remove_all(&gone)?;
    match fs::rename(refuge, &gone) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io("rename", refuge)(error)),
        Ok(()) => remove_all(&gone),
    }
}

/// Writes to a database what became of it in the refuge. Cut short, the next start does it again.
pub(super) fn bring_back(refuge: &Path, name: &str, to: &mut impl Store) -> Result<(), StoreError> {
    let newer = match rows(refuge, name) {
        Ok((newer, incidents)) if incidents.iter().all(|incident| incident.rung != Rung::Emptied) => newer,
        Err(error @ StoreError::Newer { .. }) => return Err(error),
        lost => {
            let error = lost.err().unwrap_or(StoreError::Stopped);
            let error = &error as &dyn std::error::Error;
            tracing::error!(
                error,
                name,
                "the copy in memory cannot be read; what is on the disk counts"
            );
            return Ok(());
        }
    };
    let changes = differences(&newer, to)?;
    for some in changes.chunks(MAX_OPS) {
        let mut batch = Batch::new();
        for (table, key, op) in some {
            batch.push(*table, key.clone(), op.clone());
        }
        to.commit(&batch)?;
    }
    let changes = changes.len();
    tracing::warn!(
        name,
        changes,
        "the disk can be written again; it has what was in memory"
    );
    Ok(())
}

/// What makes an older store the newer one: what is there, then what is gone, and how new it is last.
fn differences(newer: &MemoryStore, older: &impl Store) -> Result<Vec<(Table, String, Op)>, StoreError> {
    let mut changes = Vec::new();
    for table in Table::ALL {
        let all = |rows: Vec<_>| rows.into_iter().collect::<BTreeMap<_, _>>();
        let newer = all(newer.scan(table, None, usize::MAX)?);
        let older = all(older.scan(table, None, usize::MAX)?);
        let gone = older.keys().filter(|key| !newer.contains_key(*key));
        changes.extend(gone.map(|key| (table, key.clone(), Op::Delete)));
        let there = newer.iter().filter(|(key, value)| older.get(*key) != Some(value));
        changes.extend(there.map(|(key, value)| (table, key.clone(), Op::Put(value.clone()))));
    }
    changes.sort_by_key(|(table, _, op)| (*table == Table::Fence, matches!(op, Op::Delete)));
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::super::{open, open_stores, suite::Scratch};
    use super::*;

    #[tokio::test]
    async fn a_copy_that_cannot_be_read_takes_nothing_from_the_disk() {
        let (disk, run) = (Scratch::new(), Scratch::new());
        let refuge = run.path().join("store");
        let mut held = open(disk.path(), HOLDS).unwrap();
        let batch = Batch::new().put(Table::Desired, "k", "v");
        held.store.commit(&batch).unwrap();
        drop(held);
        drop(open_stores(disk.path()).unwrap());
        make(disk.path(), &refuge).unwrap();
        fs::write(refuge.join("meta/conf"), "garbage that is no configuration").unwrap();
        let stores = open_stores_or_copy(disk.path(), &refuge).unwrap();
        let rows = stores.meta.scan(Table::Desired).await.unwrap();
        assert_eq!((rows.len(), refuge.exists()), (1, false));
    }

    #[test]
    fn what_says_how_new_a_store_is_comes_last() {
        let put = |rows: &[(Table, &str)]| {
            let mut store = MemoryStore::new();
            for (table, key) in rows {
                store.hold(*table, (*key).to_owned(), "v".into());
            }
            store
        };
        let newer = put(&[
            (Table::Fence, "pods"),
            (Table::Outbox, "new"),
            (Table::Meta, "same"),
        ]);
        let older = put(&[(Table::Desired, "old"), (Table::Meta, "same")]);
        let changes = differences(&newer, &older).unwrap();
        let keys: Vec<_> = changes.iter().map(|(_, key, _)| key.as_str()).collect();
        assert_eq!(keys, ["new", "old", "pods"]);
    }
}
