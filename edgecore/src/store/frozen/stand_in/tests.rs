//! What becomes of a disk that is handed over.

use super::*;
use crate::store::Op;
use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;

/// A disk that takes so many batches, and meets this error then.
struct Disk {
    rows: Rows,
    takes: usize,
    then: StoreError,
    can_be_read: bool,
}

type Rows = Arc<Mutex<MemoryStore>>;

impl Disk {
    fn rows(&self) -> MutexGuard<'_, MemoryStore> {
        self.rows.lock()
    }
}

impl Store for Disk {
    fn get(&self, table: Table, key: &str) -> Result<Option<Bytes>, StoreError> {
        self.rows().get(table, key)
    }

    fn scan(&self, table: Table, after: Option<&str>, n: usize) -> Result<Vec<(String, Bytes)>, StoreError> {
        if !self.can_be_read {
            return Err(self.then.clone());
        }
        self.rows().scan(table, after, n)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.takes = self.takes.checked_sub(1).ok_or_else(|| self.then.clone())?;
        self.rows().commit(batch)
    }
}

const FULL: StoreError = StoreError::Full {
    path: PathBuf::new(),
    free: 0,
};
const FILLED: StoreError = StoreError::Filled {
    path: PathBuf::new(),
    free: 0,
};

/// More than one batch of changes, taken in.
fn with_changes() -> (StandIn, Pulse) {
    let pulse = Pulse::default();
    let mut stand_in = StandIn::new(PathBuf::new(), MemoryStore::new(), pulse.clone());
    for number in 0..1000 {
        let key = format!("{number:03}");
        stand_in
            .commit(&Batch::new().put(Table::Desired, key, "x"))
            .unwrap();
    }
    (stand_in, pulse)
}

fn count(store: &dyn Store) -> usize {
    store.scan(Table::Desired, None, usize::MAX).unwrap().len()
}

#[test]
fn what_a_disk_took_before_it_was_full_is_known() {
    let (mut stand_in, _) = with_changes();
    let rows = Rows::default();
    let disk = |takes| {
        let rows = Arc::clone(&rows);
        Box::new(Disk {
            rows,
            takes,
            then: FULL,
            can_be_read: true,
        })
    };
    let error = stand_in.thaw(disk(1)).unwrap_err();
    assert!(error.is_full() && !error.breaks(), "{error}");
    assert_eq!((count(&*disk(0)), count(&stand_in)), (512, 1000));
    // Of what is on the disk already, something changes.
    let mut change = Batch::new().put(Table::Desired, "001", "y");
    change.push(Table::Desired, "000".to_owned(), Op::Delete);
    stand_in.commit(&change).unwrap();
    stand_in.thaw(disk(9)).unwrap();
    assert_eq!((count(&*disk(0)), count(&stand_in)), (999, 999));
    assert_eq!(disk(0).get(Table::Desired, "001").unwrap().unwrap(), "y");
}

#[test]
fn a_disk_of_which_nobody_knows_what_it_took_is_opened_anew() {
    let failed = StoreError::io("sync", "/x")(std::io::ErrorKind::Other.into());
    for then in [FILLED, failed] {
        let (mut stand_in, _) = with_changes();
        let disk = Disk {
            rows: Rows::default(),
            takes: 1,
            then,
            can_be_read: true,
        };
        assert!(stand_in.thaw(Box::new(disk)).unwrap_err().breaks());
    }
}

#[test]
fn a_disk_that_cannot_be_read_is_tried_again() {
    let (mut stand_in, _) = with_changes();
    let then = StoreError::io("read", "/x")(std::io::ErrorKind::Other.into());
    let disk = Disk {
        rows: Rows::default(),
        takes: 9,
        then,
        can_be_read: false,
    };
    let error = stand_in.thaw(Box::new(disk)).unwrap_err();
    assert!(error.wrote_nothing() && !error.breaks(), "{error}");
}

#[test]
fn what_may_be_taken_in_shares_nobodys_refusal_until_the_disk_is_there() {
    let (mut stand_in, _) = with_changes();
    assert!(!stand_in.merges());
    stand_in.thaw(Box::new(MemoryStore::new())).unwrap();
    assert!(stand_in.merges());
}

#[test]
fn each_table_that_is_read_and_each_batch_that_is_written_is_a_step() {
    let (mut stand_in, pulse) = with_changes();
    pulse.turn();
    stand_in.thaw(Box::new(MemoryStore::new())).unwrap();
    let steps = Table::ALL.len() as u64 + 2;
    assert_eq!(pulse.step(), Some(1 + 2 * steps));
}
