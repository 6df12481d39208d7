//! Gives each device of an edge node its `DeviceStatus`, and says what is wrong with it.
//!
//! **Invariant:** what is created rests on complete lists alone; that another replica was faster is
//! as good.

use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use protocol::devices::check::check;
use protocol::name::NodeName;
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::Devices;
use super::events::About;
use super::missing::{Ended, Missing};
use super::status::create_empty;
use super::told::Told;
use crate::cluster::{Actor, KnownDevice, status_entry};
use crate::waits::due;

/// How long changes gather before they are looked at: a model often comes just after its device.
const GATHER: Duration = Duration::from_secs(1);
/// After how long what there was no room for is said: a good many Events have been written then.
const FULL: Duration = Duration::from_secs(10);
/// Devices that are checked before others go on: a model that changes is that of many.
const AT_ONCE: usize = 16;
/// Creations at a time.
const PARALLEL: usize = 16;

impl Devices {
    /// Creates statuses and says what is wrong, for ever.
    pub(super) async fn keep(&self) {
        let (mut missing, mut told) = (Missing::default(), Told::default());
        let room = Semaphore::new(PARALLEL);
        // One of each node that lacks any.
        let mut creating = FuturesUnordered::new();
        let mut look = Some(Instant::now());
        let mut say = None;
        loop {
            let now = Instant::now();
            if [look, say].into_iter().flatten().any(|at| at <= now) {
                look = None;
                let devices = self.inner.cluster.edge_devices();
                say = self.tell(&devices, &mut told, now).await;
                missing.look(devices, now);
            }
            while let Some(device) = missing.next(now) {
                creating.push(self.create(device, &room));
            }
            tokio::select! {
                Some((device, how)) = creating.next() => missing.ended(&device, how, Instant::now()),
                () = self.inner.cluster.devices_bell(), if look.is_none() => look = Some(Instant::now() + GATHER),
                () = due([look, say, missing.due()].into_iter().flatten().min()) => {}
            }
        }
    }

    async fn create(&self, device: KnownDevice, room: &Semaphore) -> (KnownDevice, Ended) {
        let Ok(node) = device.node.parse::<NodeName>() else {
            return (device, Ended::Not);
        };
        self.inner.turns.turn(&node).await;
        // Never closed.
        let _room = room.acquire().await;
        // Since it was looked at, others may have created it, or the device may have gone or moved.
        let now = self.inner.cluster.known_device(&device.key);
        let is_lacking =
            |now: &KnownDevice| now.status.is_none() && now.uid == device.uid && now.node == device.node;
        if !now.as_ref().is_some_and(is_lacking) {
            return (device, Ended::Made);
        }
        let call = create_empty(&device);
        let how = match self.inner.cluster.api().call(Actor::Cloudcore, call).await {
            Ok(answer) => match status_entry(&answer) {
                Some(status) => {
                    self.inner.cluster.saw_status(&device.key, status);
                    Ended::Made
                }
                None => Ended::Not,
            },
            Err(error) if error.is_conflict() => Ended::Not,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                if device.is_here {
                    warn!(device = %device.key, error, "its DeviceStatus cannot be created yet");
                } else {
                    debug!(device = %device.key, error, "its DeviceStatus cannot be created yet");
                }
                Ended::Not
            }
        };
        (device, how)
    }

    /// Says what is wrong, and when to say it again.
    pub(super) async fn tell(
        &self,
        devices: &[KnownDevice],
        told: &mut Told,
        now: Instant,
    ) -> Option<Instant> {
        told.keep(devices);
        // The replica that has the node says it.
        let here = || devices.iter().filter(|device| device.is_here);
        let mut checked = 0_usize;
        for device in here() {
            if told.is_settled(device, now) {
                continue;
            }
            // Whoever waits for a turn to write waits for the same task.
            checked += 1;
            if checked.is_multiple_of(AT_ONCE) {
                yield_now().await;
            }
            if !self.inner.events.has_room() {
                return Some(now + FULL);
            }
            let findings = told.again(device, now).or_else(|| {
                let (spec, model) = self.inner.cluster.read_device(&device.key)?;
                Some(told.news(device, check(&spec, model.as_ref()), now))
            });
            for finding in findings.into_iter().flatten() {
                let about = About::device(&device.key, &device.uid);
                self.inner
                    .events
                    .say(about, finding.reason.name(), &finding.message);
            }
        }
        // Not at once: one that cannot be read would be looked at without end.
        told.due(here()).map(|due| due.max(now + GATHER))
    }
}
