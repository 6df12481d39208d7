//! What the cluster shows of a device, compared with what its node says. Pure.

use std::time::Duration;

use protocol::devices::Twin;
use protocol::object::Digest;
use tokio::time::Instant;

use super::document::Base;
use super::report::Report;
use crate::cluster::StatusEntry;
use crate::reported::Shown;

/// How long a value that did not change is not written again, though it was seen again.
const UNCHANGED: Duration = Duration::from_mins(1);

/// What a session wrote last of one device.
#[derive(Clone, Debug)]
pub struct Written {
    /// The status that the write made.
    pub base: Base,
    /// The twins, where the node had left some of them to what was shown before.
    pub filled: Option<Vec<Twin>>,
    whole: Digest,
    values: Digest,
    at: Instant,
}

impl Written {
    /// A report was written.
    pub(super) const fn new(base: Base, filled: Option<Vec<Twin>>, report: &Report, now: Instant) -> Self {
        Self {
            base,
            filled,
            whole: report.whole,
            values: report.values,
            at: now,
        }
    }
}

/// What is shown, given what was written last and the status that is there now.
pub fn compare(
    report: &Report,
    written: Option<&Written>,
    there: Option<&StatusEntry>,
    now: Instant,
) -> Shown {
    let (Some(written), Some(there)) = (written, there) else {
        return Shown::Other(Digest::of(b"none"));
    };
    if !written.base.is(there) {
        // Another writer: whatever it changed, what the node says is set right again.
        return Shown::Other(Digest::of(format!("{}/{}", there.uid, there.revision).as_bytes()));
    }
    if written.whole == report.whole || (written.values == report.values && now - written.at < UNCHANGED) {
        return Shown::Same;
    }
    Shown::Other(written.whole)
}
