//! Devices at an edge: the real book, and what devices say.
//!
//! Follows `devices/core/` (a step 20 ms after something happened).

mod flash;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use edgecore::devices::{Accepted, Clue, Now, Observation, Origin, Report, Seen, Stage};
use protocol::devices::{DeviceIdentity, DeviceName, DeviceStatusStatus};
use protocol::object::{Kind, Object, ObjectKey};
use protocol::reported::{OutboxKey, Seq};
use protocol::wire;

use super::{COUNT, EXTRA};
use crate::disk::Op;
use crate::world::World;

const STEP: Duration = Duration::from_millis(20);
const REGULAR: Duration = Duration::from_secs(30);
/// As `run/devices.rs`.
const SILENT: Duration = Duration::from_secs(2);

static JOURNALS: AtomicU64 = AtomicU64::new(0);

/// The directory of one edge's log.
#[derive(Debug)]
pub(crate) struct Journal(PathBuf);

impl Default for Journal {
    fn default() -> Self {
        let number = JOURNALS.fetch_add(1, Ordering::Relaxed);
        let name = format!("tombolo-simulation-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Nothing was kept there: it is not there.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What one run of edgecore has of devices.
pub(crate) struct DevicePart {
    pub(crate) stage: Stage,
    in_memory: BTreeMap<DeviceIdentity, wire::Report>,
    on_flash: BTreeMap<DeviceIdentity, BTreeSet<u64>>,
    silent_since: Option<Duration>,
    waiting: Vec<Waiting>,
    step_at: Option<Duration>,
    flushing: bool,
    regular: Duration,
    regular_planned: bool,
    silence_planned: bool,
    /// The newest status of each device, by uid.
    pub(crate) told: BTreeMap<String, DeviceStatusStatus>,
}

/// A report that is accepted when its round has ended.
struct Waiting {
    wait: Accepted,
    key: ObjectKey,
    uid: String,
    value: u64,
}

fn device_in(key: Option<wire::ReportKey>) -> Option<DeviceIdentity> {
    match OutboxKey::from_wire(key) {
        Some(OutboxKey::Device(device)) => Some(device),
        _ => None,
    }
}

impl World {
    pub(crate) fn open_devices(&mut self, e: usize) -> DevicePart {
        let now = Now {
            wall: i64::try_from(self.wall_millis()).unwrap(),
            mono: 0,
        };
        let edge = &mut self.edges[e];
        let rows = edge.disk.image.devices.iter();
        let rows: Vec<(String, Bytes)> = rows.map(|(key, row)| (key.clone(), row.clone())).collect();
        let boot = format!("boot-{}", edge.boots);
        let reserved = edge.disk.image.versions;
        let (stage, end) = Stage::open(&edge.journal.0, &boot, rows, reserved, now).unwrap();
        edge.disk.image.versions = end;
        let mut on_flash: BTreeMap<DeviceIdentity, BTreeSet<u64>> = BTreeMap::new();
        for entry in edge.disk.image.outbox.values() {
            if let Some(device) = device_in(entry.key.clone()) {
                on_flash.entry(device).or_default().insert(entry.seq);
            }
        }
        DevicePart {
            stage,
            in_memory: BTreeMap::new(),
            silent_since: (!on_flash.is_empty()).then_some(self.now),
            on_flash,
            waiting: Vec::new(),
            step_at: None,
            flushing: false,
            regular: self.now + REGULAR,
            regular_planned: false,
            silence_planned: false,
            told: BTreeMap::new(),
        }
    }

    fn wall_millis(&self) -> u64 {
        let since = self.wall().duration_since(std::time::SystemTime::UNIX_EPOCH);
        u64::try_from(since.unwrap().as_millis()).unwrap()
    }

    fn device_now(&self, e: usize) -> Now {
        let began = self.edges[e].process.as_ref().map(|process| process.began);
        Now {
            wall: i64::try_from(self.wall_millis()).unwrap(),
            mono: i64::try_from((self.now - began.unwrap_or(self.now)).as_millis()).unwrap(),
        }
    }

    /// The devices that are held may be others.
    pub(crate) fn refresh_devices(&mut self, e: usize) {
        let now = self.device_now(e);
        let edge = &mut self.edges[e];
        let Some(process) = &mut edge.process else {
            return;
        };
        let held = edge
            .disk
            .image
            .entries
            .values()
            .filter_map(|row| row.object.as_ref());
        let held = held.filter(|object| matches!(object.key.kind, Kind::Device | Kind::DeviceModel));
        let objects: Vec<Arc<Object>> = held.cloned().map(Arc::new).collect();
        let confirmed = process.replica.synced(Kind::Device);
        process.devices.stage.refresh(&objects, confirmed, now);
        let gone = process.devices.stage.forgotten();
        let mut batch = Vec::new();
        for device in gone {
            drop(process.outbox.forget_device(&device));
            process.devices.told.remove(&device.uid);
            process.devices.in_memory.remove(&device);
            let kept = process.devices.on_flash.remove(&device).unwrap_or_default();
            batch.extend(kept.into_iter().map(|seq| Op::Delete(Seq(seq))));
        }
        self.write_reports(e, batch, |_| {});
        self.plan_step(e, STEP);
    }

    /// Some device of this edge says something.
    pub(crate) fn device_speaks(&mut self, e: usize) {
        let Some(process) = &self.edges[e].process else {
            return;
        };
        let served: Vec<(DeviceName, String)> = process
            .devices
            .stage
            .devices()
            .iter()
            .map(|(name, served)| (name.clone(), served.identity.uid.clone()))
            .collect();
        if served.is_empty() {
            return;
        }
        let (name, uid) = served[self.dice.below(served.len())].clone();
        let value = self.laws.devices.next(&uid);
        let mut seen = vec![observed(COUNT, value)];
        if self.dice.chance(0.3) {
            seen.push(observed(EXTRA, value));
        }
        let report = Report {
            device: name,
            seen,
            event_id: String::new(),
            origin: Origin::Mqtt,
        };
        let (now, away) = (self.device_now(e), self.is_away(e));
        self.say(|| format!("edge {e}: {} says {value}, away {away}", report.device));
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        process.devices.stage.set_away(away);
        let key = ObjectKey::new(Kind::Device, &report.device.namespace, &report.device.name);
        let taken = process.devices.stage.report(&report, now).unwrap();
        match taken {
            None => self.accepted(e, (&key, &uid), value, false),
            Some(wait) => {
                process.devices.waiting.push(Waiting {
                    wait,
                    key,
                    uid,
                    value,
                });
                self.flush(e);
            }
        }
        self.plan_step(e, STEP);
        self.plan_regular(e);
    }

    fn is_away(&self, e: usize) -> bool {
        let Some(process) = &self.edges[e].process else {
            return true;
        };
        let silent = |since: Duration| self.now - since > SILENT;
        process.link.is_none() || process.devices.silent_since.is_some_and(silent)
    }

    fn plan_step(&mut self, e: usize, pause: Duration) {
        let (life, at) = (self.edges[e].life, self.now + pause);
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        if process.devices.step_at.is_some_and(|planned| planned <= at) {
            return;
        }
        process.devices.step_at = Some(at);
        self.after(pause, move |world| {
            if world.edges[e].life != life {
                return;
            }
            let Some(process) = &mut world.edges[e].process else {
                return;
            };
            if process.devices.step_at == Some(at) {
                process.devices.step_at = None;
                world.step(e, false);
                world.plan_next_step(e);
            }
        });
    }

    fn plan_next_step(&mut self, e: usize) {
        let now = self.device_now(e);
        let Some(process) = &self.edges[e].process else {
            return;
        };
        let due = process.devices.stage.next_due();
        if let Some(due) = due.map(|due| due.saturating_sub(now.mono).max(20)) {
            self.plan_step(e, Duration::from_millis(due.unsigned_abs()));
        }
    }

    /// The link came or went, or has been silent: flash must have all there is while nobody hears it.
    pub(crate) fn look_away(&mut self, e: usize) {
        let away = self.is_away(e);
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        process.devices.stage.set_away(away);
        self.plan_step(e, STEP);
        if away {
            self.flush(e);
        }
    }

    fn plan_silence(&mut self, e: usize) {
        let life = self.edges[e].life;
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        if process.devices.silent_since.is_none()
            || std::mem::replace(&mut process.devices.silence_planned, true)
        {
            return;
        }
        self.after(SILENT + STEP, move |world| {
            if world.edges[e].life != life {
                return;
            }
            if let Some(process) = &mut world.edges[e].process {
                process.devices.silence_planned = false;
                world.look_away(e);
            }
        });
    }

    fn step(&mut self, e: usize, force: bool) {
        let now = self.device_now(e);
        let away = self.is_away(e);
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        process.devices.stage.set_away(away);
        process.devices.stage.step(force, now);
        self.tell_outbox(e);
    }

    /// As `Book::put_device`.
    fn tell_outbox(&mut self, e: usize) {
        let now = self.now;
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        let mut batch = Vec::new();
        for (device, status) in process.devices.stage.told() {
            let json = serde_json::to_vec(&status).unwrap();
            let change = process.outbox.put(OutboxKey::Device(device.clone()), &json);
            batch.extend(change.reserved.map(Op::Reserve));
            process.devices.told.insert(device.uid.clone(), status);
            if let Some(entry) = change.write {
                process.devices.in_memory.insert(device, entry);
                process.devices.silent_since.get_or_insert(now);
            }
        }
        self.write_reports(e, batch, |_| {});
        self.pump_outbox(e);
        self.plan_silence(e);
    }
}

fn observed(property: &str, value: u64) -> Seen {
    Seen {
        property: property.to_owned(),
        observation: Observation::Value(value.to_string()),
        clue: Clue::default(),
    }
}
