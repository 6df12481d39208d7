//! Numbers that grow and are never used twice, whatever happens to the power.

use bytes::Bytes;
use protocol::clock::Clock;

use crate::store::{Batch, Db, StoreError, Table};

/// The row with the end of the reserved numbers.
const RESERVED: &str = "device-versions";
/// Numbers reserved at once: at 10,000 a second one small write in a minute and a half.
const BLOCK: u64 = 1 << 20;
/// Numbers of one millisecond: so those of a node that is new or has lost its store go on above the
/// old ones, and stay exact as JSON numbers.
const PER_MILLISECOND: u64 = 1 << 10;

/// The reserved numbers that are left.
#[derive(Debug)]
pub(super) struct Versions {
    next: u64,
    end: u64,
}

impl Versions {
    /// A fresh block, on flash before this returns.
    pub(super) async fn reserve(db: &Db, clock: &Clock) -> Result<Self, StoreError> {
        let row = db.get(Table::Meta, RESERVED).await?;
        let before = row.and_then(|row| Some(u64::from_be_bytes(row.as_ref().try_into().ok()?)));
        let (versions, end) = Self::after(before.unwrap_or_default(), clock.now_millis());
        write(db, end).await?;
        Ok(versions)
    }

    /// A block above what was reserved before, and where it ends.
    pub(super) fn after(before: u64, now_millis: u64) -> (Self, u64) {
        let next = before.max(now_millis.saturating_mul(PER_MILLISECOND));
        let end = next + BLOCK;
        (Self { next, end }, end)
    }

    /// The next number; it is used up by [`Versions::used`]. None while the flash is too slow.
    pub(super) const fn next(&self) -> Option<u64> {
        if self.next < self.end {
            Some(self.next)
        } else {
            None
        }
    }

    /// The next number was used.
    pub(super) const fn used(&mut self) {
        self.next += 1;
    }

    /// The end that should be reserved now, if few are left.
    pub(super) const fn wanted_end(&self) -> Option<u64> {
        if self.end - self.next < BLOCK / 2 {
            Some(self.end + BLOCK)
        } else {
            None
        }
    }

    /// More numbers are reserved.
    pub(super) const fn extend(&mut self, end: u64) {
        self.end = end;
    }
}

/// Reserves the numbers below `end`.
pub(super) async fn write(db: &Db, end: u64) -> Result<(), StoreError> {
    let row = Bytes::copy_from_slice(&end.to_be_bytes());
    db.commit(Batch::new().put(Table::Meta, RESERVED, row)).await
}
