//! The twins without tasks, store and clock: for the simulation, which brings its own of each.
//!
//! What it is: the book, its merge, its log and its rounds, called in the order in which [`Core`] calls
//! them. What it is not: a part of a running edgecore.
//!
//! **Invariant:** nothing is decided here.
//!
//! [`Core`]: super::Core

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use protocol::devices::{DeviceIdentity, DeviceName, DeviceStatusStatus};
use protocol::object::Object;
use tokio::sync::{broadcast, oneshot};

use super::Release;
use super::book::Book;
use super::catalog::Catalog;
use super::flusher::{Round, Scope};
use super::seams::Cluster;
use super::versions::Versions;
use crate::devices::journal::{Log, read_rows};
use crate::devices::seam::{Refused, Report, TwinView};
use crate::devices::served::Served;
use crate::devices::twin::{Event, Moment};
use crate::store::Op;

/// When something happens, in ms: by the node's clock, and since edgecore started.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Since 1970.
    pub wall: i64,
    /// Since the start.
    pub mono: i64,
}

/// What the twins told the outbox.
#[derive(Default)]
struct Ear {
    away: AtomicBool,
    told: Mutex<Vec<(DeviceIdentity, DeviceStatusStatus)>>,
    forgotten: Mutex<Vec<DeviceIdentity>>,
}

impl Cluster for Ear {
    fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    fn tell(&self, device: &DeviceIdentity, status: &DeviceStatusStatus) {
        self.told.lock().push((device.clone(), status.clone()));
    }

    /// Whoever carries out a round keeps the outbox himself.
    fn keep(&self, _: Option<Vec<DeviceIdentity>>) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn forget(&self, device: &DeviceIdentity) {
        self.forgotten.lock().push(device.clone());
    }
}

/// The twins of one node.
pub struct Stage {
    book: Book,
    catalog: Catalog,
    devices: BTreeMap<DeviceName, Arc<Served>>,
    ear: Arc<Ear>,
}

/// One commit of the journal to flash. Answer with [`Stage::end_round`].
pub struct FlashRound {
    /// The rows; none where one is deleted.
    pub rows: Vec<(String, Option<Bytes>)>,
    /// The devices whose newest report must be in the outbox's flash too, if not those of all.
    pub devices: Vec<DeviceIdentity>,
    /// Those of all must be there.
    pub keeps: bool,
    round: Round,
}

/// Whoever reported waits for this.
pub type Accepted = oneshot::Receiver<Result<(), String>>;

impl Stage {
    /// The twins as the log in `dir`, else the flash, holds them; and up to where versions are reserved now.
    ///
    /// # Errors
    ///
    /// If the log cannot be read or written.
    pub fn open(
        dir: &Path,
        of_boot: &str,
        flash: Vec<(String, Bytes)>,
        reserved: u64,
        now: Now,
    ) -> std::io::Result<(Self, u64)> {
        let on_flash: BTreeSet<String> = flash.iter().map(|(key, _)| key.clone()).collect();
        let (versions, end) = Versions::after(reserved, now.wall.unsigned_abs());
        let recalled = Log::read(dir, of_boot)?.unwrap_or_else(|| read_rows(flash));
        let ear = Arc::new(Ear::default());
        let told = broadcast::channel(1).0;
        let mut book = Book::new(recalled, &on_flash, versions, Arc::clone(&ear) as _, told);
        let log = Log::write(dir, of_boot, book.lines(None))?;
        book.begin_log(log);
        let stage = Self {
            book,
            catalog: Catalog::default(),
            devices: BTreeMap::new(),
            ear,
        };
        Ok((stage, end))
    }

    /// Serves the devices that are here now.
    pub fn refresh(&mut self, objects: &[Arc<Object>], confirmed: bool, now: Now) {
        let fresh = self.catalog.served(objects);
        let before = std::mem::take(&mut self.devices);
        for name in before.keys().filter(|name| !fresh.contains_key(*name)) {
            self.book.remove(name);
        }
        for (name, served) in fresh {
            let same = before.get(&name).filter(|before| ***before == served);
            let served = same.cloned().unwrap_or_else(|| Arc::new(served));
            if same.is_none()
                && let Some(now) = self.moment(now)
            {
                self.book.serve(&served, now);
            }
            self.devices.insert(name, served);
        }
        if confirmed {
            self.book.drop_orphans();
        }
    }

    /// The devices that are served.
    pub const fn devices(&self) -> &BTreeMap<DeviceName, Arc<Served>> {
        &self.devices
    }

    /// The twin of a device.
    pub fn twin(&self, device: &DeviceName) -> Option<BTreeMap<String, TwinView>> {
        let entry = self.book.entry(device)?;
        Some(entry.twin.views(&entry.rules))
    }

    /// Whether nobody takes what devices say.
    pub fn set_away(&mut self, away: bool) {
        if self.ear.away.swap(away, Ordering::Relaxed) != away {
            self.book.touch_all();
        }
    }

    /// When there is something to do although nothing happens.
    pub fn next_due(&self) -> Option<i64> {
        self.book.next_due()
    }

    /// Takes what a device said: accepted now, or when a round of the flash has ended.
    ///
    /// # Errors
    ///
    /// If it is refused; nothing of it was taken.
    pub fn report(&mut self, report: &Report, now: Now) -> Result<Option<Accepted>, Refused> {
        let none = || Refused::Unavailable("there are no versions".to_owned());
        let moment = self.moment(now).ok_or_else(none)?;
        let taken = self.book.take(&report.device, Event::Report(report), moment)?;
        Ok(taken.wait)
    }

    /// Lets time pass; `force` is for what must be in the outbox before it is kept.
    pub fn step(&mut self, force: bool, now: Now) {
        let release = match (force, self.ear.is_away()) {
            (false, _) => Release::Due,
            (true, false) => Release::Durable,
            (true, true) => Release::Held,
        };
        for name in self.book.names_to_see(now.mono, release) {
            if let Some(moment) = self.moment(now) {
                self.book.step(&name, Event::Tick, moment, release);
            }
        }
    }

    /// What the cluster was told since the last call, in order.
    pub fn told(&self) -> Vec<(DeviceIdentity, DeviceStatusStatus)> {
        std::mem::take(&mut self.ear.told.lock())
    }

    /// The devices that are not this node's any more, since the last call.
    pub fn forgotten(&self) -> Vec<DeviceIdentity> {
        std::mem::take(&mut self.ear.forgotten.lock())
    }

    /// Begins a round: of everything, or of what must be on flash whatever the link does.
    pub fn begin_round(&mut self, everything: bool, now: Now) -> FlashRound {
        let all = std::mem::take(&mut self.book.gathering.all);
        let keeps = all || self.ear.is_away();
        let scope = if everything || all {
            Scope::All
        } else {
            Scope::Durable
        };
        let mut round = self.book.begin_round(scope, keeps, now.mono);
        let rows = std::mem::take(&mut round.rows);
        let value = |op: Op| match op {
            Op::Put(value) => Some(value),
            Op::Delete => None,
        };
        FlashRound {
            rows: rows.into_iter().map(|(key, op)| (key, value(op))).collect(),
            devices: round.devices.clone(),
            keeps,
            round,
        }
    }

    /// A round was written: whoever waits for it is told.
    pub fn end_round(&mut self, round: FlashRound) {
        let mut round = round.round;
        let waiters = std::mem::take(&mut round.waiters);
        self.book.end_round(round, &Ok(()));
        for waiter in waiters {
            // Whoever does not wait any more has its own reasons.
            drop(waiter.send(Ok(())));
        }
    }

    fn moment(&self, now: Now) -> Option<Moment> {
        let version = self.book.next_version().ok()?;
        Some(Moment {
            wall: now.wall,
            mono: now.mono,
            version,
        })
    }
}
