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
mod tests;
