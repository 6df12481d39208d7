//! The twins of this node: every device's, behind one lock, with the journal below and the cluster above.
//!
//! ```text
//! carriers ──report──► Book (merge, log, apply) ──told──► carriers
//!                        │ wants flash     │ touched
//!                        ▼                 ▼
//!                     Flusher           Keeper ──tell──► Cluster (outbox)
//!                        └──rows, kept entries──► flash
//! ```
//!
//! The lock is never held across a wait: the log is on tmpfs, and the outbox takes a status in memory.
//! A report that needs flash waits for the next round of the flusher, together with all others.
//!
//! **Invariant:** what local clients are told of a device comes in the order in which it was merged.

mod book;
mod catalog;
mod entry;
mod flusher;
mod keeper;
mod logged;
mod look;
mod seams;
mod stage;
mod stopped;
#[cfg(test)]
mod tests;
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use protocol::clock::Clock;
use protocol::devices::{DeviceName, DeviceState};
use thiserror::Error;
use tokio::sync::{Notify, broadcast, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::journal::{Log, Recalled, read_rows};
use super::seam::{Refused, Report, Standing, Told, TwinView, Twins, Wish};
use super::served::Served;
use super::twin::{Event, Moment};
use crate::store::{Db, StoreError, Table};
use book::{Book, Taken};
use catalog::Catalog;
use versions::Versions;

pub use look::{Held, look};
pub use seams::{Cluster, Source};
pub use stage::{Accepted, FlashRound, Now, Stage};

/// Reports that a slow listener may be behind: half a second of the most that a node takes.
const TOLD: usize = 4_096;

/// How much of what is held back goes to the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Release {
    /// What is due.
    Due,
    /// That, and what must be on flash whatever the link does.
    Durable,
    /// Everything, whatever its cycle: the outbox is kept.
    Held,
}

/// Which round of the flusher somebody must wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wait {
    /// None.
    Nothing,
    /// The one that is written now.
    Running,
    /// The one that gathers.
    Next,
}

/// What the twins stand on.
pub struct Ground {
    /// The directory of the log.
    pub journal_dir: PathBuf,
    /// The root of the file system, for `/proc`.
    pub root: PathBuf,
    /// The flash.
    pub db: Db,
    /// The one clock.
    pub clock: Clock,
    /// Who takes what devices said.
    pub cluster: Arc<dyn Cluster>,
    /// Who knows which devices are here.
    pub source: Arc<dyn Source>,
}

/// Why there are no twins.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The store refused.
    #[error("the journal of devices could not be read from the store")]
    Store(#[from] StoreError),
}

/// The twins of this node.
pub struct Core {
    ground: Ground,
    boot: Option<String>,
    lost_power: bool,
    began: Instant,
    book: Mutex<Book>,
    catalog: Mutex<Catalog>,
    devices: RwLock<Arc<BTreeMap<DeviceName, Arc<Served>>>>,
    told: broadcast::Sender<Arc<Told>>,
    changed: watch::Sender<u64>,
    /// There is something for the cluster.
    touched: Notify,
    /// Somebody waits for the flash.
    wanted: Notify,
}

impl Core {
    /// The twins as the journal holds them, of the devices that are here.
    pub async fn open(ground: Ground) -> Result<Arc<Self>, OpenError> {
        let this_boot = super::journal::boot_id(&ground.root)
            .inspect_err(
                |error| tracing::warn!(%error, "this boot cannot be told from others; values go to flash"),
            )
            .ok();
        let versions = Versions::reserve(&ground.db, &ground.clock).await?;
        let flash = ground.db.scan(Table::Device).await?;
        let on_flash: BTreeSet<String> = flash.iter().map(|(key, _)| key.clone()).collect();
        let recalled = recall(&ground, this_boot.as_deref(), read_rows(flash));
        let stopped = stopped::take(&ground.db).await?;
        let lost_power = !stopped && !recalled.is_from_log && !on_flash.is_empty();
        if recalled.skipped > 0 {
            tracing::warn!(
                records = recalled.skipped,
                "records of the journal of devices cannot be read; they are skipped"
            );
        }
        let told = broadcast::channel(TOLD).0;
        let book = Book::new(
            recalled,
            &on_flash,
            versions,
            Arc::clone(&ground.cluster),
            told.clone(),
        );
        let core = Arc::new(Self {
            boot: this_boot,
            lost_power,
            began: Instant::now(),
            book: Mutex::new(book),
            catalog: Mutex::default(),
            devices: RwLock::default(),
            told,
            changed: watch::channel(0).0,
            touched: Notify::new(),
            wanted: Notify::new(),
            ground,
        });
        core.refresh();
        core.rewrite_log();
        core.correct_times();
        Ok(core)
    }

    /// Keeps the twins until `stop`; what was accepted is on flash when this returns. Carriers must
    /// have ended before, for nothing is accepted any more.
    pub async fn run(&self, stop: &CancellationToken) {
        tokio::join!(self.follow(stop), self.keep(stop), self.flush_when_due(stop));
        self.book.lock().close();
        self.flush_all().await;
        if let Err(error) = stopped::note(&self.ground.db).await {
            tracing::warn!(%error, "the next start will take this stop for a power cut");
        }
    }

    /// Whether the machine went off in the middle of the last run: of what the broker knew then it
    /// may know less now, and deliver again what was taken long ago.
    pub const fn lost_power(&self) -> bool {
        self.lost_power
    }

    fn take(&self, name: &DeviceName, event: Event<'_>) -> Result<Taken, Refused> {
        let taken = {
            let mut book = self.book.lock();
            let now = self.moment(&book)?;
            book.take(name, event, now)?
        };
        self.touched.notify_one();
        if taken.wait.is_some() {
            self.wanted.notify_one();
        }
        if taken.wishes {
            self.changed.send_modify(|count| *count += 1);
        }
        Ok(taken)
    }

    fn moment(&self, book: &Book) -> Result<Moment, Refused> {
        let wall = self.ground.clock.now_millis();
        Ok(Moment {
            wall: i64::try_from(wall).unwrap_or(i64::MAX),
            mono: self.mono(),
            version: book.next_version()?,
        })
    }

    /// Ms since this start.
    fn mono(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// A log that holds all there is, for whoever starts next in this boot.
    fn rewrite_log(&self) {
        let Some(this_boot) = &self.boot else { return };
        let anchor = self.anchor();
        let written = {
            let mut book = self.book.lock();
            Log::write(&self.ground.journal_dir, this_boot, book.lines(anchor)).map(|log| book.begin_log(log))
        };
        if let Err(error) = written {
            let dir = self.ground.journal_dir.display();
            tracing::warn!(%dir, %error, "the journal of devices cannot be written anew; it is tried again");
            self.book.lock().retry_log_after(self.mono());
        }
    }

    /// By how much the clock is ahead of the machine's own time, in ms: when it started.
    fn anchor(&self) -> Option<i64> {
        let text = std::fs::read_to_string(self.ground.root.join("proc/uptime")).ok()?;
        let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
        let uptime = i64::try_from(Duration::try_from_secs_f64(seconds).ok()?.as_millis()).ok()?;
        let wall = i64::try_from(self.ground.clock.now_millis()).ok()?;
        Some(wall - uptime)
    }
}

impl Twins for Core {
    fn devices(&self) -> Arc<BTreeMap<DeviceName, Arc<Served>>> {
        Arc::clone(&self.devices.read())
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn wishes(&self, device: &DeviceName) -> BTreeMap<String, Wish> {
        let book = self.book.lock();
        let entry = book.entry(device);
        entry
            .map(|entry| entry.twin.wishes(&entry.rules))
            .unwrap_or_default()
    }

    fn twin(&self, device: &DeviceName) -> Option<BTreeMap<String, TwinView>> {
        let book = self.book.lock();
        book.entry(device).map(|entry| entry.twin.views(&entry.rules))
    }

    fn standing(&self, device: &DeviceName) -> Option<Standing> {
        let book = self.book.lock();
        book.entry(device).map(|entry| entry.twin.standing())
    }

    fn told(&self) -> broadcast::Receiver<Arc<Told>> {
        self.told.subscribe()
    }

    fn report(&self, report: Report) -> BoxFuture<'_, Result<Arc<Told>, Refused>> {
        Box::pin(async move {
            let taken = self.take(&report.device, Event::Report(&report))?;
            durable(taken.wait).await?;
            taken
                .told
                .ok_or_else(|| Refused::Unavailable("nothing was told".to_owned()))
        })
    }

    fn state(&self, device: DeviceName, state: DeviceState) -> BoxFuture<'_, Result<Standing, Refused>> {
        Box::pin(async move {
            let taken = self.take(&device, Event::State(state))?;
            durable(taken.wait).await?;
            Ok(taken.standing)
        })
    }
}

/// Waits until the flash has what it must have.
async fn durable(wait: Option<oneshot::Receiver<Result<(), String>>>) -> Result<(), Refused> {
    let Some(wait) = wait else { return Ok(()) };
    match wait.await {
        Ok(written) => written.map_err(Refused::Unavailable),
        Err(_) => Err(Refused::Unavailable("edgecore stops".to_owned())),
    }
}

/// What the last run of edgecore has left.
fn recall(ground: &Ground, boot: Option<&str>, flash: Recalled) -> Recalled {
    let Some(boot) = boot else { return flash };
    match Log::read(&ground.journal_dir, boot) {
        // A log without a gap holds all that flash holds, and knows what is gone.
        Ok(Some(log)) if log.skipped == 0 && !log.is_behind => log,
        Ok(Some(mut log)) => {
            log.fill(flash);
            log
        }
        Ok(None) => flash,
        Err(error) => {
            let dir = ground.journal_dir.display();
            tracing::warn!(%dir, %error, "the journal of devices cannot be read; flash is older");
            flash
        }
    }
}
