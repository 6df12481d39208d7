//! Reading everything once: what is believed, what is dropped, what can be saved.
//!
//! A row is believed when its digest fits, and its content file's too; all of them together, when the
//! [ledger](super::super::ledger) says so. What this does not do: decide what becomes of the database.

use super::{
    Content, Damage, Findings, Ledger, RawRows, SledStore, engine, fingerprint, parse_key, raw_key, unseal,
};
use crate::store::{MAX_BATCH_BYTES, StoreError, Table, ledger::LEDGER_KEY};
use std::panic::{AssertUnwindSafe, catch_unwind};

impl SledStore {
    /// Reads every row, counts the content files in use, and drops what is not believed.
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
                Ok(content) => {
                    kept = kept.wrapping_add(print);
                    if let Content::File { hash, .. } = content {
                        self.objects.name(hash);
                    }
                }
                Err(why) => {
                    drop_these.remove(&raw);
                    findings.damage.push(Damage {
                        key: String::from_utf8_lossy(&raw).replace('\0', "/"),
                        why,
                    });
                }
            }
        }
        findings.doubt = self.audit(ledger.as_deref(), all);
        if !findings.damage.is_empty() || findings.doubt.is_some() {
            let corrected = self.ledger.corrected(kept, self.mark.read(self.ledger));
            self.apply(drop_these, corrected)?;
        }
        Ok(findings)
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
    /// A panic of the engine ends a direction as an error does.
    pub(in crate::store) fn salvage(&self) -> RawRows {
        let mut rows = RawRows::new();
        for table in Table::ALL {
            let range = raw_key(table, "")..[table.as_str().as_bytes(), &[1]].concat();
            let whole = self.salvage_run(self.db.range(range.clone()), &mut rows);
            if !whole {
                self.salvage_run(self.db.range(range).rev(), &mut rows);
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
                if self.believe(&raw, &sealed).is_ok() {
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

    fn believe(&self, raw: &[u8], sealed: &[u8]) -> Result<Content, String> {
        let (table, key) = parse_key(raw).ok_or("a key of no known table")?;
        let content = unseal(table, key, sealed).map_err(|error| error.to_string())?;
        if let Content::File { hash, len } = &content {
            let fits = self.objects.read(hash).is_some_and(|bytes| bytes.len() == *len);
            return if fits {
                Ok(content)
            } else {
                Err("its content file is missing or damaged".to_owned())
            };
        }
        Ok(content)
    }
}
