//! One write of a `DeviceStatus`: which requests it takes, and in which order. Pure.
//!
//! ```text
//! as this session wrote it ──────────────────────────────► Patch ──► done
//! not known, or another writer's ──► Look ──still ours──┬──► Patch
//!                                     ▲                 └──► Create
//!                                     └──────conflict──────────┘
//! ```
//!
//! A look is three reads: the status, then the Lease of the node, then the Device.
//!
//! **Invariant:** whose the node and the device are is read after the state that is written over, never
//! before: whoever takes either over later makes another revision of it, and the write conflicts.

use protocol::devices::Twin;
use serde_json::Value;
use tokio::time::Instant;

use super::document::{Base, created, other_owners, patched, twins};
use super::report::Report;
use super::shown::{Written, said};
use crate::cluster::{KnownDevice, Said, status_entry};

/// Conflicts in a row after which the outbox may try again later.
const TRIES: usize = 3;

/// What to ask the API server for next.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// The status as it is, whose the node is, and whose the device is.
    Look {
        /// Whether the values of the status count, or its metadata alone.
        values: bool,
    },
    /// A merge patch of the status.
    Patch(Value),
    /// The status does not exist: this is it.
    Create(Value),
}

/// The status belongs to an earlier device of that name: the garbage collector is about to take it away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Earlier;

/// A write under way.
#[derive(Debug)]
pub struct Attempt {
    /// The device.
    pub device: KnownDevice,
    /// What its node says.
    pub report: Report,
    looks: usize,
    filled: Option<Vec<Twin>>,
}

impl Attempt {
    /// A write of a report of a device.
    pub const fn new(device: KnownDevice, report: Report) -> Self {
        Self {
            device,
            report,
            looks: 0,
            filled: None,
        }
    }

    /// The first request, given what this session wrote last of that device.
    pub fn first(&mut self, own: Option<&Written>) -> Ask {
        let there = self.device.status.as_ref();
        let own = own.filter(|own| there.is_none_or(|there| own.base.is(there)));
        match own {
            Some(Written { base, filled: None }) if !self.report.leaves_some() => {
                self.write(Some(base), &[], None)
            }
            Some(Written {
                base,
                filled: Some(filled),
            }) => self.write(Some(base), filled, None),
            Some(_) | None => self.look(),
        }
    }

    /// The status was found so, or there is none; the node and the device are still ours.
    ///
    /// # Errors
    ///
    /// If it is not this device's.
    pub fn after_look(&mut self, found: Option<&[u8]>) -> Result<Ask, Earlier> {
        let Some(found) = found else {
            return Ok(self.write(None, &[], None));
        };
        let owner = status_entry(found)
            .map(|status| status.device)
            .unwrap_or_default();
        if !owner.is_empty() && owner != self.device.uid {
            return Err(Earlier);
        }
        let shown = if self.report.leaves_some() {
            twins(found, &self.device.node)
        } else {
            Vec::new()
        };
        let adopt = owner.is_empty().then(|| other_owners(found)).flatten();
        Ok(self.write(Base::of(found).as_ref(), &shown, adopt.as_deref()))
    }

    /// Another writer was faster, or it was deleted a moment ago: what to ask next, if it is to be tried
    /// again at all.
    pub fn after_conflict(&mut self) -> Option<Ask> {
        (self.looks < TRIES).then(|| self.look())
    }

    /// It was called invalid, as a status is that bears another uid by now; but not right after a look, which
    /// would find the same.
    pub fn after_invalid(&mut self) -> Option<Ask> {
        (self.looks == 0).then(|| self.look())
    }

    /// What the status says once it is written.
    pub fn said(&self, now: Instant) -> Said {
        said(&self.device, &self.report, now)
    }

    /// It was written, and the status is so now.
    pub fn written(&mut self, base: Base) -> Written {
        let filled = self.filled.take();
        Written { base, filled }
    }

    fn look(&mut self) -> Ask {
        self.looks += 1;
        Ask::Look {
            values: self.report.leaves_some(),
        }
    }

    fn write(&mut self, base: Option<&Base>, shown: &[Twin], adopt: Option<&[Value]>) -> Ask {
        let filled = self.report.leaves_some().then(|| self.report.over(shown));
        let whole = filled.as_ref().unwrap_or(&self.report);
        let ask = match base {
            Some(base) => Ask::Patch(patched(&self.device, whole, base, adopt)),
            None => Ask::Create(created(&self.device, Some(whole))),
        };
        self.filled = filled.map(|filled| filled.twins().to_vec());
        ask
    }
}
