//! The twin of one device: what it said and what it should be, merged by one pure function.
//!
//! [`merge`] takes what is, what happened and when, and answers what becomes of it: the records to
//! keep, what local clients are told, and whether the cluster must hear. It changes nothing itself;
//! [`Twin::apply`] folds the records in, and is the only way in which a twin changes. So the journal,
//! read again, makes the same twin.
//!
//! ```text
//! Twin + Event ──merge──► Outcome { changes, told, .. } ──journal──► Twin::apply
//!   ▲                                                                   │
//!   └───────────────────────────────────────────────────────────────────┘
//! Twin ──release──► what the cluster hears (cycles)        no I/O, no clock, no task
//! ```
//!
//! **Invariant:** a refused event leaves no trace; of two reports the one that arrived later wins.

mod equal;
mod events;
mod kept;
mod release;
mod report;
mod rules;
#[cfg(test)]
mod tests;
mod view;
mod wished;

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::devices::DeviceState;

use super::seam::{Refused, Report, Standing, Told, Wish};

pub(crate) use kept::{Kept, Manifest, Quality, Reported, Stood, Wished};
pub(crate) use rules::Rules;

/// The largest value.
pub(crate) const MAX_VALUE: usize = 64 * 1024;
/// All values and names of one device: its status must fit one report.
pub(crate) const MAX_DEVICE: usize = 192 * 1024;
/// The longest name of a property.
const MAX_NAME: usize = 256;
/// Properties that no model bounds.
const MAX_UNDECLARED: usize = 512;

/// When something happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moment {
    /// The node's clock, ms since 1970; for what people read.
    pub(crate) wall: i64,
    /// Ms since any fixed moment; for cycles and staleness, which no clock may disturb.
    pub(crate) mono: i64,
    /// The version of whatever changes now; never used before.
    pub(crate) version: u64,
}

/// What happens to a twin.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event<'a> {
    /// A carrier saw something.
    Report(&'a Report),
    /// Somebody says how the device is.
    State(DeviceState),
    /// The device or its model is new, or was changed in the cluster.
    Catalog,
    /// Time has passed.
    Tick,
    /// The clock was set: every time from `since` on is `by` too early.
    ClockSet {
        /// What the clock said when the machine started.
        since: i64,
        /// How far it was moved, in ms.
        by: i64,
    },
}

/// One property of a twin that becomes another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// The property.
    pub(crate) name: Arc<str>,
    /// What is kept of it from now on; none if it is gone.
    pub(crate) kept: Option<Kept>,
    /// The device was heard.
    pub(crate) heard: bool,
    /// All but time and version is as before.
    pub(crate) again: bool,
    /// Whether an accepted value must be on flash whatever the link does.
    pub(crate) durable: bool,
}

/// What becomes of an event.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// The properties that become others.
    pub(crate) changes: Vec<Change>,
    /// How the device is from now on, if that is new.
    pub(crate) stood: Option<Stood>,
    /// What local clients are told; none if nothing that they see has changed.
    pub(crate) told: Option<Told>,
    /// A wish is new, another or gone.
    pub(crate) wishes: bool,
    /// The cluster must hear of more than values.
    pub(crate) hear: bool,
}

/// The twin of one device.
#[derive(Clone, Debug, Default)]
pub(crate) struct Twin {
    slots: BTreeMap<Arc<str>, Slot>,
    stood: Stood,
    /// The state that the cluster was told last, and when it was.
    stood_told: Option<(DeviceState, i64)>,
    bytes: usize,
    /// The cluster must hear of more than values.
    hear: bool,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    kept: Kept,
    /// When the device was last heard of it.
    heard: i64,
    /// An earlier process had the wish, and may have set the device to it.
    inherited: bool,
    /// What the cluster was told last.
    released: Option<Arc<Reported>>,
    /// When it was.
    released_at: i64,
}

/// What becomes of an event. Pure; [`Twin::apply`] carries it out.
pub(crate) fn merge(twin: &Twin, rules: &Rules, event: Event<'_>, now: Moment) -> Result<Outcome, Refused> {
    match event {
        Event::Report(report) => report::merge(twin, rules, report, now),
        Event::State(state) => Ok(events::state(twin, rules, state, now)),
        Event::Catalog => Ok(events::catalog(twin, rules, now)),
        Event::Tick => Ok(events::tick(twin, rules, now)),
        Event::ClockSet { since, by } => Ok(events::clock_set(twin, since, by, now)),
    }
}

impl Twin {
    /// The twin that the journal holds.
    pub(crate) fn recall(
        kept: impl IntoIterator<Item = (Arc<str>, Kept)>,
        stood: Option<Stood>,
        now: Moment,
    ) -> Self {
        let mut twin = Self {
            stood: stood.unwrap_or_default(),
            ..Self::default()
        };
        for (name, kept) in kept {
            // Also what is from flash alone: the cluster shows it as good until it hears of the boot.
            twin.hear |= kept.reported.is_some();
            twin.put(name, Some(kept), now.mono);
        }
        for slot in twin.slots.values_mut() {
            slot.inherited = slot.kept.wish.is_some();
        }
        twin
    }

    /// Carries out what [`merge`] has decided.
    pub(crate) fn apply(&mut self, outcome: &Outcome, now: Moment) {
        for change in &outcome.changes {
            let heard = match self.slots.get(&change.name) {
                Some(slot) if !change.heard => slot.heard,
                Some(_) | None => now.mono,
            };
            self.put(change.name.clone(), change.kept.clone(), heard);
        }
        if let Some(stood) = outcome.stood {
            self.stood = stood;
        }
        self.hear |= outcome.hear;
    }

    /// The device or its model was changed: what the cluster hears of it may be another thing.
    pub(crate) const fn tell_anew(&mut self) {
        self.hear = true;
    }

    /// What is kept of every property, in order of their names.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (&Arc<str>, &Kept)> {
        self.slots.iter().map(|(name, slot)| (name, &slot.kept))
    }

    /// What is kept of one property.
    pub(crate) fn kept_of(&self, name: &str) -> Option<&Kept> {
        self.slots.get(name).map(|slot| &slot.kept)
    }

    /// How the device is.
    pub(crate) const fn stood(&self) -> Stood {
        self.stood
    }

    /// How the device is, as carriers are told.
    pub(crate) const fn standing(&self) -> Standing {
        Standing {
            state: self.stood.state,
            last_online: self.stood.last_online,
        }
    }

    /// What the properties should be, as far as the model allows.
    pub(crate) fn wishes(&self, rules: &Rules) -> BTreeMap<String, Wish> {
        let wish = |(name, slot): (&Arc<str>, &Slot)| {
            let kept = &slot.kept;
            let wished = rules.allowed_wish(name, kept)?;
            let wish = Wish {
                value: wished.value.to_string(),
                version: wished.version,
                met: rules.is_met(name, kept),
                done: wished.done,
                in_doubt: kept.doubt || (slot.inherited && wished.is_open()),
            };
            Some((name.to_string(), wish))
        };
        self.slots.iter().filter_map(wish).collect()
    }

    fn put(&mut self, name: Arc<str>, kept: Option<Kept>, heard: i64) {
        let before = self.slots.get(&name).map(|slot| weight(&name, &slot.kept));
        self.bytes -= before.unwrap_or_default();
        let Some(kept) = kept else {
            self.slots.remove(&name);
            return;
        };
        self.bytes += weight(&name, &kept);
        let slot = self.slots.entry(name).or_default();
        let version = |reported: &Option<Arc<Reported>>| reported.as_ref().map(|reported| reported.version);
        // Only its times were corrected: what was told is still told.
        if slot.released.is_some() && version(&slot.released) == version(&kept.reported) {
            slot.released.clone_from(&kept.reported);
        }
        let wish = |kept: &Kept| kept.wish.as_ref().map(|wish| wish.version);
        slot.inherited &= wish(&slot.kept) == wish(&kept);
        slot.kept = kept;
        slot.heard = heard;
    }
}

/// What one property counts against [`MAX_DEVICE`].
fn weight(name: &str, kept: &Kept) -> usize {
    let reported = kept.reported.as_ref();
    let value = reported.and_then(|reported| reported.value.as_ref());
    let wish = kept.wish.as_ref().map(|wish| wish.value.len());
    name.len() + value.map_or(0, |value| value.len()) + wish.unwrap_or_default()
}
