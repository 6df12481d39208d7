//! What becomes of a report.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::view::view;
use super::{
    Change, Kept, MAX_DEVICE, MAX_NAME, MAX_UNDECLARED, MAX_VALUE, Moment, Outcome, Quality, Reported, Rules,
    Stood, Twin, weight,
};
use crate::devices::seam::{Clue, Observation, Origin, Refused, Report, Seen, Told, TwinChange};
use protocol::devices::DeviceState;

/// A longer remark of a sender is cut: it is shown, and must not fill the disk.
const MAX_CLUE: usize = 64;
/// A longer reason is cut.
pub(super) const MAX_REASON: usize = 256;

/// A report that is being worked through; nothing of it is in the twin.
pub(super) struct Draft<'a> {
    pub(super) twin: &'a Twin,
    pub(super) rules: &'a Rules,
    pub(super) now: Moment,
    /// What each named property becomes, and whether the device was heard of it.
    pub(super) work: BTreeMap<Arc<str>, (Kept, bool)>,
}

pub(super) fn merge(twin: &Twin, rules: &Rules, report: &Report, now: Moment) -> Result<Outcome, Refused> {
    let mut draft = Draft {
        twin,
        rules,
        now,
        work: BTreeMap::new(),
    };
    for seen in &report.seen {
        draft.take(seen, report.origin)?;
    }
    draft.check_size()?;
    let heard = draft.work.values().any(|(_, heard)| *heard);
    let mut outcome = draft.outcome();
    if heard {
        outcome.stood = Some(seen_now(twin.stood(), now));
    }
    outcome.told = Some(draft.told(report.origin, &report.event_id));
    Ok(outcome)
}

/// A device that reports is there, unless somebody said something else.
const fn seen_now(stood: Stood, now: Moment) -> Stood {
    let state = if matches!(stood.state, DeviceState::Unknown) {
        DeviceState::Online
    } else {
        stood.state
    };
    Stood {
        state,
        said: stood.said,
        last_online: Some(now.wall),
    }
}

impl Draft<'_> {
    fn take(&mut self, seen: &Seen, origin: Origin) -> Result<(), Refused> {
        within("the name of a property", seen.property.len(), MAX_NAME)?;
        let mut kept = self.current(&seen.property);
        let heard = match &seen.observation {
            Observation::Value(value) => {
                within(&seen.property, value.len(), MAX_VALUE)?;
                let (quality, reason) = self.rules.quality(&seen.property, value);
                let note = if quality == Quality::Good {
                    &seen.clue.note
                } else {
                    &reason
                };
                kept.reported = Some(Arc::new(Reported {
                    quality,
                    reason: reason_of(note),
                    ..self.reported(value, &seen.clue, origin)
                }));
                self.blame(&mut kept, &seen.property);
                true
            }
            Observation::Fault(reason) => {
                kept.reported = Some(Arc::new(self.faulty(&kept, reason, origin)));
                false
            }
            Observation::GivenUp { version, why } => {
                self.give_up(&mut kept, seen, (*version, why), origin);
                false
            }
            Observation::Settled { version } => {
                kept.doubt &= kept.wish.as_ref().is_none_or(|wish| wish.version != *version);
                false
            }
            Observation::Retained(value) => {
                within(&seen.property, value.len(), MAX_VALUE)?;
                self.retained(&mut kept, seen, value, origin);
                false
            }
            Observation::Wished(value) => {
                within(&seen.property, value.len(), MAX_VALUE)?;
                self.wish(&mut kept, &seen.property, value)?;
                false
            }
            Observation::Dropped => {
                kept.reported = None;
                kept.wish = None;
                false
            }
        };
        self.put(&seen.property, kept, heard);
        Ok(())
    }

    fn reported(&self, value: &str, clue: &Clue, origin: Origin) -> Reported {
        Reported {
            value: Some(value.into()),
            at: self.now.wall,
            version: self.now.version,
            device_timestamp: clue.device_timestamp.as_deref().map(|text| cut(text, MAX_CLUE)),
            type_: clue.type_.as_deref().map(|text| cut(text, MAX_CLUE)),
            mapper: origin == Origin::Mapper,
            ..Reported::default()
        }
    }

    /// The last value stays, and is not good any more.
    pub(super) fn faulty(&self, kept: &Kept, reason: &str, origin: Origin) -> Reported {
        let last = kept.reported.as_deref().cloned();
        let last = last.unwrap_or(Reported {
            at: self.now.wall,
            ..Reported::default()
        });
        Reported {
            version: self.now.version,
            quality: Quality::Error,
            reason: reason_of(reason),
            mapper: origin == Origin::Mapper,
            otherwise: None,
            ..last
        }
    }

    /// What a broker kept may be of any age: it is better than nothing, and than nothing else.
    fn retained(&self, kept: &mut Kept, seen: &Seen, value: &str, origin: Origin) {
        let holds = kept
            .reported
            .as_ref()
            .is_some_and(|reported| reported.value.is_some());
        if holds {
            return;
        }
        let (quality, reason) = match self.rules.quality(&seen.property, value) {
            (Quality::Good | Quality::Stale, _) => (Quality::Stale, String::new()),
            (Quality::Error, reason) => (Quality::Error, reason_of(&reason)),
        };
        kept.reported = Some(Arc::new(Reported {
            quality,
            reason,
            ..self.reported(value, &seen.clue, origin)
        }));
    }

    /// What a property is so far.
    pub(super) fn current(&self, name: &str) -> Kept {
        let worked = self.work.get(name).map(|(kept, _)| kept);
        worked
            .or_else(|| self.twin.kept_of(name))
            .cloned()
            .unwrap_or_default()
    }

    pub(super) fn put(&mut self, name: &str, mut kept: Kept, heard: bool) {
        self.doubt(&mut kept, name, heard);
        if kept.wish.as_ref().is_some_and(|wish| wish.is_open())
            && self.rules.is_confirmed(name, &kept)
            && let Some(wish) = &mut kept.wish
        {
            let wish = Arc::make_mut(wish);
            wish.done = true;
            wish.given_up.clear();
        }
        self.forgive(&mut kept);
        match self.work.get_mut(name) {
            Some(entry) => *entry = (kept, heard || entry.1),
            None => {
                self.work.insert(name.into(), (kept, heard));
            }
        }
    }

    fn check_size(&self) -> Result<(), Refused> {
        let before = |name: &str| self.twin.kept_of(name).map_or(0, |kept| weight(name, kept));
        let (mut bytes, mut grown, mut fresh) = (self.twin.bytes, false, 0);
        for (name, (kept, _)) in &self.work {
            let (before, after) = (before(name), weight(name, kept));
            grown |= after > before;
            bytes = bytes + after - before;
            if before == 0 && !self.rules.is_declared(name) {
                fresh += 1;
            }
        }
        // A twin that a smaller model or an older version left too large may shrink.
        if grown {
            within("the device", bytes, MAX_DEVICE)?;
        }
        if fresh > 0 {
            let names = self.twin.slots.keys();
            let undeclared = names.filter(|name| !self.rules.is_declared(name)).count();
            within(
                "the list of undeclared properties",
                undeclared + fresh,
                MAX_UNDECLARED,
            )?;
        }
        Ok(())
    }

    /// What is to be kept.
    pub(super) fn outcome(&self) -> Outcome {
        let mut outcome = Outcome::default();
        for (name, (kept, heard)) in &self.work {
            let before = self.twin.kept_of(name);
            let is_empty = *kept == Kept::default();
            if before == Some(kept) || (before.is_none() && is_empty) {
                continue;
            }
            let wish_before = before.and_then(|kept| kept.wish.as_ref());
            let wishes = wish_before != kept.wish.as_ref();
            let reported_before = before.and_then(|kept| kept.reported.as_ref());
            let gone = reported_before.is_some() && kept.reported.is_none();
            outcome.wishes |= wishes;
            outcome.hear |= wishes || gone;
            outcome.changes.push(Change {
                name: name.clone(),
                kept: (!is_empty).then(|| kept.clone()),
                heard: *heard,
                again: before.is_some_and(|before| is_again(before, kept)),
                durable: self.rules.is_durable(name),
            });
        }
        outcome
    }

    pub(super) fn told(&self, origin: Origin, event_id: &str) -> Told {
        let change = |(name, (kept, _)): (&Arc<str>, &(Kept, bool))| {
            let change = TwinChange {
                last: view(self.rules, name, self.twin.kept_of(name)),
                current: view(self.rules, name, Some(kept)),
            };
            (name.to_string(), change)
        };
        let mut told = Told {
            device: self.rules.served.name(),
            event_id: event_id.to_owned(),
            origin,
            timestamp: self.now.wall,
            changes: self.work.iter().map(change).collect(),
            wished: BTreeMap::new(),
            delta: BTreeMap::new(),
        };
        let new = self.work.iter().map(|(name, (kept, _))| (name, kept));
        let old = self
            .twin
            .kept()
            .filter(|(name, kept)| kept.wish.is_some() && !self.work.contains_key(*name));
        for (name, kept) in old.chain(new) {
            let Some(wish) = self.rules.allowed_wish(name, kept) else {
                continue;
            };
            if !self.rules.is_met(name, kept) {
                told.delta.insert(name.to_string(), wish.value.to_string());
            }
            if let Some(view) = view(self.rules, name, Some(kept)) {
                told.wished.insert(name.to_string(), view);
            }
        }
        told
    }
}

/// Whether nothing but time and version differs.
fn is_again(before: &Kept, after: &Kept) -> bool {
    if before.wish != after.wish || before.manifest != after.manifest || before.doubt != after.doubt {
        return false;
    }
    match (&before.reported, &after.reported) {
        (Some(before), Some(after)) => before.is_again(after),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

impl Reported {
    /// Whether another report says the same.
    pub(super) fn is_again(&self, other: &Self) -> bool {
        self.value == other.value && self.quality == other.quality && self.reason == other.reason
    }
}

fn within(what: &str, bytes: usize, limit: usize) -> Result<(), Refused> {
    if bytes <= limit {
        return Ok(());
    }
    Err(Refused::TooLarge {
        what: cut(what, MAX_NAME),
        bytes,
        limit,
    })
}

/// A reason as it is kept.
pub(super) fn reason_of(text: &str) -> String {
    cut(text, MAX_REASON)
}

pub(super) fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}
