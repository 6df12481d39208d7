//! What the cluster shows of a device, compared with what its node says. Pure.
//!
//! **Invariant:** what counts as shown is what a write of this replica made of the very revision that the
//! watch knows, whichever session did it, or what that revision was listed with; of any other nothing is known
//! but that it is there.

use std::time::Duration;

use protocol::devices::Twin;
use protocol::object::{Digest, Kind, ObjectKey};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::document::{Base, VALUES, labels, labels_of};
use super::report::Report;
use crate::cluster::{KnownDevice, Said, StatusEntry, status_entry};
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
    said_with(&labels(device), report, now)
}

fn said_with(labels: &Map<String, Value>, report: &Report, now: Instant) -> Said {
    let labels = json!(labels).to_string();
    let with_labels = |said: &Digest| Digest::of(&[said.0.as_slice(), labels.as_bytes()].concat());
    Said {
        whole: with_labels(&report.whole),
        values: with_labels(&report.values),
        at: now,
    }
}

/// A status that was listed: its device's key, what it is, and what it says if a report may have been written
/// just so. When it was written nobody knows: for long enough that a newer time of the same values is written.
pub fn listed(item: &[u8], now: Instant) -> Option<(ObjectKey, Base, StatusEntry)> {
    let mut entry = status_entry(item)?;
    let base = Base::of(item)?;
    let mut item: Value = serde_json::from_slice(item).ok()?;
    let name = |field: &str| item["metadata"][field].as_str().map(str::to_owned);
    let key = ObjectKey::new(Kind::Device, name("namespace")?, name("name")?);
    let report = Report::shown(item["status"].take());
    let glance = item["metadata"]["annotations"][VALUES].as_str();
    let report = report.filter(|report| glance == Some(report.glance().as_str()));
    let labels = labels_of(&item["metadata"]["labels"]);
    let written = now.checked_sub(UNCHANGED).unwrap_or(now);
    entry.said = report.map(|report| said_with(&labels, &report, written));
    Some((key, base, entry))
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
