//! Reading everything once: what is believed, what is dropped, what can be saved.
//!
//! A row is believed when its digest fits, and its content file's too; all of them together, when the
//! [ledger](super::super::ledger) says so. Rows of tables that are not known here are rows like all others:
//! a newer program wrote them, and will want them back. What this does not do: decide what becomes of the
//! database.

use super::{
    Content, Damage, Findings, Ledger, RawRows, SledStore, Whole, engine, fingerprint, raw_key, unseal,
};
use crate::store::{MAX_BATCH_BYTES, StoreError, Table, envelope::parse_key, ledger::LEDGER_KEY};
use std::{
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// The change that takes out of a database what was not believed.
pub(super) struct Mending {
    drop_these: sled::Batch,
    ledger: Ledger,
}

/// A stretch of keys.
type Stretch = (Bound<Vec<u8>>, Bound<Vec<u8>>);

impl SledStore {
    /// Reads every row, and counts the content files in use. What is not believed goes when the store is
    /// [mended](Self::mend).
    pub(in crate::store) fn read_all(&mut self) -> Result<Findings, StoreError> {
        let mut findings = Findings::default();
        let mut drop_these = sled::Batch::default();
        let (mut all, mut kept, mut ledger) = (0_u128, 0_u128, None);
        for row in self.db.iter() {
            let (raw, sealed) = row.map_err(|source| engine(&self.path, source))?;
            if raw == LEDGER_KEY {
                ledger = Some(sealed);
                continue;
            }
            let print = fingerprint(&sealed);
            all = all.wrapping_add(print);
            findings.live += (raw.len() + sealed.len()) as u64;
            match self.believe(&raw, &sealed) {
                Ok(whole) => {
                    kept = kept.wrapping_add(print);
                    findings.count(&raw, &whole);
                    if let Some(hash) = whole.names() {
                        self.objects.name(hash);
                    }
                }
                Err(why) => {
                    drop_these.remove(&raw);
                    findings.damage.push(Damage {
                        key: String::from_utf8_lossy(&raw).replace('\0', "/"),
                        why: why.to_owned(),
                    });
                }
            }
        }
        findings.doubt = self.audit(ledger.as_deref(), all);
        let needs_mending = !findings.damage.is_empty() || findings.doubt.is_some();
        self.mending = needs_mending.then(|| Mending {
            drop_these,
            ledger: self.ledger.corrected(kept, self.mark.read(self.ledger)),
        });
        Ok(findings)
    }

    /// Drops what reading everything has not believed.
    pub(in crate::store) fn mend(&mut self) -> Result<(), StoreError> {
        match self.mending.take() {
            Some(Mending { drop_these, ledger }) => self.apply(drop_these, ledger),
            None => Ok(()),
        }
    }

    /// Takes the ledger that was found, and says why the rows with this sum are not to be trusted.
    fn audit(&mut self, row: Option<&[u8]>, sum: u128) -> Option<String> {
        let found = row.map(|row| Ledger::decode(row).ok_or(()));
        self.ledger = found.and_then(Result::ok).unwrap_or_else(|| Ledger::new(sum));
        match found {
            Some(Ok(ledger)) => ledger.doubt(sum, self.mark.read(ledger)),
            Some(Err(())) => Some("its ledger is damaged".to_owned()),
            None if self.mark.is_written() => Some("its ledger is missing".to_owned()),
            None => None,
        }
    }

    /// Every row that can be read and believed, when reading all in order has failed.
    ///
    /// Each table is read from its first row up to what cannot be read, and from its last row down to it.
    /// So is what lies between the tables: rows of those that are not known here.
    /// A panic of the engine ends a direction as an error does.
    pub(in crate::store) fn salvage(&self) -> RawRows {
        let mut rows = RawRows::new();
        for stretch in stretches() {
            let whole = self.salvage_run(self.db.range(stretch.clone()), &mut rows);
            if !whole {
                self.salvage_run(self.db.range(stretch).rev(), &mut rows);
            }
        }
        rows
    }

    fn salvage_run(
        &self,
        run: impl Iterator<Item = sled::Result<(sled::IVec, sled::IVec)>>,
        rows: &mut RawRows,
    ) -> bool {
        let read = || {
            for row in run {
                let Ok((raw, sealed)) = row else { return false };
                if raw != LEDGER_KEY && self.believe(&raw, &sealed).is_ok() {
                    rows.insert(raw.to_vec(), sealed.to_vec());
                }
            }
            true
        };
        catch_unwind(AssertUnwindSafe(read)).unwrap_or(false)
    }

    /// Writes rows into a database that is new and empty.
    pub(in crate::store) fn fill(&mut self, rows: &RawRows) -> Result<(), StoreError> {
        let (mut batch, mut weight, mut ledger) = (sled::Batch::default(), 0, Ledger::new(0));
        for (raw, sealed) in rows {
            batch.insert(raw.as_slice(), sealed.as_slice());
            weight += raw.len() + sealed.len();
            ledger = ledger.after(0, fingerprint(sealed));
            if weight > MAX_BATCH_BYTES / 2 {
                self.apply(std::mem::take(&mut batch), ledger)?;
                weight = 0;
            }
        }
        self.apply(batch, ledger)
    }

    fn believe(&self, raw: &[u8], sealed: &[u8]) -> Result<Whole, &'static str> {
        let whole = unseal(raw, sealed)?;
        if let Whole::Known(Content::File { hash, len }) = &whole
            && self.objects.read(hash).is_none_or(|bytes| bytes.len() != *len)
        {
            return Err("its content file is missing or damaged");
        }
        Ok(whole)
    }
}

impl Findings {
    /// Counts a row that is kept, where it is not one of this program's own.
    fn count(&mut self, raw: &[u8], whole: &Whole) {
        match (parse_key(raw), whole) {
            (None, _) => self.foreign += 1,
            (Some((table, key)), Whole::Later(_)) => {
                self.newer = Some(format!("{table}/{key} is of a later version"));
            }
            (Some(_), Whole::Known(_)) => {}
        }
    }
}

/// The keys of each table, and those between them.
fn stretches() -> Vec<Stretch> {
    let mut tables = Table::ALL;
    tables.sort_unstable_by_key(|table| table.as_str());
    let (mut stretches, mut from) = (Vec::new(), Bound::Unbounded);
    for table in tables {
        let (start, end) = (raw_key(table, ""), [table.as_str().as_bytes(), &[1]].concat());
        stretches.push((from, Bound::Excluded(start.clone())));
        stretches.push((Bound::Included(start), Bound::Excluded(end.clone())));
        from = Bound::Included(end);
    }
    stretches.push((from, Bound::Unbounded));
    stretches
}
