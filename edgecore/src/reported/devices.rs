//! What devices said, on its way to the cluster: in memory while somebody takes it, on flash while
//! nobody does.
//!
//! The journal of devices has every value, so an entry need not be on flash in order not to be lost:
//! after a restart it is made again from there. It is written when the link is gone, for after a power
//! cut the journal cannot tell what the cluster has. An older entry that is on flash stays there until
//! a newer one is, or until the cluster has taken one.
//!
//! **Invariant:** flash never holds an older entry of a device than one that was sent: after a power
//! cut it would be sent once more, and the cluster would go back to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prost::Message as _;
use protocol::devices::{DeviceIdentity, DeviceStatusStatus};
use protocol::reported::{OutboxKey, RefusalCode, Seq, SettledAs};
use protocol::wire::{Report as Entry, ReportedUp, reported_up};
use tokio::time::Instant;

use super::{Book, ReportError, Reporter, entry_key};
use crate::store::{Op, StoreError, Table};

/// Where the entries of devices are.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// The newest entry of each device, if it is not on flash.
    in_memory: BTreeMap<DeviceIdentity, Entry>,
    /// The numbers of entries that are on flash.
    on_flash: BTreeMap<DeviceIdentity, BTreeSet<u64>>,
    /// Of what is deleted, and may still be on flash: by which change it is gone.
    leaving: BTreeMap<DeviceIdentity, u64>,
    /// Devices of which the API server refuses what is said for what it is: no link takes it.
    refused: BTreeSet<DeviceIdentity>,
    /// Since when nothing was taken although something waits.
    silent_since: Option<Instant>,
}

impl Places {
    /// What was on flash at the start.
    pub(super) fn of(entries: &[Entry]) -> Self {
        let mut places = Self::default();
        for entry in entries {
            if let Some(OutboxKey::Device(device)) = OutboxKey::from_wire(entry.key.clone()) {
                places.on_flash.entry(device).or_default().insert(entry.seq);
                places.silent_since = Some(Instant::now());
            }
        }
        places
    }

    /// All changes up to this one are on flash.
    pub(super) fn written(&mut self, made: u64) {
        self.leaving.retain(|_, change| *change > made);
    }

    /// Whether flash has an entry, and not the newest.
    fn is_behind(&self, device: &DeviceIdentity) -> bool {
        self.on_flash.contains_key(device) && self.in_memory.contains_key(device)
    }

    fn is_waiting(&self) -> bool {
        let mut waiting = self.in_memory.keys().chain(self.on_flash.keys());
        waiting.any(|device| !self.refused.contains(device))
    }
}

impl Reporter {
    /// Reports how a device is. In memory; [`Reporter::keep_devices`] makes it durable.
    pub fn device(&self, device: &DeviceIdentity, status: &DeviceStatusStatus) -> Result<(), ReportError> {
        let json = serde_json::to_vec(status)?;
        {
            let mut book = self.book.lock();
            book.put_device(device, &json);
        }
        self.changed.notify_one();
        Ok(())
    }

    /// Makes durable what these devices, or all, have said and the cluster has not taken.
    pub async fn keep_devices(&self, devices: Option<&[DeviceIdentity]>) -> Result<(), StoreError> {
        // What could not be written last time goes first, so that a full disk fills no memory.
        self.write_all().await?;
        let mine = {
            let mut book = self.book.lock();
            book.keep_devices(devices);
            book.made
        };
        self.write(mine).await
    }

    /// Writes what is about to be sent of devices of which flash has something older, and deletes what
    /// flash still has of those whose last entry was answered.
    pub(super) async fn overtake(&self, due: &[ReportedUp]) -> Result<(), StoreError> {
        let (behind, leaving) = {
            let book = self.book.lock();
            let mut devices: Vec<DeviceIdentity> = due.iter().filter_map(device_of).collect();
            let leaving = devices
                .iter()
                .filter_map(|device| book.devices.leaving.get(device));
            let leaving = leaving.max().copied();
            devices.retain(|device| book.devices.is_behind(device));
            (devices, leaving)
        };
        if let Some(change) = leaving {
            self.write(change).await?;
        }
        if behind.is_empty() {
            return Ok(());
        }
        self.keep_devices(Some(&behind)).await
    }

    /// Forgets what a device said that is not this node's any more.
    pub fn forget_device(&self, device: &DeviceIdentity) {
        let mut book = self.book.lock();
        drop(book.outbox.forget_device(device));
        book.forget_device(device);
    }

    /// For how long the cluster has taken nothing although a device's report waits.
    pub fn silence_of_devices(&self) -> Duration {
        let since = self.book.lock().devices.silent_since;
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Returns when every change so far is durable.
    pub(super) async fn write_all(&self) -> Result<(), StoreError> {
        let made = self.book.lock().made;
        self.write(made).await
    }
}

impl Book {
    fn put_device(&mut self, device: &DeviceIdentity, json: &[u8]) {
        let change = self.outbox.put(OutboxKey::Device(device.clone()), json);
        self.note_reservation(change.reserved);
        if let Some(entry) = change.write {
            self.devices.in_memory.insert(device.clone(), entry);
            if !self.devices.refused.contains(device) {
                self.devices.silent_since.get_or_insert_with(Instant::now);
            }
        }
    }

    fn keep_devices(&mut self, devices: Option<&[DeviceIdentity]>) {
        let wanted = |device: &DeviceIdentity| devices.is_none_or(|devices| devices.contains(device));
        let in_memory = std::mem::take(&mut self.devices.in_memory);
        let (take, rest) = in_memory.into_iter().partition(|(device, _)| wanted(device));
        self.devices.in_memory = rest;
        let take: BTreeMap<DeviceIdentity, Entry> = take;
        for (device, entry) in take {
            let seq = entry.seq;
            self.keep(
                Table::Outbox,
                entry_key(Seq(seq)),
                Op::Put(entry.encode_to_vec().into()),
            );
            self.delete_older(&device, seq);
            self.devices.on_flash.entry(device).or_default().insert(seq);
        }
    }

    /// The cluster has answered an entry: neither it nor an older one is needed any more.
    pub(super) fn settle_device(&mut self, device: &DeviceIdentity, seq: Seq, outcome: SettledAs) {
        if let SettledAs::Deferred(code) = outcome {
            if code == RefusalCode::Invalid {
                self.devices.refused.insert(device.clone());
                self.end_silence();
            }
            return;
        }
        self.devices.refused.remove(device);
        if self
            .devices
            .in_memory
            .get(device)
            .is_some_and(|entry| entry.seq <= seq.0)
        {
            self.devices.in_memory.remove(device);
        }
        self.delete_older(device, seq.0 + 1);
        self.devices.silent_since = self.devices.is_waiting().then(Instant::now);
    }

    fn forget_device(&mut self, device: &DeviceIdentity) {
        self.devices.in_memory.remove(device);
        self.devices.refused.remove(device);
        self.delete_older(device, u64::MAX);
        self.end_silence();
    }

    fn end_silence(&mut self) {
        if !self.devices.is_waiting() {
            self.devices.silent_since = None;
        }
    }

    fn delete_older(&mut self, device: &DeviceIdentity, than: u64) {
        let Some(mut kept) = self.devices.on_flash.remove(device) else {
            return;
        };
        let rest = kept.split_off(&than);
        for seq in kept {
            self.keep(Table::Outbox, entry_key(Seq(seq)), Op::Delete);
            self.devices.leaving.insert(device.clone(), self.made);
        }
        if !rest.is_empty() {
            self.devices.on_flash.insert(device.clone(), rest);
        }
    }
}

/// Whose report it is, if it is a device's.
fn device_of(report: &ReportedUp) -> Option<DeviceIdentity> {
    let Some(reported_up::Kind::Report(entry)) = &report.kind else {
        return None;
    };
    match OutboxKey::from_wire(entry.key.clone())? {
        OutboxKey::Device(device) => Some(device),
        OutboxKey::Node | OutboxKey::Pod(_) | OutboxKey::Gone(_) | OutboxKey::Event { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use protocol::reported::Carries;

    use super::*;
    use crate::store::Db;

    const EVERYTHING: Carries = Carries::Everything;

    fn pump() -> DeviceIdentity {
        DeviceIdentity {
            namespace: "hall".to_owned(),
            name: "pump".to_owned(),
            uid: "u1".to_owned(),
        }
    }

    fn status(state: &str) -> DeviceStatusStatus {
        DeviceStatusStatus {
            state: Some(state.to_owned()),
            ..DeviceStatusStatus::default()
        }
    }

    async fn rows(db: &Db) -> Vec<String> {
        let rows = db.scan(Table::Outbox).await.unwrap();
        rows.into_iter().map(|(key, _)| key).collect()
    }

    fn newest(reporter: &Reporter) -> Seq {
        let book = reporter.book.lock();
        let on_flash = book
            .devices
            .on_flash
            .get(&pump())
            .and_then(|kept| kept.last().copied());
        Seq(book
            .devices
            .in_memory
            .get(&pump())
            .map(|entry| entry.seq)
            .or(on_flash)
            .unwrap())
    }

    #[tokio::test]
    async fn a_devices_report_costs_no_flash_until_it_is_kept() {
        let db = Db::in_memory();
        let reporter = Reporter::load(db.clone()).await.unwrap();
        for state in ["online", "offline"] {
            reporter.device(&pump(), &status(state)).unwrap();
        }
        assert_eq!(rows(&db).await.len(), 0);
        reporter.keep_devices(None).await.unwrap();
        assert_eq!(rows(&db).await.len(), 1);
        let after = Reporter::load(db.clone()).await.unwrap();
        assert_eq!(after.pending(), 1);
        reporter.device(&pump(), &status("ok")).unwrap();
        reporter.keep_devices(Some(&[])).await.unwrap();
        assert_eq!(
            rows(&db).await.len(),
            1,
            "the older one stays until a newer one is there"
        );
        reporter.keep_devices(Some(&[pump()])).await.unwrap();
        assert_eq!(rows(&db).await, [entry_key(newest(&reporter))]);
    }

    #[tokio::test]
    async fn what_the_cluster_has_taken_leaves_the_flash_and_what_it_defers_stays() {
        let db = Db::in_memory();
        let reporter = Reporter::load(db.clone()).await.unwrap();
        reporter.device(&pump(), &status("online")).unwrap();
        reporter.keep_devices(None).await.unwrap();
        let kept = newest(&reporter);
        reporter.device(&pump(), &status("offline")).unwrap();
        let settle = |seq, outcome| reporter.book.lock().settle_device(&pump(), seq, outcome);
        settle(kept, SettledAs::Deferred(RefusalCode::from_wire(0)));
        reporter.write_all().await.unwrap();
        assert_eq!(rows(&db).await.len(), 1);
        settle(newest(&reporter), SettledAs::Committed);
        reporter.write_all().await.unwrap();
        assert_eq!(rows(&db).await.len(), 0);
        assert_eq!(reporter.silence_of_devices(), Duration::ZERO);
    }

    #[tokio::test]
    async fn flash_never_has_an_older_entry_than_the_cluster_was_sent() {
        let db = Db::in_memory();
        let reporter = Reporter::load(db.clone()).await.unwrap();
        drop(reporter.book.lock().outbox.connected(EVERYTHING));
        let due = || std::iter::from_fn(|| reporter.next(EVERYTHING)).collect::<Vec<_>>();
        reporter.device(&pump(), &status("online")).unwrap();
        let first = due();
        assert_eq!(first.len(), 1);
        reporter.overtake(&first).await.unwrap();
        assert_eq!(rows(&db).await.len(), 0, "there is nothing older");
        reporter.keep_devices(None).await.unwrap();
        let kept = newest(&reporter);
        reporter.device(&pump(), &status("offline")).unwrap();
        let settled = SettledAs::Committed;
        reporter.book.lock().outbox.disconnected(EVERYTHING);
        drop(reporter.book.lock().outbox.connected(EVERYTHING));
        let second = due();
        assert_eq!(second.len(), 1);
        reporter.overtake(&second).await.unwrap();
        assert!(newest(&reporter) > kept);
        assert_eq!(rows(&db).await, [entry_key(newest(&reporter))]);
        let newest = newest(&reporter);
        reporter.book.lock().settle_device(&pump(), newest, settled);
        reporter.write_all().await.unwrap();
        assert_eq!(rows(&db).await.len(), 0);
    }

    #[tokio::test]
    async fn what_was_answered_has_left_flash_before_anything_newer_is_sent() {
        let db = Db::in_memory();
        let reporter = Reporter::load(db.clone()).await.unwrap();
        drop(reporter.book.lock().outbox.connected(EVERYTHING));
        let due = || std::iter::from_fn(|| reporter.next(EVERYTHING)).collect::<Vec<_>>();
        reporter.device(&pump(), &status("online")).unwrap();
        reporter.keep_devices(None).await.unwrap();
        assert_eq!((rows(&db).await.len(), due().len()), (1, 1));
        let kept = newest(&reporter);
        reporter
            .book
            .lock()
            .settle_device(&pump(), kept, SettledAs::Committed);
        reporter.book.lock().outbox.disconnected(EVERYTHING);
        drop(reporter.book.lock().outbox.connected(EVERYTHING));
        assert_eq!(
            rows(&db).await.len(),
            1,
            "answers are written together, a second later"
        );
        reporter.device(&pump(), &status("offline")).unwrap();
        reporter.overtake(&due()).await.unwrap();
        assert_eq!(rows(&db).await.len(), 0);
        assert!(reporter.book.lock().devices.leaving.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_from_the_last_answer_while_something_waits() {
        let reporter = Reporter::load(Db::in_memory()).await.unwrap();
        assert_eq!(reporter.silence_of_devices(), Duration::ZERO);
        reporter.device(&pump(), &status("online")).unwrap();
        let first = newest(&reporter);
        tokio::time::advance(Duration::from_secs(3)).await;
        reporter.device(&pump(), &status("offline")).unwrap();
        assert_eq!(reporter.silence_of_devices(), Duration::from_secs(3));
        reporter
            .book
            .lock()
            .settle_device(&pump(), first, SettledAs::Committed);
        assert_eq!(reporter.silence_of_devices(), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(reporter.silence_of_devices(), Duration::from_secs(1));
        reporter.forget_device(&pump());
        assert_eq!(reporter.silence_of_devices(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_that_the_cluster_never_takes_does_not_count_as_silence() {
        let reporter = Reporter::load(Db::in_memory()).await.unwrap();
        let settle = |outcome| {
            let seq = newest(&reporter);
            reporter.book.lock().settle_device(&pump(), seq, outcome);
        };
        let silence = async || {
            tokio::time::advance(Duration::from_secs(3)).await;
            reporter.silence_of_devices()
        };
        reporter.device(&pump(), &status("online")).unwrap();
        settle(SettledAs::Deferred(RefusalCode::Unavailable));
        assert_eq!(silence().await, Duration::from_secs(3), "nobody takes anything");
        settle(SettledAs::Deferred(RefusalCode::Invalid));
        assert_eq!(silence().await, Duration::ZERO);
        reporter.device(&pump(), &status("offline")).unwrap();
        assert_eq!(silence().await, Duration::ZERO, "nor does the next one");
        settle(SettledAs::Committed);
        reporter.device(&pump(), &status("online")).unwrap();
        assert_eq!(silence().await, Duration::from_secs(3));
    }
}
