//! What becomes of a twin without a report: the cluster's manifest, time, the device's state.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use protocol::devices::{Desired, DeviceState, PropertyType};

use super::report::Draft;
use super::{
    Change, Kept, MAX_NAME, Manifest, Moment, Outcome, Quality, Reported, Rules, Stood, Twin, Wished,
};
use crate::devices::seam::Origin;
use crate::devices::served::ServedProperty;

/// By how much a corrected time may lie ahead: how far the clock was moved is known so exactly.
const CLOCK_SLACK: i64 = 1_000;

/// Somebody says how the device is: that wins over what reports let guess.
pub(super) fn state(twin: &Twin, rules: &Rules, state: DeviceState, now: Moment) -> Outcome {
    let before = twin.stood();
    let last_online = if state.is_reachable() {
        Some(now.wall)
    } else {
        before.last_online
    };
    let mut outcome = if state.is_reachable() {
        Outcome::default()
    } else {
        changed(twin, rules, now, |_, kept| aged(kept, now))
    };
    outcome.stood = Some(Stood {
        state,
        said: state != DeviceState::Unknown,
        last_online,
    });
    outcome
}

/// The cluster's wish counts where it is another than the one before: what the site has set since
/// stays through every resync, restart and edit of something else.
pub(super) fn catalog(twin: &Twin, rules: &Rules, now: Moment) -> Outcome {
    let mut draft = draft(twin, rules, now);
    let mut names: Vec<&str> = rules
        .served
        .properties
        .iter()
        .map(|property| property.name.as_str())
        // No report may name it, and no journal could keep it.
        .filter(|name| name.len() <= MAX_NAME)
        .collect();
    names.extend(
        twin.slots
            .keys()
            .map(|name| &**name)
            .filter(|name| rules.property(name).is_none()),
    );
    for name in names {
        let said = manifest(rules, name);
        let mut kept = draft.current(name);
        let same = kept.manifest.as_deref() == said.as_ref();
        if same || (said.is_none() && is_unclear(rules, name)) {
            continue;
        }
        match &said {
            Some(said) => {
                let expires = said.expires.as_deref().and_then(milliseconds);
                let is_over = expires.is_some_and(|expires| expires <= now.wall);
                kept.wish = (!is_over).then(|| Arc::new(wished(said, expires, now)));
            }
            None => kept.wish = kept.wish.filter(|wish| wish.local),
        }
        kept.manifest = said.map(Arc::new);
        draft.put(name, kept, false);
    }
    finish(&draft)
}

/// Good values that nobody has said for too long go stale, and wishes end.
pub(super) fn tick(twin: &Twin, rules: &Rules, now: Moment) -> Outcome {
    changed(twin, rules, now, |name, kept| {
        let heard = twin.slots.get(name).map_or(now.mono, |slot| slot.heard);
        let is_old = rules
            .stale_after(name)
            .is_some_and(|after| now.mono - heard >= after);
        let is_over = |wish: &Arc<Wished>| wish.expires.is_some_and(|expires| expires <= now.wall);
        let ended = kept.wish.as_ref().is_some_and(is_over);
        let aged = if is_old { aged(kept, now) } else { None };
        if !ended {
            return aged;
        }
        Some(Kept {
            wish: None,
            ..aged.unwrap_or_else(|| kept.clone())
        })
    })
}

/// Times that were taken before the clock was set become what they would have been. One that would lie
/// ahead was taken afterwards, or was corrected already.
pub(super) fn clock_set(twin: &Twin, since: i64, by: i64, now: Moment) -> Outcome {
    let shifted = |at: i64| {
        let right = at.saturating_add(by);
        if at >= since && right <= now.wall.saturating_add(CLOCK_SLACK) {
            right
        } else {
            at
        }
    };
    let mut outcome = Outcome::default();
    for (name, kept) in twin.kept() {
        let mut new = kept.clone();
        if let Some(reported) = &mut new.reported {
            let at = shifted(reported.at);
            Arc::make_mut(reported).at = at;
        }
        if let Some(wish) = &mut new.wish {
            let at = shifted(wish.at);
            Arc::make_mut(wish).at = at;
        }
        if new != *kept {
            outcome.changes.push(Change {
                name: name.clone(),
                kept: Some(new),
                heard: false,
                again: true,
                durable: false,
            });
        }
    }
    let stood = twin.stood();
    outcome.stood = Some(Stood {
        last_online: stood.last_online.map(shifted),
        ..stood
    });
    outcome.hear = !outcome.changes.is_empty();
    outcome
}

const fn draft<'a>(twin: &'a Twin, rules: &'a Rules, now: Moment) -> Draft<'a> {
    Draft {
        twin,
        rules,
        now,
        work: BTreeMap::new(),
    }
}

/// Every property of which `change` makes another.
fn changed(twin: &Twin, rules: &Rules, now: Moment, change: impl Fn(&str, &Kept) -> Option<Kept>) -> Outcome {
    let mut draft = draft(twin, rules, now);
    for (name, kept) in twin.kept() {
        if let Some(kept) = change(name, kept) {
            draft.put(name, kept, false);
        }
    }
    finish(&draft)
}

fn finish(draft: &Draft<'_>) -> Outcome {
    let mut outcome = draft.outcome();
    if !outcome.changes.is_empty() {
        outcome.told = Some(draft.told(Origin::Node, ""));
    }
    outcome
}

/// The good value as a stale one; none if it is not good.
fn aged(kept: &Kept, now: Moment) -> Option<Kept> {
    let reported = kept.reported.as_deref()?;
    if reported.own_quality() != Quality::Good {
        return None;
    }
    Some(Kept {
        reported: Some(Arc::new(Reported {
            version: now.version,
            ..reported.clone().with_own_quality(Quality::Stale)
        })),
        ..kept.clone()
    })
}

/// Whether only the model could say if an empty value is wished, and the model is away.
fn is_unclear(rules: &Rules, name: &str) -> bool {
    let wished = |property: &ServedProperty| property.desired.is_some();
    rules.lacks_model() && rules.property(name).is_some_and(wished)
}

fn manifest(rules: &Rules, name: &str) -> Option<Manifest> {
    let property = rules.property(name)?;
    let desired: &Desired = property.desired.as_ref()?;
    // Manifests leave the value empty where they wish for nothing; only text can be wished empty.
    if desired.value.is_empty() && property.type_ != Some(PropertyType::String) {
        return None;
    }
    Some(Manifest {
        value: desired.value.as_str().into(),
        expires: desired.metadata.get("expires").cloned(),
    })
}

fn wished(said: &Manifest, expires: Option<i64>, now: Moment) -> Wished {
    Wished {
        value: said.value.clone(),
        at: now.wall,
        version: now.version,
        local: false,
        expires,
        done: false,
        given_up: String::new(),
    }
}

/// RFC 3339 as ms since 1970; what cannot be read never ends.
fn milliseconds(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}
