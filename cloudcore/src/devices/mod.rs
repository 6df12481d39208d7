//! Statuses of devices: what nodes report, written under cloudcore's own name.
//!
//! What it is: the checks that make that right (the Node authorizer knows no custom resource), the
//! pace of the writes, the `DeviceStatus` that each device of an edge node has, and the Events that
//! say what is wrong with a device. What it is not: a cache of values; the node has them.
//!
//! ```text
//! report ──► its Device, its node? ──► turn ──► Lease ours? ──► DeviceStatus, Device.status.state
//!                 `── no ──► refused for good, and an Event
//! watch ──► status missing? ──► created          device does not fit its model? ──► an Event
//! ```
//!
//! **Invariant:** nothing is written of a device but by the session of the node that its
//! `spec.nodeName` names, and `status.extensions` is never touched.

pub mod attempt;
mod begin;
pub mod document;
mod events;
pub mod judge;
mod keep;
mod missing;
pub mod pace;
pub mod report;
pub mod shown;
mod status;
mod told;
mod turns;
mod writer;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::cluster::Cluster;

pub use writer::DeviceWriter;

use begin::Lists;
use events::Events;
use turns::Turns;

/// What all sessions share. Cheap to clone.
#[derive(Clone)]
pub struct Devices {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: Cluster,
    turns: Turns,
    events: Events,
    lists: Lists,
}

impl Devices {
    /// The devices of a cluster; give [`Devices::run`] to the supervisor.
    pub fn new(cluster: Cluster) -> Self {
        let inner = Inner {
            turns: Turns::default(),
            lists: Lists::default(),
            events: Events::new(cluster.clone()),
            cluster,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Keeps the pace, creates statuses and says what is wrong, until dropped.
    pub async fn run(&self) {
        tokio::join!(self.inner.turns.run(), self.inner.events.run(), self.keep());
    }
}
