//! All devices, and what of them is on its way to flash. Behind the core's lock; nothing here waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::devices::DeviceName;
use tokio::sync::{broadcast, oneshot};

use super::entry::Entry;
use super::seams::Cluster;
use super::versions::Versions;
use crate::devices::journal::{Line, Log, Recalled, Rows, property_key, standing_key};
use crate::devices::seam::{Refused, Standing, Told};
use crate::devices::served::Served;
use crate::devices::twin::{Event, Moment, Outcome, Rules, Twin, merge};

/// After a log could not be written, in ms.
const LOG_PAUSE: i64 = 60_000;

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
}

/// All devices.
pub(super) struct Book {
    pub(super) entries: BTreeMap<DeviceName, Entry>,
    /// None while it cannot be written: then everything goes to flash.
    log: Option<Log>,
    /// When a log that could not be written is tried again.
    log_due: i64,
    /// What the journal holds of devices that are not here, or not yet.
    orphans: Recalled,
    pub(super) versions: Versions,
    cluster: Arc<dyn Cluster>,
    pub(super) told: broadcast::Sender<Arc<Told>>,
    touched: BTreeSet<DeviceName>,
    pub(super) gathering: Gathering,
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
        let away = self.is_away();
        self.settle(name, outcome, now, Some(away))
            .ok_or_else(|| Refused::UnknownDevice(name.clone()))
    }

    /// Carries an outcome out: log, twin, then whoever listens. `asked` is there when somebody waits to
    /// hear that it is accepted, and says whether flash must have it for want of a cluster.
    fn settle(
        &mut self,
        name: &DeviceName,
        outcome: Outcome,
        now: Moment,
        asked: Option<bool>,
    ) -> Option<Taken> {
        if !outcome.changes.is_empty() {
            self.versions.used();
        }
        self.log_outcome(name, &outcome);
        let away_dirty = asked == Some(true) && self.is_any_dirty_with(name, &outcome, now);
        let entry = self.entries.get_mut(name)?;
        let mut wait = away_dirty;
        for change in &outcome.changes {
            if entry.wants_flash(change, now) {
                entry.dirty.insert(change.name.clone());
            }
            wait |= asked.is_some() && change.durable && entry.dirty.contains(&change.name);
        }
        entry.twin.apply(&outcome, now);
        if !self.touched.contains(name) {
            self.touched.insert(name.clone());
        }
        let receiver = wait.then(|| {
            let (sender, receiver) = oneshot::channel();
            self.gathering.waiters.push(sender);
            receiver
        });
        let message = outcome.told.map(Arc::new);
        if let Some(message) = &message {
            let behind = entry.late.back().map(|(round, _)| *round);
            match (wait, behind) {
                (false, None) => drop(self.told.send(Arc::clone(message))),
                (true, _) => entry.late.push_back((self.gathering.number, Arc::clone(message))),
                (false, Some(round)) => entry.late.push_back((round, Arc::clone(message))),
            }
        }
        Some(Taken {
            told: message,
            standing: entry.twin.standing(),
            wait: receiver,
            wishes: outcome.wishes,
        })
    }

    fn is_any_dirty_with(&self, name: &DeviceName, outcome: &Outcome, now: Moment) -> bool {
        let entry = self.entries.get(name);
        let news = entry.is_some_and(|entry| {
            outcome
                .changes
                .iter()
                .any(|change| entry.wants_flash(change, now))
        });
        news || self.entries.values().any(|entry| !entry.dirty.is_empty())
    }

    fn log_outcome(&mut self, name: &DeviceName, outcome: &Outcome) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let stood = entry.stood_to_log(outcome);
        let uid = entry.uid();
        let changes = outcome.changes.iter();
        let changes = changes.map(|change| Line::property(uid, &change.name, change.kept.as_ref()));
        let lines = changes.chain(stood.map(|stood| Line::standing(uid, stood)));
        let appended = self.log.as_mut().map(|log| log.append(lines));
        if let Some(Err(error)) = appended {
            self.lose_log(&error);
        }
    }

    /// Flash must have everything from now on, and the log must not be read again.
    fn lose_log(&mut self, error: &std::io::Error) {
        tracing::error!(%error, "the journal of devices cannot be written; values go to flash");
        if let Some(log) = self.log.take() {
            log.abandon();
        }
        for entry in self.entries.values_mut() {
            let names: Vec<_> = entry.twin.kept().map(|(name, _)| name.clone()).collect();
            entry.dirty.extend(names);
        }
    }

    /// Every line of a log that holds all there is.
    pub(super) fn lines(&self, anchor: Option<i64>) -> impl Iterator<Item = Line<'_>> {
        let devices = self.entries.values().flat_map(|entry| {
            let uid = entry.uid();
            let kept = entry.twin.kept();
            let kept = kept.map(move |(name, kept)| Line::property(uid, name, Some(kept)));
            kept.chain([Line::standing(uid, entry.twin.stood())])
        });
        let orphans = self.orphans.devices.iter().flat_map(|(uid, rows)| {
            let kept = rows.kept.iter();
            let kept = kept.map(move |(name, kept)| Line::property(uid, name, Some(kept)));
            kept.chain(rows.stood.map(|stood| Line::standing(uid, stood)))
        });
        anchor.map(Line::anchor).into_iter().chain(devices).chain(orphans)
    }

    pub(super) fn begin_log(&mut self, log: Log) {
        self.log = Some(log);
    }

    /// Whether the log should be written anew.
    pub(super) fn wants_log(&self, mono: i64) -> bool {
        mono >= self.log_due && self.log.as_ref().is_none_or(Log::has_grown)
    }

    /// The log could not be written.
    pub(super) const fn retry_log_after(&mut self, mono: i64) {
        self.log_due = mono + LOG_PAUSE;
    }

    /// Notes in the log how the clock stands.
    pub(super) fn log_anchor(&mut self, anchor: i64) {
        let appended = self
            .log
            .as_mut()
            .map(|log| log.append([Line::anchor(anchor)].into_iter()));
        if let Some(Err(error)) = appended {
            self.lose_log(&error);
        }
    }

    /// How the clock stood when the log was last written.
    pub(super) const fn recalled_anchor(&self) -> Option<i64> {
        self.orphans.anchor
    }

    /// Names that something happened to since the last call, and those that are due.
    pub(super) fn names_to_see(&mut self, mono: i64) -> BTreeSet<DeviceName> {
        let mut names = std::mem::take(&mut self.touched);
        let due = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.due.is_some_and(|due| due <= mono));
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
    pub(super) fn step(&mut self, name: &DeviceName, event: Event<'_>, now: Moment, force: bool) -> bool {
        let Some(entry) = self.entries.get(name) else {
            return false;
        };
        let mut wishes = false;
        if let Ok(outcome) = merge(&entry.twin, &entry.rules, event, now)
            && !(outcome.changes.is_empty() && !outcome.hear && outcome.stood.is_none())
        {
            wishes = outcome.wishes;
            self.settle(name, outcome, now, None);
            self.touched.remove(name);
        }
        let away = self.is_away();
        if let Some(entry) = self.entries.get_mut(name) {
            entry.tell(&*self.cluster, now, away, force);
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
            self.settle(&name, outcome, now, None);
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
