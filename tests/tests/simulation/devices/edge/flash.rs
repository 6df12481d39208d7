//! What an edge knows of devices, between memory and flash.
//!
//! Follows `devices/core/flusher.rs` (a round at once for whoever waits, else every 30 s) and `reported/devices.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use edgecore::devices::FlashRound;
use protocol::devices::DeviceIdentity;
use protocol::reported::{Seq, SettledAs};

use super::{DevicePart, REGULAR, Waiting};
use crate::disk::{Batch, Op};
use crate::world::World;

/// Between two rounds.
const PACE: Duration = Duration::from_millis(500);

impl World {
    /// What is in memory alone goes to flash some time.
    pub(super) fn plan_regular(&mut self, e: usize) {
        let (life, now) = (self.edges[e].life, self.now);
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        if std::mem::replace(&mut process.devices.regular_planned, true) {
            return;
        }
        let pause = process.devices.regular.saturating_sub(now);
        self.after(pause, move |world| {
            let now = world.now;
            if world.edges[e].life != life {
                return;
            }
            if let Some(process) = &mut world.edges[e].process {
                process.devices.regular_planned = false;
                if process.devices.regular <= now {
                    world.flush(e);
                }
            }
        });
    }

    /// One round: rows of the journal and entries of the outbox, in either order.
    pub(super) fn flush(&mut self, e: usize) {
        let (life, now, away) = (self.edges[e].life, self.device_now(e), self.is_away(e));
        let wall = self.now;
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        if std::mem::replace(&mut process.devices.flushing, true) {
            return;
        }
        let everything = away || process.devices.regular <= wall;
        if everything {
            process.devices.regular = wall + REGULAR;
        }
        self.step(e, away || !everything);
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        let round = process.devices.stage.begin_round(everything, now);
        let keep = match (round.keeps, everything) {
            (true, _) => process.devices.keep(None),
            (false, false) => process.devices.keep(Some(&round.devices)),
            (false, true) => Vec::new(),
        };
        let mut batches = vec![Batch::Reports(keep), Batch::Devices(round.rows.clone())];
        if self.dice.chance(0.5) {
            batches.reverse();
        }
        let last = batches.pop().unwrap();
        self.write_disk(e, batches.pop().unwrap(), |_, _| {});
        self.write_disk(e, last, move |world, _| {
            world.round_ended(e, round);
            world.after(PACE, move |world| {
                if world.edges[e].life == life
                    && let Some(process) = &mut world.edges[e].process
                {
                    process.devices.flushing = false;
                    if !process.devices.waiting.is_empty() {
                        world.flush(e);
                    }
                }
            });
        });
    }

    fn round_ended(&mut self, e: usize, round: FlashRound) {
        let Some(process) = &mut self.edges[e].process else {
            return;
        };
        process.devices.stage.end_round(round);
        let waiting = std::mem::take(&mut process.devices.waiting);
        let mut accepted = Vec::new();
        for mut report in waiting {
            match report.wait.try_recv() {
                Ok(written) => {
                    written.unwrap();
                    accepted.push(report);
                }
                Err(_) => process.devices.waiting.push(report),
            }
        }
        for Waiting { key, uid, value, .. } in accepted {
            self.accepted(e, (&key, &uid), value, true);
        }
        self.pump_outbox(e);
    }

    /// As `Book::settle_device`.
    pub(crate) fn settle_device(
        &mut self,
        e: usize,
        device: &DeviceIdentity,
        seq: Seq,
        as_: SettledAs,
    ) -> Vec<Op> {
        let now = self.now;
        let Some(process) = &mut self.edges[e].process else {
            return Vec::new();
        };
        process.devices.settle(device, seq, as_, now)
    }
}

impl DevicePart {
    fn keep(&mut self, devices: Option<&[DeviceIdentity]>) -> Vec<Op> {
        let wanted = |device: &DeviceIdentity| devices.is_none_or(|devices| devices.contains(device));
        let (take, rest): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.in_memory)
            .into_iter()
            .partition(|(device, _)| wanted(device));
        self.in_memory = rest;
        let mut ops = Vec::new();
        for (device, entry) in take {
            let seq = entry.seq;
            ops.push(Op::Put(entry));
            ops.extend(self.delete_older(&device, seq));
            self.on_flash.entry(device).or_default().insert(seq);
        }
        ops
    }

    fn settle(&mut self, device: &DeviceIdentity, seq: Seq, outcome: SettledAs, now: Duration) -> Vec<Op> {
        if matches!(outcome, SettledAs::Deferred(_)) {
            return Vec::new();
        }
        if self.in_memory.get(device).is_some_and(|entry| entry.seq <= seq.0) {
            self.in_memory.remove(device);
        }
        let ops = self.delete_older(device, seq.0 + 1);
        let waits = !self.in_memory.is_empty() || !self.on_flash.is_empty();
        self.silent_since = waits.then_some(now);
        ops
    }

    fn delete_older(&mut self, device: &DeviceIdentity, than: u64) -> Vec<Op> {
        let Some(mut kept) = self.on_flash.remove(device) else {
            return Vec::new();
        };
        let rest = kept.split_off(&than);
        if !rest.is_empty() {
            self.on_flash.insert(device.clone(), rest);
        }
        kept.into_iter().map(|seq| Op::Delete(Seq(seq))).collect()
    }
}
