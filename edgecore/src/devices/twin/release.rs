//! What the cluster hears, and when: the first change at once, then the newest at the end of the cycle.

use std::sync::Arc;

use protocol::devices::DeviceState;

use super::{Moment, Reported, Rules, Slot, Twin};

/// A value that is said again is told again after this, for its time.
const REFRESH: i64 = 60_000;
/// A wish may end sooner by the clock than was counted, when the clock is set.
const LOOK_AGAIN: i64 = 60_000;

impl Twin {
    /// Moves what is due into what the cluster hears; whether it is to be told. `held` says whether
    /// cycles count: while there is no link they spare nothing.
    pub(crate) fn release(&mut self, rules: &Rules, now: Moment, held: bool) -> bool {
        let mut tell = std::mem::take(&mut self.hear) | self.release_state(rules, now, held);
        for (name, slot) in &mut self.slots {
            if slot.kept.reported.is_none() {
                tell |= slot.released.take().is_some();
                continue;
            }
            let due = slot.due(rules, name, held);
            if due.is_none_or(|due| now.mono < due) {
                continue;
            }
            slot.released.clone_from(&slot.kept.reported);
            slot.released_at = now.mono;
            tell |= rules.is_for_the_cluster(name) && slot.is_fresh();
        }
        tell
    }

    fn release_state(&mut self, rules: &Rules, now: Moment, held: bool) -> bool {
        if self.state_due(rules, held).is_none_or(|due| now.mono < due) {
            return false;
        }
        let first = self.stood_told.replace((self.stood.state, now.mono)).is_none();
        // That nobody knows anything is no news.
        !(first && self.stood.state == DeviceState::Unknown)
    }

    /// When the cluster may hear of a state that it has not heard of.
    fn state_due(&self, rules: &Rules, held: bool) -> Option<i64> {
        let Some((told, at)) = self.stood_told else {
            return Some(i64::MIN);
        };
        let cycle = if held { rules.state_cycle() } else { 0 };
        (told != self.stood.state).then(|| at.saturating_add(cycle))
    }

    /// Whether a cycle keeps a value from the cluster.
    pub(crate) fn holds_back(&self, rules: &Rules, now: Moment) -> bool {
        let due = |(name, slot): (&Arc<str>, &Slot)| slot.due(rules, name, false);
        let state = self.state_due(rules, false);
        let slots = self.slots.iter().filter_map(due);
        slots.chain(state).any(|due| due <= now.mono)
    }

    /// When there is something to do although nothing happens: the next cycle that ends with
    /// something to tell, the next value to go stale, the next wish to end.
    pub(crate) fn next_due(&self, rules: &Rules, now: Moment, held: bool) -> Option<i64> {
        let due = |(name, slot): (&Arc<str>, &Slot)| {
            let released = slot.due(rules, name, held);
            let stale = slot.goes_stale(rules, name);
            let ends = slot.kept.wish.as_ref().and_then(|wish| wish.expires);
            let ends = ends.map(|ends| now.mono + (ends - now.wall).clamp(0, LOOK_AGAIN));
            [released, stale, ends].into_iter().flatten().min()
        };
        let hear = self.hear.then_some(now.mono);
        let state = self.state_due(rules, held).map(|due| due.max(now.mono));
        let slots = self.slots.iter().filter_map(due);
        slots.chain(hear).chain(state).min()
    }
}

impl Slot {
    /// When the cluster may hear what it has not heard.
    fn due(&self, rules: &Rules, name: &str, held: bool) -> Option<i64> {
        let reported = self.kept.reported.as_ref()?;
        let Some(released) = &self.released else {
            return Some(i64::MIN);
        };
        if Arc::ptr_eq(reported, released) || reported == released {
            return None;
        }
        if released.recalled.is_some() {
            return Some(i64::MIN);
        }
        if reported.is_again(released) {
            return Some(self.released_at + REFRESH);
        }
        let cycle = if held && !reported.mapper {
            rules.report_cycle(name)
        } else {
            0
        };
        Some(self.released_at.saturating_add(cycle))
    }

    fn goes_stale(&self, rules: &Rules, name: &str) -> Option<i64> {
        let reported = self.kept.reported.as_ref()?;
        if reported.own_quality() != super::Quality::Good {
            return None;
        }
        Some(self.heard.saturating_add(rules.stale_after(name)?))
    }

    fn is_fresh(&self) -> bool {
        self.released
            .as_deref()
            .is_some_and(|Reported { recalled, .. }| recalled.is_none())
    }
}
