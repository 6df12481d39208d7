//! Changes of the outbox on their way to flash. Pure.
//!
//! Each status that replaces one is two changes: its entry is written, and the older one deleted. While the
//! disk takes nothing, both are left out once neither matters, so that a full disk does not fill the memory.
//! What is left then goes to flash in this order: the reservation of numbers, what is written, what is deleted.
//! So a power cut between two commits never leaves neither of an entry and the one that it replaces.
//!
//! **Invariant:** the deletion of an entry is left out only when it is sure that the entry never was on flash:
//! one that stayed there would be sent after the next start, and the cluster would go back to it.

use std::collections::BTreeSet;

use crate::store::{Batch, Op, StoreError, Table};

/// The row of [`Table::Meta`] with the end of the reserved numbers.
pub(super) const RESERVED: &str = "outbox-reserved";

/// A row of the store.
type Place = (Table, String);

/// Changes that are not on flash, in their order.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    changes: Vec<(Place, Op)>,
    /// So many of the first are in a commit that has not answered.
    offered: usize,
    /// Entries that a commit without a clear answer may have put on flash.
    doubtful: BTreeSet<Place>,
    /// Other rows of which it is sure that flash has none.
    new: BTreeSet<Place>,
}

impl Unwritten {
    pub(super) fn push(&mut self, table: Table, key: String, op: Op) {
        self.changes.push(((table, key), op));
    }

    /// The same for a row that flash does not have, unless a change of it waits here.
    pub(super) fn push_new(&mut self, table: Table, key: String, op: Op) {
        let place = (table, key);
        if !self.changes.iter().any(|(other, _)| *other == place) {
            self.new.insert(place.clone());
        }
        self.changes.push((place, op));
    }

    pub(super) const fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether numbers are about to be used whose reservation is not on flash yet.
    pub(super) fn reserves(&self) -> bool {
        self.changes.iter().any(|(place, _)| is_reservation(place))
    }

    /// The first changes, for a commit.
    pub(super) fn offer(&mut self, most: usize) -> Batch {
        // Whoever waited for the last commit was dropped: nobody knows what became of it.
        self.doubt();
        let mut batch = Batch::new();
        // They stay until they are durable: whoever waits for them must not find them gone.
        for ((table, key), op) in self.changes.iter().take(most) {
            batch.push(*table, key.clone(), op.clone());
        }
        self.offered = batch.len();
        batch
    }

    /// What was offered is on flash.
    pub(super) fn written(&mut self) {
        for (place, _) in self.changes.drain(..std::mem::take(&mut self.offered)) {
            self.doubtful.remove(&place);
            self.new.remove(&place);
        }
    }

    /// What was offered is not on flash, or may be.
    pub(super) fn refused(&mut self, error: &StoreError) {
        if error.wrote_nothing() {
            self.offered = 0;
        }
        self.doubt();
        self.compact();
    }

    fn doubt(&mut self) {
        for change in self.changes.iter().take(std::mem::take(&mut self.offered)) {
            self.new.remove(&change.0);
            if puts_entry(change) {
                self.doubtful.insert(change.0.clone());
            }
        }
    }

    /// Leaves the last change of each row, and nothing of an entry or a new row that came and went meanwhile: no
    /// number is used twice.
    fn compact(&mut self) {
        let all = std::mem::take(&mut self.changes);
        let entries = all.iter().filter(|change| puts_entry(change));
        let mut absent: BTreeSet<Place> = entries.map(|(place, _)| place.clone()).collect();
        absent.retain(|place| !self.doubtful.contains(place));
        absent.extend(self.new.iter().cloned());
        let mut seen = BTreeSet::new();
        let mut last = all;
        last.reverse();
        last.retain(|(place, _)| seen.insert(place.clone()));
        last.retain(|(place, op)| !matches!(op, Op::Delete) || !absent.contains(place));
        last.reverse();
        last.sort_by_key(|(place, op)| (!is_reservation(place), matches!(op, Op::Delete)));
        self.new
            .retain(|place| last.iter().any(|(left, _)| left == place));
        self.changes = last;
    }
}

/// Whether it puts an entry on flash, under its number.
const fn puts_entry(change: &(Place, Op)) -> bool {
    matches!(change, ((Table::Outbox | Table::Event, _), Op::Put(_)))
}

fn is_reservation((table, key): &Place) -> bool {
    *table == Table::Meta && key == RESERVED
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: StoreError = StoreError::Full {
        path: std::path::PathBuf::new(),
        free: 0,
    };
    const FILLED: StoreError = StoreError::Filled {
        path: std::path::PathBuf::new(),
        free: 0,
    };

    /// The entry of this number takes the place of the one before.
    fn replace(unwritten: &mut Unwritten, number: u32) {
        unwritten.push(Table::Outbox, number.to_string(), Op::Put("x".into()));
        unwritten.push(Table::Outbox, (number - 1).to_string(), Op::Delete);
    }

    /// `+` is written, `-` is deleted.
    fn left(unwritten: &Unwritten) -> Vec<String> {
        let sign = |op: &Op| if matches!(op, Op::Delete) { '-' } else { '+' };
        let changes = unwritten.changes.iter();
        changes
            .map(|((_, key), op)| format!("{}{key}", sign(op)))
            .collect()
    }

    #[test]
    fn an_entry_that_came_and_went_on_a_full_disk_leaves_nothing() {
        let mut unwritten = Unwritten::default();
        for number in 2..100 {
            replace(&mut unwritten, number);
            drop(unwritten.offer(512));
            unwritten.refused(&FULL);
            assert_eq!(left(&unwritten), [format!("+{number}"), "-1".to_owned()]);
        }
        unwritten.push(Table::PodState, "u1".to_owned(), Op::Put("x".into()));
        unwritten.push(Table::PodState, "u1".to_owned(), Op::Delete);
        unwritten.refused(&FULL);
        assert_eq!(
            left(&unwritten),
            ["+99", "-1", "-u1"],
            "an older row may be there"
        );
    }

    #[test]
    fn the_last_status_of_a_pod_that_came_and_went_leaves_nothing_unless_flash_may_have_it() {
        let place = || (Table::PodState, "u1".to_owned());
        let comes = |unwritten: &mut Unwritten| {
            unwritten.push_new(place().0, place().1, Op::Put("x".into()));
            unwritten.push(place().0, place().1, Op::Put("y".into()));
        };
        let goes = |unwritten: &mut Unwritten| unwritten.push(place().0, place().1, Op::Delete);
        let fates: [fn(&mut Unwritten); 3] = [
            |unwritten| unwritten.refused(&FULL),
            |unwritten| unwritten.refused(&FILLED),
            Unwritten::written,
        ];
        for (fate, is_left) in fates.into_iter().zip([&[][..], &["-u1"], &["-u1"]]) {
            let mut unwritten = Unwritten::default();
            comes(&mut unwritten);
            drop(unwritten.offer(512));
            fate(&mut unwritten);
            goes(&mut unwritten);
            unwritten.refused(&FULL);
            assert_eq!(left(&unwritten), is_left);
            assert!(unwritten.new.is_empty());
            // Once more, with a deletion that is not written yet.
            comes(&mut unwritten);
            goes(&mut unwritten);
            unwritten.refused(&FULL);
            assert_eq!(left(&unwritten), is_left);
        }
    }

    #[test]
    fn an_entry_that_may_be_on_flash_is_deleted_there() {
        let fates: [fn(&mut Unwritten); 2] = [
            |unwritten| unwritten.refused(&FILLED),
            // Whoever waited was dropped.
            |unwritten| drop(unwritten.offer(0)),
        ];
        for fate in fates {
            let mut unwritten = Unwritten::default();
            replace(&mut unwritten, 2);
            drop(unwritten.offer(512));
            fate(&mut unwritten);
            for number in 3..9 {
                replace(&mut unwritten, number);
                drop(unwritten.offer(512));
                unwritten.refused(&FULL);
            }
            assert_eq!(left(&unwritten), ["+8", "-1", "-2"]);
            drop(unwritten.offer(512));
            unwritten.written();
            assert!(unwritten.len() == 0 && unwritten.doubtful.is_empty());
        }
    }
}
