//! One device in the book: its twin, and what of it is where.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::seams::Cluster;
use super::{Release, Wait};
use crate::devices::seam::Told;
use crate::devices::twin::{Change, Moment, Outcome, Rules, Stood, Twin};

/// A value that is said again commits only its time, and no oftener than this.
const AGAIN: i64 = 60_000;
/// The outbox takes a device's status no oftener, in ms: the cluster takes one in a second, and each is
/// written out whole.
const PACE: i64 = 900;
/// A model that is replaced is away for a moment; its values must not leave the cluster for it, in ms.
const MODEL_BACK: i64 = 10_000;
/// When a device was last seen is kept so exactly on tmpfs, and on flash.
const SEEN_LOGGED: i64 = 1_000;
const SEEN_FLASHED: i64 = 600_000;

/// One device.
pub(super) struct Entry {
    pub(super) rules: Rules,
    pub(super) twin: Twin,
    /// Properties whose row on flash is not the newest.
    pub(super) dirty: BTreeSet<Arc<str>>,
    /// Properties whose newest row is being written.
    pub(super) writing: BTreeSet<Arc<str>>,
    /// When each property's row was last written.
    pub(super) flashed: BTreeMap<Arc<str>, i64>,
    pub(super) stood_flashed: Option<Stood>,
    stood_logged: Option<Stood>,
    /// What is told after the round of that number.
    pub(super) late: VecDeque<(u64, Arc<Told>)>,
    /// The cluster must hear, and when it last did.
    tell: bool,
    told_at: i64,
    /// A cycle holds a value back.
    held: bool,
    /// Since when the device's model is not here.
    lacks_model: Option<i64>,
    /// When there is something to do although nothing happens.
    pub(super) due: Option<i64>,
}

impl Entry {
    pub(super) fn new(rules: Rules, twin: Twin) -> Self {
        Self {
            rules,
            twin,
            dirty: BTreeSet::new(),
            writing: BTreeSet::new(),
            flashed: BTreeMap::new(),
            stood_flashed: None,
            stood_logged: None,
            late: VecDeque::new(),
            tell: false,
            told_at: i64::MIN / 2,
            held: false,
            lacks_model: None,
            due: None,
        }
    }

    pub(super) fn uid(&self) -> &str {
        &self.rules.served.identity.uid
    }

    /// Whether the flash must have this change: it is new, or its time has grown old there.
    pub(super) fn wants_flash(&self, change: &Change, now: Moment) -> bool {
        if !change.again {
            return true;
        }
        let flashed = self.flashed.get(&change.name);
        flashed.is_none_or(|flashed| now.mono - flashed >= AGAIN)
    }

    /// Which round has the newest row of a property.
    pub(super) fn round_of(&self, property: &str) -> Wait {
        if self.dirty.contains(property) {
            Wait::Next
        } else if self.writing.contains(property) {
            Wait::Running
        } else {
            Wait::Nothing
        }
    }

    /// Whether flash lacks something that must be there while there is no link.
    pub(super) fn is_dirty(&self) -> bool {
        let stood = self.twin.stood();
        let same = |kept: Stood| (kept.state, kept.said) == (stood.state, stood.said);
        !self.dirty.is_empty() || !self.stood_flashed.is_some_and(same)
    }

    /// Whether the outbox lacks something that it must have before it is kept.
    pub(super) fn owes(&self, release: Release) -> bool {
        match release {
            Release::Due => false,
            Release::Durable => self.tell && self.is_durable_dirty(),
            Release::Held => self.tell || self.held,
        }
    }

    /// Until when the model may come back, before the cluster is told that the device has none.
    fn model_due(&mut self, now: Moment) -> i64 {
        if !self.rules.lacks_model() {
            self.lacks_model = None;
            return i64::MIN;
        }
        *self.lacks_model.get_or_insert(now.mono) + MODEL_BACK
    }

    fn is_durable_dirty(&self) -> bool {
        self.dirty.iter().any(|property| self.rules.is_durable(property))
    }

    /// How the device is, if the log should say so.
    pub(super) fn stood_to_log(&mut self, outcome: &Outcome) -> Option<Stood> {
        let stood = outcome.stood?;
        if is_kept(self.stood_logged, stood, SEEN_LOGGED) {
            return None;
        }
        self.stood_logged = Some(stood);
        Some(stood)
    }

    /// How the device is, if flash should say so.
    pub(super) fn stood_to_flash(&mut self) -> Option<Stood> {
        let stood = self.twin.stood();
        if is_kept(self.stood_flashed, stood, SEEN_FLASHED) {
            return None;
        }
        self.stood_flashed = Some(stood);
        Some(stood)
    }

    /// Tells the cluster what is due, and finds out when there is more to do.
    pub(super) fn tell(&mut self, cluster: &dyn Cluster, now: Moment, away: bool, release: Release) {
        let cycles = !away && release != Release::Held;
        self.tell |= self.twin.release(&self.rules, now, cycles);
        self.held = cycles && self.twin.holds_back(&self.rules, now);
        let next = self.told_at + PACE;
        let back = self.model_due(now);
        if self.tell && now.mono >= back && (self.owes(release) || now.mono >= next) {
            cluster.tell(&self.rules.served.identity, &self.twin.status(&self.rules));
            self.tell = false;
            self.told_at = now.mono;
        }
        let due = self.twin.next_due(&self.rules, now, !away);
        let again = self.tell.then_some(next.max(back));
        self.due = [due, again].into_iter().flatten().min();
    }
}

fn is_kept(before: Option<Stood>, now: Stood, by: i64) -> bool {
    let Some(before) = before else { return false };
    let seen = |stood: Stood| stood.last_online.unwrap_or_default();
    before.state == now.state && before.said == now.said && (seen(now) - seen(before)).abs() < by
}
