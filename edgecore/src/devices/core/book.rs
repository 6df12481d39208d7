//! All devices, and what of them is on its way to flash. Behind the core's lock; nothing here waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::devices::DeviceName;
use tokio::sync::{broadcast, oneshot};

use super::entry::Entry;
use super::seams::Cluster;
use super::versions::Versions;
use super::{Release, Wait};
use crate::devices::journal::{Line, Log, Lost, Recalled, Rows, property_key, standing_key};
use crate::devices::seam::{Refused, Standing, Told};
use crate::devices::served::Served;
use crate::devices::twin::{Event, Moment, Outcome, Rules, Stood, Twin, merge};

pub(super) type Waiter = oneshot::Sender<Result<(), String>>;

/// What became of an event.
pub(super) struct Taken {
    pub(super) told: Option<Arc<Told>>,
    pub(super) standing: Standing,
    /// Whoever asked must wait for this before it is accepted.
    pub(super) wait: Option<oneshot::Receiver<Result<(), String>>>,
    /// A wish has changed.
    pub(super) wishes: bool,
}

/// The round of the flusher that gathers now.
#[derive(Default)]
pub(super) struct Gathering {
    pub(super) number: u64,
    pub(super) waiters: Vec<Waiter>,
    /// Rows of what is gone.
    pub(super) deleted: Vec<String>,
    /// Somebody waits for want of a cluster: it must have everything.
    pub(super) all: bool,
}

/// The round of the flusher that is written now.
pub(super) struct Running {
    pub(super) number: u64,
    /// The outbox is kept too, of all devices.
    pub(super) keeps: bool,
    /// Whoever said once more what it writes.
    pub(super) waiters: Vec<Waiter>,
}

/// All devices.
pub(super) struct Book {
    pub(super) entries: BTreeMap<DeviceName, Entry>,
    /// None while it cannot be written: then everything goes to flash.
    pub(super) log: Option<Log>,
    /// The last one, if it could not be written, and the first round with all that it says.
    pub(super) lost: Option<(u64, Lost)>,
    /// When a log that could not be written is tried again.
    pub(super) log_due: i64,
    /// What the journal holds of devices that are not here, or not yet.
    pub(super) orphans: Recalled,
    pub(super) versions: Versions,
    cluster: Arc<dyn Cluster>,
    pub(super) told: broadcast::Sender<Arc<Told>>,
    touched: BTreeSet<DeviceName>,
    pub(super) gathering: Gathering,
    pub(super) running: Option<Running>,
    closed: bool,
}

impl Book {
    pub(super) fn new(
        recalled: Recalled,
        on_flash: &BTreeSet<String>,
        versions: Versions,
        cluster: Arc<dyn Cluster>,
        told: broadcast::Sender<Arc<Told>>,
    ) -> Self {
        let known: BTreeSet<String> = recalled
            .devices
            .iter()
            .flat_map(|(uid, rows)| keys(uid, rows))
            .collect();
        let deleted = on_flash.difference(&known).cloned().collect();
        Self {
            entries: BTreeMap::new(),
            log: None,
            lost: None,
            log_due: i64::MIN,
            orphans: recalled,
            versions,
            cluster,
            told,
            touched: BTreeSet::new(),
            gathering: Gathering {
                deleted,
                ..Gathering::default()
            },
            running: None,
            closed: false,
        }
    }

    pub(super) fn entry(&self, name: &DeviceName) -> Option<&Entry> {
        self.entries.get(name)
    }

    pub(super) fn next_version(&self) -> Result<u64, Refused> {
        let version = self.versions.next();
        version.ok_or_else(|| Refused::Unavailable("the flash does not keep up".to_owned()))
    }

    /// Whether values must be on flash before they are accepted.
    pub(super) fn is_away(&self) -> bool {
        self.log.is_none() || self.cluster.is_away()
    }

    /// Takes nothing from now on.
    pub(super) const fn close(&mut self) {
        self.closed = true;
    }

    /// Takes what a carrier says, whole or not at all.
    pub(super) fn take(
        &mut self,
        name: &DeviceName,
        event: Event<'_>,
        now: Moment,
    ) -> Result<Taken, Refused> {
        if self.closed {
            return Err(Refused::Unavailable("edgecore stops".to_owned()));
        }
        let Some(entry) = self.entries.get(name) else {
            return Err(Refused::UnknownDevice(name.clone()));
        };
        let outcome = merge(&entry.twin, &entry.rules, event, now)?;
        self.settle(name, outcome, now, true)
            .ok_or_else(|| Refused::UnknownDevice(name.clone()))
    }

    /// Carries an outcome out: log, twin, then whoever listens. `asked` says that somebody waits to
    /// hear that it is accepted.
    fn settle(&mut self, name: &DeviceName, outcome: Outcome, now: Moment, asked: bool) -> Option<Taken> {
        if !outcome.changes.is_empty() {
            self.versions.used();
        }
        self.log_outcome(name, &outcome);
        // After the log: whoever has none needs flash from this one on.
        let mut wait = Wait::Nothing;
        if asked && self.is_away() {
            wait = self.round_of_all(name, &outcome, now);
            self.gathering.all |= wait == Wait::Next;
        }
        let entry = self.entries.get_mut(name)?;
        for change in &outcome.changes {
            if entry.wants_flash(change, now) {
                entry.dirty.insert(change.name.clone());
            }
            if asked && change.durable {
                wait = wait.max(entry.round_of(&change.name));
            }
        }
        entry.twin.apply(&outcome, now);
        if !self.touched.contains(name) {
            self.touched.insert(name.clone());
        }
        let standing = entry.twin.standing();
        let waits = self.wait_for(wait);
        let message = outcome.told.map(Arc::new);
        if let Some(message) = &message {
            self.tell_after(name, waits.as_ref().map(|(round, _)| *round), message);
        }
        Some(Taken {
            told: message,
            standing,
            wait: waits.map(|(_, receiver)| receiver),
            wishes: outcome.wishes,
        })
    }

    /// The number of the round that somebody waits for, and where he hears of its end.
    fn wait_for(&mut self, wait: Wait) -> Option<(u64, oneshot::Receiver<Result<(), String>>)> {
        let gathering = &mut self.gathering;
        let (number, waiters) = match (wait, &mut self.running) {
            (Wait::Nothing, _) => return None,
            (Wait::Running, Some(running)) => (running.number, &mut running.waiters),
            (Wait::Running | Wait::Next, _) => (gathering.number, &mut gathering.waiters),
        };
        let (sender, receiver) = oneshot::channel();
        waiters.push(sender);
        Some((number, receiver))
    }

    /// Tells whoever listens: after that round, and after all that came before.
    fn tell_after(&mut self, name: &DeviceName, round: Option<u64>, message: &Arc<Told>) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let behind = entry.late.back().map(|(round, _)| *round);
        match round.max(behind) {
            None => drop(self.told.send(Arc::clone(message))),
            Some(round) => entry.late.push_back((round, Arc::clone(message))),
        }
    }

    /// Which round has all that was ever accepted, and this.
    fn round_of_all(&self, name: &DeviceName, outcome: &Outcome, now: Moment) -> Wait {
        let news = self.entries.get(name).is_some_and(|entry| {
            let before = entry.twin.stood();
            let is_other = |stood: Stood| (stood.state, stood.said) != (before.state, before.said);
            let mut changes = outcome.changes.iter();
            outcome.stood.is_some_and(is_other) || changes.any(|change| entry.wants_flash(change, now))
        });
        if news || self.entries.values().any(Entry::is_dirty) {
            return Wait::Next;
        }
        match &self.running {
            Some(running) if running.keeps => Wait::Running,
            Some(_) => Wait::Next,
            None => Wait::Nothing,
        }
    }

    /// Names that something happened to since the last call, those that are due, and those that must be
    /// in the outbox.
    pub(super) fn names_to_see(&mut self, mono: i64, release: Release) -> BTreeSet<DeviceName> {
        let mut names = std::mem::take(&mut self.touched);
        let is_due = |entry: &Entry| entry.due.is_some_and(|due| due <= mono) || entry.owes(release);
        let due = self.entries.iter().filter(|(_, entry)| is_due(entry));
        names.extend(due.map(|(name, _)| name.clone()));
        names
    }

    /// When the next device is due.
    pub(super) fn next_due(&self) -> Option<i64> {
        self.entries.values().filter_map(|entry| entry.due).min()
    }

    /// Something happens to every device.
    pub(super) fn touch_all(&mut self) {
        self.touched = self.entries.keys().cloned().collect();
    }

    /// Lets time pass for one device, and tells the cluster what is due. True if a wish has changed.
    pub(super) fn step(
        &mut self,
        name: &DeviceName,
        event: Event<'_>,
        now: Moment,
        release: Release,
    ) -> bool {
        let Some(entry) = self.entries.get(name) else {
            return false;
        };
        let mut wishes = false;
        if let Ok(outcome) = merge(&entry.twin, &entry.rules, event, now)
            && !(outcome.changes.is_empty() && !outcome.hear && outcome.stood.is_none())
        {
            wishes = outcome.wishes;
            self.settle(name, outcome, now, false);
            self.touched.remove(name);
        }
        let away = self.is_away();
        if let Some(entry) = self.entries.get_mut(name) {
            entry.tell(&*self.cluster, now, away, release);
        }
        wishes
    }

    /// A device is here, new or changed.
    pub(super) fn serve(&mut self, served: &Arc<Served>, now: Moment) {
        let name = served.name();
        let is_another = |entry: &Entry| entry.uid() != served.identity.uid;
        if self.entries.get(&name).is_some_and(is_another) {
            self.remove(&name);
        }
        let rules = Rules::of(Arc::clone(served));
        if let Some(entry) = self.entries.get_mut(&name) {
            entry.rules = rules;
            entry.twin.tell_anew();
        } else {
            let rows = self
                .orphans
                .devices
                .remove(&served.identity.uid)
                .unwrap_or_default();
            let mut entry = Entry::new(rules, Twin::recall(rows.kept, rows.stood, now));
            if self.orphans.is_from_log {
                entry.dirty = entry.twin.kept().map(|(name, _)| name.clone()).collect();
            }
            self.entries.insert(name.clone(), entry);
        }
        self.touched.insert(name.clone());
        let Some(entry) = self.entries.get(&name) else {
            return;
        };
        if let Ok(outcome) = merge(&entry.twin, &entry.rules, Event::Catalog, now) {
            self.settle(&name, outcome, now, false);
        }
    }

    /// A device is gone, and what was kept of it.
    pub(super) fn remove(&mut self, name: &DeviceName) {
        let Some(mut entry) = self.entries.remove(name) else {
            return;
        };
        for (_, message) in entry.late.drain(..) {
            drop(self.told.send(message));
        }
        let uid = entry.uid();
        let rows = entry.twin.kept().map(|(property, _)| property_key(uid, property));
        let dropped = entry.dirty.iter().map(|property| property_key(uid, property));
        self.gathering
            .deleted
            .extend(rows.chain(dropped).chain([standing_key(uid)]));
        let appended = self
            .log
            .as_mut()
            .map(|log| log.append([Line::gone(uid)].into_iter()));
        self.cluster.forget(&entry.rules.served.identity);
        if let Some(Err(error)) = appended {
            self.lose_log(&error);
        }
    }

    /// The cluster has said which devices there are: what is kept of others is of no use.
    pub(super) fn drop_orphans(&mut self) {
        for (uid, rows) in std::mem::take(&mut self.orphans.devices) {
            tracing::info!(uid, "a device is gone, and what was kept of it");
            self.gathering.deleted.extend(keys(&uid, &rows));
            let appended = self
                .log
                .as_mut()
                .map(|log| log.append([Line::gone(&uid)].into_iter()));
            if let Some(Err(error)) = appended {
                self.lose_log(&error);
            }
        }
    }
}

fn keys(uid: &str, rows: &Rows) -> Vec<String> {
    let kept = rows.kept.keys().map(|name| property_key(uid, name));
    kept.chain([standing_key(uid)]).collect()
}
