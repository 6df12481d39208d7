//! What the cluster shows of a device, compared with what its node says. Pure.
//!
//! **Invariant:** what counts as shown is what a write of this replica made of the very revision that the
//! watch knows, whichever session did it; of any other nothing is known but that it is there.

use std::time::Duration;

use protocol::devices::Twin;
use protocol::object::Digest;
use serde_json::json;
use tokio::time::Instant;

use super::document::{Base, labels};
use super::report::Report;
use crate::cluster::{KnownDevice, Said};
use crate::reported::Shown;

/// How long a value that did not change is not written again, though it was seen again.
const UNCHANGED: Duration = Duration::from_mins(1);

/// What a session wrote last of one device: what it may write over unasked.
#[derive(Clone, Debug)]
pub struct Written {
    /// The status that the write made.
    pub base: Base,
    /// The twins, where the node had left some of them to what was shown before.
    pub filled: Option<Vec<Twin>>,
}

/// What a write of a report makes of the status of its device.
pub fn said(device: &KnownDevice, report: &Report, now: Instant) -> Said {
    let labels = json!(labels(device)).to_string();
    let with_labels = |said: &Digest| Digest::of(&[said.0.as_slice(), labels.as_bytes()].concat());
    Said {
        whole: with_labels(&report.whole),
        values: with_labels(&report.values),
        at: now,
    }
}

/// What is shown of a device, as it is known now.
pub fn compare(report: &Report, device: &KnownDevice, now: Instant) -> Shown {
    let Some(there) = &device.status else {
        return Shown::Other(Digest::of(b"none"));
    };
    let ours = |_: &Said| there.device.is_empty() || there.device == device.uid;
    let Some(shows) = there.said.filter(ours) else {
        // Another writer: whatever it changed, what the node says is set right again.
        return Shown::Other(Digest::of(format!("{}/{}", there.uid, there.revision).as_bytes()));
    };
    let says = said(device, report, now);
    if shows.whole == says.whole || (shows.values == says.values && now - shows.at < UNCHANGED) {
        return Shown::Same;
    }
    Shown::Other(shows.whole)
}
