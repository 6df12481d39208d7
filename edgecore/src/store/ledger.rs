//! What tells stale rows from true ones.
//!
//! The digest of a row says that it was written once, not that it is the newest. A bit that flips inside the
//! engine's log can bring an older row back, or all of yesterday, and every digest still fits. So each batch
//! also writes the *ledger*: how many batches there were, and the sum of the digests of all rows. Rows that
//! do not sum up are not of one moment. The *mark*, a file beside the log, says now and then how far the
//! ledger had come: a database behind its mark has gone back in time as a whole.
//!
//! The mark is never synced. After a power cut it may be old, which hides a little and accuses nobody.

use super::StoreError;
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};

/// The ledger's row. No table has an empty name.
pub(super) const LEDGER_KEY: &[u8] = b"\0ledger";
/// Batches between two marks.
const MARK_EVERY: u64 = 16;
const DIGEST: usize = 16;
const LEDGER: usize = 32;
const MARK: usize = 16;

/// The count of batches and the sum of all rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ledger {
    /// Random, made with the database: a mark of another one says nothing.
    id: u64,
    /// Batches so far.
    commits: u64,
    pub(super) sum: u128,
}

impl Ledger {
    /// The ledger of a new database, or of one from before there were ledgers.
    pub(super) fn new(sum: u128) -> Self {
        Self {
            id: rand::random(),
            commits: 0,
            sum,
        }
    }

    /// Whether it is on the disk.
    pub(super) const fn is_begun(self) -> bool {
        self.commits > 0
    }

    /// The ledger after one more batch, which took the rows of `old` away and put those of `new` there.
    pub(super) fn after(self, old: u128, new: u128) -> Self {
        Self {
            commits: self.commits + 1,
            sum: self.sum.wrapping_sub(old).wrapping_add(new),
            ..self
        }
    }

    /// The ledger of rows that were accepted with this sum, whatever it said itself.
    pub(super) fn corrected(self, sum: u128, mark: Option<u64>) -> Self {
        Self {
            commits: self.commits.max(mark.unwrap_or_default()) + 1,
            sum,
            ..self
        }
    }

    /// Why rows with this sum are not what was committed last.
    pub(super) fn doubt(self, sum: u128, mark: Option<u64>) -> Option<String> {
        if sum != self.sum {
            return Some(
                "its rows are of different moments; some are older than what was written".to_owned(),
            );
        }
        let marked = mark.filter(|mark| *mark > self.commits)?;
        let lost = marked - self.commits;
        Some(format!("its last {lost} batches or more are missing"))
    }

    /// The row.
    pub(super) fn encode(self) -> Vec<u8> {
        let fields = [
            &self.id.to_le_bytes()[..],
            &self.commits.to_le_bytes(),
            &self.sum.to_le_bytes(),
        ]
        .concat();
        with_digest(fields)
    }

    /// Reads the row; `None` when it is not whole.
    pub(super) fn decode(row: &[u8]) -> Option<Self> {
        let fields: [u8; LEDGER] = without_digest(row)?.try_into().ok()?;
        let number = |at: usize| Some(u64::from_le_bytes(fields[at..at + 8].try_into().ok()?));
        Some(Self {
            id: number(0)?,
            commits: number(8)?,
            sum: u128::from_le_bytes(fields[16..].try_into().ok()?),
        })
    }
}

/// The file that says how far the ledger had come.
#[derive(Debug)]
pub(super) struct Mark(File);

impl Mark {
    /// Opens the mark of the database in `dir`.
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("mark");
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false);
        Ok(Self(file.open(&path).map_err(StoreError::io("open", path))?))
    }

    /// Whether anything was ever marked.
    pub(super) fn is_written(&self) -> bool {
        self.0.metadata().is_ok_and(|meta| meta.len() > 0)
    }

    /// How many batches were marked; `None` when nothing believable was.
    pub(super) fn read(&self, ledger: Ledger) -> Option<u64> {
        let mut bytes = [0; MARK + DIGEST];
        self.0.read_exact_at(&mut bytes, 0).ok()?;
        let (id, commits) = without_digest(&bytes)?.split_at_checked(8)?;
        (id == ledger.id.to_le_bytes()).then_some(u64::from_le_bytes(commits.try_into().ok()?))
    }

    /// Writes the mark where it is due. It only ever helps, so that a failure is nobody's.
    pub(super) fn keep(&self, ledger: Ledger) {
        if ledger.commits.is_multiple_of(MARK_EVERY) {
            self.write(ledger);
        }
    }

    /// Writes the mark.
    pub(super) fn write(&self, ledger: Ledger) {
        let fields = [ledger.id.to_le_bytes(), ledger.commits.to_le_bytes()].concat();
        drop(self.0.write_all_at(&with_digest(fields), 0));
    }
}

fn with_digest(mut fields: Vec<u8>) -> Vec<u8> {
    let digest = digest(&fields);
    fields.extend(digest);
    fields
}

fn without_digest(bytes: &[u8]) -> Option<&[u8]> {
    let (fields, written) = bytes.split_last_chunk::<DIGEST>()?;
    (*written == digest(fields)).then_some(fields)
}

fn digest(fields: &[u8]) -> [u8; DIGEST] {
    let mut out = [0; DIGEST];
    let mut hasher = blake3::Hasher::new();
    hasher.update(fields).finalize_xof().fill(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_do_not_sum_up_and_a_ledger_behind_its_mark_are_doubted() {
        let ledger = Ledger::new(0).after(0, 5).after(5, 9);
        assert_eq!(ledger.doubt(9, Some(2)), None);
        assert_eq!(ledger.doubt(9, None), None);
        assert!(ledger.doubt(8, Some(2)).unwrap().contains("different moments"));
        assert!(ledger.doubt(9, Some(5)).unwrap().contains("last 3 batches"));
        assert_eq!(ledger.corrected(8, Some(5)).doubt(8, Some(5)), None);
    }

    #[test]
    fn a_ledger_is_read_back_and_any_flipped_bit_of_it_is_seen() {
        let ledger = Ledger::new(7).after(1, 2);
        let row = ledger.encode();
        assert_eq!(Ledger::decode(&row), Some(ledger));
        for bit in 0..row.len() * 8 {
            let mut flipped = row.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Ledger::decode(&flipped), None);
        }
    }
}
