//! The journal: one record for each property, on tmpfs at once and on flash when it must be.
//!
//! ```text
//! accepted ──append──► <dir>/<boot id>.log    tmpfs: survives kill -9, is lost with the power
//!                 └──(durable, offline, every 30 s, at stop)──► Table::Device    survives everything
//! ```
//!
//! The log holds the whole state of this boot and is written anew when it has grown. Whoever starts
//! in the same boot reads it and goes on as if nothing had happened. After a boot only flash is left,
//! and what it says is old: those values are `stale`, and are not reported again.
//!
//! What it does not do: decide when flash is due, or what a record means; the core and the merge do.
//!
//! **Invariant:** a record that is torn or was changed is skipped and told, and costs no other one.

mod flash;
mod log;
mod record;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::twin::{Kept, Stood};

pub(crate) use flash::{property_key, property_row, read_rows, standing_key, standing_row};
pub(crate) use log::{Log, Lost, boot_id};
pub(crate) use record::Line;

/// What is kept of one device.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rows {
    /// Its properties.
    pub(crate) kept: BTreeMap<Arc<str>, Kept>,
    /// How it is.
    pub(crate) stood: Option<Stood>,
}

/// What a journal holds, by the device's uid.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Recalled {
    /// The devices.
    pub(crate) devices: BTreeMap<String, Rows>,
    /// By how much the clock was ahead of the machine's own time when the log was written, in ms.
    pub(crate) anchor: Option<i64>,
    /// Records that could not be read.
    pub(crate) skipped: usize,
    /// It is from the log of this boot: flash may be behind.
    pub(crate) is_from_log: bool,
    /// That log could not be written any more at its end: flash may be ahead as well.
    pub(crate) is_behind: bool,
}

impl Recalled {
    /// Takes in a record that is newer than all before.
    fn fold(&mut self, line: Line<'_>) {
        match line {
            Line {
                anchor: Some(anchor), ..
            } => self.anchor = Some(anchor),
            Line {
                uid,
                property: Some(name),
                kept,
                ..
            } => {
                let rows = self.devices.entry(uid.into_owned()).or_default();
                match kept {
                    Some(kept) => rows.kept.insert(name.as_ref().into(), kept.into_owned()),
                    None => rows.kept.remove(name.as_ref()),
                };
            }
            Line {
                uid,
                stood: Some(stood),
                ..
            } => self.devices.entry(uid.into_owned()).or_default().stood = Some(stood),
            Line { uid, .. } => {
                self.devices.remove(uid.as_ref());
            }
        }
    }

    /// Adds what is missing here, or older.
    pub(crate) fn fill(&mut self, flash: Self) {
        for (uid, rows) in flash.devices {
            let mine = self.devices.entry(uid).or_default();
            for (name, kept) in rows.kept {
                let older = |mine: &Kept| mine.version() < kept.version();
                if mine.kept.get(&name).is_none_or(older) {
                    mine.kept.insert(name, kept);
                }
            }
            mine.stood = if self.is_behind {
                rows.stood.or(mine.stood)
            } else {
                mine.stood.or(rows.stood)
            };
        }
        self.skipped += flash.skipped;
    }
}
