//! What was read of a database, and what changed since, in memory. Pure.
//!
//! **Invariant:** a row is listed as changed exactly while it is not what the disk holds, which the list says too. So
//! it is no longer than both together, whatever came and went.

use super::super::{
    Batch, MAX_BATCH_BYTES, MAX_OPS, MemoryStore, Op, Store, StoreError, Table, pulse::Pulse, recovery::EPOCH,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Rows that are not as on the disk may take so many bytes.
const MOST_BYTES: usize = 32 * 1024 * 1024;
/// A row that grows by no more does not count: a deletion writes how new all is, and must never be refused.
const SMALL_BYTES: usize = 4 * 1024;

type Row = (Table, String);

/// The rows of a database that cannot be written.
pub(super) struct Held {
    rows: MemoryStore,
    changed: BTreeMap<Row, Change>,
    /// Numbers the changes.
    made: u64,
}

/// A row that is not as on the disk.
struct Change {
    /// What is there, if there is something.
    on_disk: Option<Bytes>,
    /// The later of two changes has the higher one.
    number: u64,
}

impl Held {
    pub(super) const fn of(rows: MemoryStore) -> Self {
        Self {
            rows,
            changed: BTreeMap::new(),
            made: 0,
        }
    }

    pub(super) const fn rows(&self) -> &MemoryStore {
        &self.rows
    }

    /// Takes a batch in whole, or says that it may not be answered as if it were kept.
    pub(super) fn take(&mut self, batch: &Batch) -> Result<bool, StoreError> {
        let all = batch.ops().iter();
        let is_too_much = self.adds(batch)? && self.bytes()? > MOST_BYTES;
        if is_too_much || !all.clone().all(|(table, _, _)| is_made_again(*table)) {
            return Ok(false);
        }
        for (table, key, _) in all.clone() {
            self.made += 1;
            let on_disk = self.rows.get(*table, key)?;
            let row = (*table, key.clone());
            let change = self.changed.entry(row).or_insert(Change { on_disk, number: 0 });
            change.number = self.made;
        }
        self.rows.commit(batch)?;
        for (table, key, _) in all {
            let (now, row) = (self.rows.get(*table, key)?, (*table, key.clone()));
            if self.changed.get(&row).is_some_and(|change| change.on_disk == now) {
                self.changed.remove(&row);
            }
        }
        Ok(true)
    }

    /// One of the [batches](Self::batches) is on the disk.
    pub(super) fn wrote(&mut self, batch: &Batch) {
        for (table, key, _) in batch.ops() {
            self.changed.remove(&(*table, key.clone()));
        }
    }

    /// Whether a batch makes a row much larger.
    fn adds(&self, batch: &Batch) -> Result<bool, StoreError> {
        for (table, key, op) in batch.ops() {
            if let Op::Put(value) = op {
                let before = self.rows.get(*table, key)?.map_or(0, |value| value.len());
                if value.len() > before + SMALL_BYTES {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// What is held more than was read. What the disk has of a changed row was in memory before.
    fn bytes(&self) -> Result<usize, StoreError> {
        let mut bytes = 0;
        for (table, key) in self.changed.keys() {
            bytes += key.len() + self.rows.get(*table, key)?.map_or(0, |value| value.len());
        }
        Ok(bytes)
    }

    /// Whether a database is the one that was read, in every row but its epoch: whoever has to repair it makes a new
    /// one, each time. Each table is a step.
    pub(super) fn is_of(&self, disk: &dyn Store, pulse: &Pulse) -> Result<bool, StoreError> {
        for table in Table::ALL {
            pulse.beat();
            let there: BTreeMap<_, _> = disk.scan(table, None, usize::MAX)?.into_iter().collect();
            let here: BTreeMap<_, _> = self.rows.scan(table, None, usize::MAX)?.into_iter().collect();
            let mut keys: BTreeSet<_> = there.keys().chain(here.keys()).collect();
            keys.retain(|key| (table, key.as_str()) != (Table::Meta, EPOCH));
            for key in keys {
                let change = self.changed.get(&(table, key.clone()));
                let expected = change.map_or(here.get(key), |change| change.on_disk.as_ref());
                if there.get(key) != expected {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The changes in the order in which they were made: what says how new the rows are was written last.
    pub(super) fn batches(&self) -> Result<Vec<Batch>, StoreError> {
        let mut changes: Vec<_> = self.changed.iter().collect();
        changes.sort_by_key(|(_, change)| change.number);
        let (mut batches, mut weight) = (vec![Batch::new()], 0);
        for ((table, key), _) in changes {
            let op = self.rows.get(*table, key)?.map_or(Op::Delete, Op::Put);
            let more = Batch::weight(&one(*table, key, &op));
            if let Some(last) = batches.last()
                && (last.len() == MAX_OPS || weight + more > MAX_BATCH_BYTES)
            {
                batches.push(Batch::new());
                weight = 0;
            }
            weight += more;
            if let Some(last) = batches.last_mut() {
                last.push(*table, key.clone(), op);
            }
        }
        batches.retain(|batch| !batch.is_empty());
        Ok(batches)
    }
}

fn one(table: Table, key: &str, op: &Op) -> Batch {
    let mut batch = Batch::new();
    batch.push(table, key.to_owned(), op.clone());
    batch
}

/// Whether what changes a table makes the same change again after a restart, and its answer promises nobody that
/// it is kept. The cluster sends what the node must hold, tokens are asked for, and most single values are measured.
///
/// Two of them are not, and are taken all the same, because edgecore does not start without. `device-versions` reserves
/// numbers above the clock's milliseconds: a node without a clock may use the same ones again, for other values, after
/// a restart. `devices-stopped` says that a run came to its end: the disk has it as it was before, so that a clean stop
/// may be taken for a power cut, or the other way round.
const fn is_made_again(table: Table) -> bool {
    match table {
        Table::Desired | Table::Absent | Table::Fence | Table::Token | Table::Meta => true,
        // Whoever reported forgets it, a device or mapper has its answer, and an image would be free for all.
        Table::Outbox | Table::Event | Table::PodState | Table::Device | Table::Mapper | Table::ImagePull => {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn holding(rows: &[(Table, &str, &str)]) -> MemoryStore {
        let mut store = MemoryStore::new();
        for (table, key, value) in rows {
            store.hold(*table, (*key).to_owned(), value.to_string().into());
        }
        store
    }

    fn all(store: &dyn Store) -> Vec<(Table, String, Bytes)> {
        let rows = |table| store.scan(table, None, usize::MAX).unwrap().into_iter();
        let tables = Table::ALL.into_iter();
        tables
            .flat_map(|table| rows(table).map(move |(key, value)| (table, key, value)))
            .collect()
    }

    #[test]
    fn what_says_how_new_the_rows_are_is_written_last_as_it_was() {
        let mut held = Held::of(MemoryStore::new());
        for key in ["1", "2"] {
            let pod = Batch::new()
                .put(Table::Desired, key, "x")
                .put(Table::Fence, "pods", key);
            assert!(held.take(&pod).unwrap());
        }
        let batches = held.batches().unwrap();
        let keys: Vec<_> = batches[0].ops().iter().map(|(_, key, _)| key.as_str()).collect();
        assert_eq!((batches.len(), keys), (1, vec!["1", "2", "pods"]));
    }

    #[test]
    fn no_more_is_taken_in_than_the_memory_is_for() {
        let mut held = Held::of(MemoryStore::new());
        let large = |key: usize| Batch::new().put(Table::Desired, key.to_string(), vec![0; 4 << 20]);
        let taken = (0..20).take_while(|key| held.take(&large(*key)).unwrap()).count();
        assert_eq!((taken, all(held.rows()).len()), (8, 8));
        assert!(!held.take(&large(8)).unwrap());
        // What is said with it may grow a little, and what is there may change.
        let gone = Batch::new()
            .delete(Table::Desired, "0")
            .put(Table::Fence, "fences", vec![0; SMALL_BYTES]);
        assert!(held.take(&large(1)).unwrap() && held.take(&gone).unwrap());
        assert!(held.take(&large(0)).unwrap() && !held.take(&large(8)).unwrap());
        let grown = Batch::new().put(Table::Fence, "fences", vec![0; 2 * SMALL_BYTES + 1]);
        assert!(!held.take(&grown).unwrap());
    }

    #[test]
    fn what_goes_takes_no_memory_however_large_it_is() {
        let mut read = MemoryStore::new();
        for key in 0..20 {
            read.hold(Table::Desired, key.to_string(), vec![0; 4 << 20].into());
        }
        let mut held = Held::of(read);
        for key in 0..20 {
            let gone = Batch::new().delete(Table::Desired, key.to_string());
            assert!(held.take(&gone).unwrap());
        }
        let comes = Batch::new().put(Table::Desired, "a", vec![0; 30_000]);
        assert!(held.take(&comes).unwrap());
    }

    #[test]
    fn a_new_epoch_makes_no_other_database_and_any_other_value_does() {
        let held = Held::of(holding(&[(Table::Meta, EPOCH, "1"), (Table::Meta, "x", "1")]));
        let is_of = |epoch, x| {
            let rows = [(Table::Meta, EPOCH, epoch), (Table::Meta, "x", x)];
            held.is_of(&holding(&rows), &Pulse::default()).unwrap()
        };
        assert!(is_of("2", "1") && !is_of("1", "2"));
        assert!(
            !held
                .is_of(
                    &holding(&[(Table::Desired, EPOCH, "1"), (Table::Meta, "x", "1")]),
                    &Pulse::default()
                )
                .unwrap()
        );
    }

    #[test]
    fn another_database_is_told_by_any_row() {
        let read = [(Table::Desired, "a", "1"), (Table::Desired, "b", "1")];
        let mut held = Held::of(holding(&read));
        let change = Batch::new()
            .delete(Table::Desired, "a")
            .put(Table::Desired, "c", "2");
        assert!(held.take(&change).unwrap());
        let is_of = |rows: &[(Table, &str, &str)]| held.is_of(&holding(rows), &Pulse::default()).unwrap();
        assert!(is_of(&read));
        assert!(!is_of(&[]));
        assert!(!is_of(&[(Table::Desired, "b", "1"), (Table::Desired, "c", "2")]));
        assert!(!is_of(&[read[0], read[1], (Table::Desired, "c", "2")]));
        assert!(!is_of(&[read[0]]));
        assert!(!is_of(&[read[0], (Table::Desired, "b", "2")]));
        assert!(!is_of(&[(Table::Desired, "a", "3"), read[1]]));
        assert!(!is_of(&[read[0], read[1], (Table::Desired, "c", "1")]));
        assert!(!is_of(&[read[0], read[1], (Table::Outbox, "1", "1")]));
    }

    #[test]
    fn what_came_and_went_leaves_nothing_behind() {
        let mut held = Held::of(holding(&[(Table::Fence, "pods", "0")]));
        for number in 0..1000 {
            let key = number.to_string();
            let comes = Batch::new()
                .put(Table::Desired, key.clone(), "x")
                .put(Table::Fence, "pods", "1");
            assert!(held.take(&comes).unwrap());
            assert_eq!(held.changed.len(), 2);
            let goes = Batch::new()
                .delete(Table::Desired, key)
                .put(Table::Fence, "pods", "0");
            assert!(held.take(&goes).unwrap());
            assert!(held.changed.is_empty());
        }
        // There and gone again within one batch.
        let both = Batch::new()
            .put(Table::Desired, "a", "x")
            .delete(Table::Desired, "a");
        assert!(held.take(&both).unwrap() && held.changed.is_empty());
    }

    proptest! {
        #[test]
        fn the_changes_make_of_what_was_read_what_is_held(
            read in proptest::collection::btree_map("[a-e]", "[a-c]", 0..4),
            changes in proptest::collection::vec(("[a-e]", proptest::option::of("[a-c]")), 0..12),
        ) {
            let rows: Vec<_> = read.iter().map(|(k, v)| (Table::Desired, k.as_str(), v.as_str())).collect();
            let (mut held, mut disk) = (Held::of(holding(&rows)), holding(&rows));
            for (key, value) in changes {
                let op = value.map_or(Op::Delete, |value| Op::Put(value.into()));
                prop_assert!(held.take(&one(Table::Desired, &key, &op)).unwrap());
            }
            let listed = held.batches().unwrap().iter().map(Batch::len).sum::<usize>();
            let row = |store: &dyn Store, key| store.get(Table::Desired, key).unwrap();
            let all_keys = ["a", "b", "c", "d", "e"].into_iter();
            prop_assert_eq!(listed, all_keys.filter(|key| row(&disk, key) != row(held.rows(), key)).count());
            for batch in held.batches().unwrap() {
                prop_assert!(held.is_of(&disk, &Pulse::default()).unwrap());
                disk.commit(&batch).unwrap();
                held.wrote(&batch);
            }
            prop_assert!(held.is_of(&disk, &Pulse::default()).unwrap() && held.changed.is_empty());
            prop_assert_eq!(all(&disk), all(held.rows()));
        }
    }
}
