//! From tmpfs to flash, in rounds: one commit for all that wait.

use std::sync::Arc;
use std::time::Duration;

use protocol::devices::{DeviceIdentity, DeviceName};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::book::{Book, Running, Waiter};
use super::{Core, Release, versions};
use crate::devices::journal::{property_key, property_row, standing_key, standing_row};
use crate::devices::twin::Event;
use crate::store::{Batch, MAX_KEY, MAX_VALUE, Op, Table};

/// What is on tmpfs alone goes to flash no oftener than this.
const REGULAR: Duration = Duration::from_secs(30);
/// Without a link, at most two commits a second.
const PACE: Duration = Duration::from_millis(500);
/// Rows of one batch; the store takes 512 changes.
const CHUNK: usize = 256;
/// After a round that failed, so that a full disk is not asked without end.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// What a round writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Everything.
    All,
    /// The properties that must be on flash whatever the link does.
    Durable,
}

/// One round.
pub(super) struct Round {
    number: u64,
    scope: Scope,
    /// The outbox is kept too, of all devices.
    keeps: bool,
    pub(super) rows: Vec<(String, Op)>,
    /// Dirty again if it fails.
    properties: Vec<(DeviceName, Arc<str>)>,
    standings: Vec<DeviceName>,
    deleted: Vec<String>,
    pub(super) waiters: Vec<Waiter>,
    pub(super) devices: Vec<DeviceIdentity>,
}

impl Core {
    /// Writes what must be on flash until `stop`.
    pub(super) async fn flush_when_due(&self, stop: &CancellationToken) {
        let mut regular = Instant::now() + REGULAR;
        loop {
            let due = tokio::select! {
                () = stop.cancelled() => return,
                () = self.wanted.notified() => false,
                () = sleep_until(regular) => true,
            };
            let began = Instant::now();
            let away = self.book.lock().is_away();
            let scope = if due || away { Scope::All } else { Scope::Durable };
            if scope == Scope::All {
                regular = began + REGULAR;
            }
            let done = self.flush(scope, away).await;
            self.reserve().await;
            let pause = match (done, away) {
                (false, _) => AFTER_FAILURE,
                (true, true) => PACE.saturating_sub(began.elapsed()),
                (true, false) => Duration::ZERO,
            };
            drop(timeout(pause, stop.cancelled()).await);
        }
    }

    /// Writes everything, what waits for the cluster included.
    pub(super) async fn flush_all(&self) {
        if !self.flush(Scope::All, true).await {
            sleep(AFTER_FAILURE).await;
            self.flush(Scope::All, true).await;
        }
    }

    /// A round that began while there was a link.
    #[cfg(test)]
    pub(super) async fn flush_durable(&self) -> bool {
        self.flush(Scope::Durable, false).await
    }

    /// One round; false if it failed.
    async fn flush(&self, scope: Scope, keep: bool) -> bool {
        let mut round = self.gather(scope, keep);
        let kept = async {
            match (round.keeps, scope) {
                (true, _) => self.ground.cluster.keep(None).await,
                (false, Scope::Durable) if !round.devices.is_empty() => {
                    self.ground.cluster.keep(Some(round.devices.clone())).await
                }
                (false, Scope::Durable | Scope::All) => Ok(()),
            }
        };
        let rows = std::mem::take(&mut round.rows);
        let (kept, written) = tokio::join!(kept, self.write(rows));
        let result = kept.and(written);
        if let Err(error) = &result {
            tracing::warn!(error, "what devices said cannot be written to flash");
        }
        let done = result.is_ok();
        let waiters = std::mem::take(&mut round.waiters);
        self.book.lock().end_round(round, &result);
        for waiter in waiters {
            // Whoever does not wait any more has its own reasons.
            drop(waiter.send(result.clone()));
        }
        done
    }

    /// What is accepted here goes to the cluster even if the power fails: first into the outbox. Most
    /// of it without holding up reports, and what came meanwhile together with the round.
    fn gather(&self, scope: Scope, keep: bool) -> Round {
        let release = match (keep, scope) {
            (true, _) => Release::Held,
            (false, Scope::Durable) => Release::Durable,
            (false, Scope::All) => Release::Due,
        };
        self.step(release);
        let mut book = self.book.lock();
        // The link went away meanwhile, and somebody waits for everything.
        let (keep, scope, release) = if book.gathering.all {
            (true, Scope::All, Release::Held)
        } else {
            (keep, scope, release)
        };
        if release != Release::Due
            && let Ok(now) = self.moment(&book)
        {
            for name in book.names_to_see(now.mono, release) {
                book.step(&name, Event::Tick, now, release);
            }
        }
        book.begin_round(scope, keep, self.mono())
    }

    pub(super) async fn write(&self, mut rows: Vec<(String, Op)>) -> Result<(), String> {
        // One of them would cost its whole batch, and all after it, again and again.
        rows.retain(|(key, op)| {
            let fits = fits(key, op);
            if !fits {
                tracing::warn!(key = %key.chars().take(80).collect::<String>(), "a record of a device is too large for the flash");
            }
            fits
        });
        for chunk in rows.chunks(CHUNK) {
            let mut batch = Batch::new();
            for (key, op) in chunk {
                batch.push(Table::Device, key.clone(), op.clone());
            }
            let written = self.ground.db.commit(batch).await;
            written.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    async fn reserve(&self) {
        let Some(end) = self.book.lock().versions.wanted_end() else {
            return;
        };
        match versions::write(&self.ground.db, end).await {
            Ok(()) => self.book.lock().versions.extend(end),
            Err(error) => tracing::warn!(%error, "numbers for what devices say cannot be reserved"),
        }
    }
}

/// Whether the store takes it.
const fn fits(key: &str, op: &Op) -> bool {
    let len = if let Op::Put(row) = op { row.len() } else { 0 };
    key.len() <= MAX_KEY && len <= MAX_VALUE
}

impl Book {
    pub(super) fn begin_round(&mut self, scope: Scope, keeps: bool, mono: i64) -> Round {
        let gathered = std::mem::take(&mut self.gathering);
        self.gathering.number = gathered.number + 1;
        self.running = Some(Running {
            number: gathered.number,
            keeps,
            waiters: Vec::new(),
        });
        let mut round = Round {
            number: gathered.number,
            scope,
            keeps,
            rows: Vec::new(),
            properties: Vec::new(),
            standings: Vec::new(),
            deleted: gathered.deleted,
            waiters: gathered.waiters,
            devices: Vec::new(),
        };
        let deleted = round.deleted.iter();
        round.rows.extend(deleted.map(|key| (key.clone(), Op::Delete)));
        for (name, entry) in &mut self.entries {
            let rules = &entry.rules;
            let wanted = |name: &Arc<str>| scope == Scope::All || rules.is_durable(name);
            let (take, rest) = std::mem::take(&mut entry.dirty).into_iter().partition(wanted);
            entry.dirty = rest;
            let uid = entry.rules.served.identity.uid.clone();
            if !take.is_empty() {
                round.devices.push(entry.rules.served.identity.clone());
            }
            for property in take {
                let key = property_key(&uid, &property);
                if let Some(row) = entry.twin.kept_of(&property).and_then(property_row) {
                    round.rows.push((key, Op::Put(row)));
                    entry.flashed.insert(property.clone(), mono);
                } else {
                    round.rows.push((key, Op::Delete));
                    entry.flashed.remove(&property);
                }
                entry.writing.insert(property.clone());
                round.properties.push((name.clone(), property));
            }
            if scope == Scope::All
                && let Some(row) = entry.stood_to_flash().and_then(standing_row)
            {
                round.rows.push((standing_key(&uid), Op::Put(row)));
                round.standings.push(name.clone());
            }
        }
        round
    }

    /// Whoever listens is told now, even if the flash has failed: the twins are what they are.
    pub(super) fn end_round(&mut self, round: Round, result: &Result<(), String>) {
        let running = self.running.take();
        for waiter in running.into_iter().flat_map(|running| running.waiters) {
            // Whoever does not wait any more has its own reasons.
            drop(waiter.send(result.clone()));
        }
        for entry in self.entries.values_mut() {
            entry.writing.clear();
            while entry
                .late
                .front()
                .is_some_and(|(number, _)| *number <= round.number)
            {
                if let Some((_, message)) = entry.late.pop_front() {
                    drop(self.told.send(message));
                }
            }
        }
        if result.is_ok() {
            if round.scope == Scope::All {
                self.is_on_flash(round.number);
            }
            return;
        }
        for (name, property) in round.properties {
            if let Some(entry) = self.entries.get_mut(&name) {
                entry.flashed.remove(&property);
                entry.dirty.insert(property);
            }
        }
        for name in round.standings {
            if let Some(entry) = self.entries.get_mut(&name) {
                entry.stood_flashed = None;
            }
        }
        self.gathering.deleted.extend(round.deleted);
    }
}
