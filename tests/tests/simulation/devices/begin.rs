//! What a session finds shown when it begins to write, as `devices/begin.rs`; but that no report waits for the
//! list of another, and that a node with two devices is listed too.

use std::sync::Arc;

use cloudcore::cluster::KnownDevice;
use cloudcore::devices::shown::{Written, listed};
use cloudcore::reported::Shown;
use protocol::devices::DeviceIdentity;

use super::cloud::shown;
use crate::api::Stored;
use crate::world::World;
use crate::writes::Under;

impl World {
    /// Whether a write of a device begins with a list.
    pub(super) fn is_first(&mut self, under: &Under, device: &DeviceIdentity) -> bool {
        let half = self.reported_half(under.r, under.id, under.stream);
        half.is_some_and(|half| {
            let past = half.devices.get(&device.uid);
            past.is_none_or(|past| past.written.is_none()) && !std::mem::replace(&mut half.begun, true)
        })
    }

    /// The statuses of the node, then the Lease.
    pub(super) fn list_first(&mut self, under: Under, device: DeviceIdentity) {
        let node = under.node.clone();
        self.request(
            under.r,
            move |world| {
                let is_its = |status: &&Arc<Stored>| {
                    status.value["metadata"]["labels"]["tombolo.dev/node"] == *node.as_ref()
                };
                Ok(world.api.statuses().filter(is_its).cloned().collect::<Vec<_>>())
            },
            move |world, read| match read {
                Ok(found) => world.lease_after_list(under, device, found),
                Err(code) => world.failed_to_begin(under, code),
            },
        );
    }

    fn lease_after_list(&mut self, under: Under, device: DeviceIdentity, found: Vec<Arc<Stored>>) {
        self.still_ours(under, move |world, under, ours| match ours {
            Ok(()) => world.begin_with(under, device, &found),
            Err(code) => world.failed_to_begin(under, code),
        });
    }

    fn failed_to_begin(&mut self, under: Under, code: u16) {
        if let Some(half) = self.reported_half(under.r, under.id, under.stream) {
            half.begun = false;
        }
        self.finish(under, Err((code, false)));
    }

    fn begin_with(&mut self, under: Under, device: DeviceIdentity, found: &[Arc<Stored>]) {
        let now = self.instant();
        for (key, base, entry) in found.iter().filter_map(|status| listed(&status.json, now)) {
            let index = &mut self.replicas[under.r].index;
            let known = KnownDevice::of(index, &key);
            let known = known.filter(|known| known.uid == entry.device && known.node == *under.node.as_ref());
            let Some(known) = known else { continue };
            index.status_says(&key, entry);
            if let Some(half) = self.reported_half(under.r, under.id, under.stream) {
                let past = half.devices.entry(known.uid).or_default();
                past.written.get_or_insert(Written { base, filled: None });
            }
        }
        let index = &self.replicas[under.r].index;
        if shown(index, &under.node, (&device, &under.job.payload), now) == Shown::Same {
            self.laws.devices.found += 1;
            return self.finish(under, Ok(()));
        }
        self.write_in_turn(under, device);
    }
}
