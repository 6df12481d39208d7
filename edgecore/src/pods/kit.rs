//! What every pod's worker works with: made once by the manager, shared by all.

use std::path::PathBuf;
use std::sync::Arc;

use protocol::clock::Clock;
use tokio::sync::Semaphore;

use super::cgroups::Cgroups;
use super::events::Events;
use super::images::Images;
use super::seams::Report;
use super::spec::{NodeFacts, Objects};
use super::volumes::Volumes;
use crate::runtime::Runtime;

/// The tools of a pod's worker.
pub struct Kit {
    /// The container runtime.
    pub runtime: Arc<dyn Runtime>,
    /// Its name, for container ids (`containerd://…`).
    pub runtime_name: String,
    /// The node.
    pub facts: Arc<NodeFacts>,
    /// The objects that pods name.
    pub objects: Arc<dyn Objects>,
    /// Image pulls.
    pub images: Images,
    /// Volumes.
    pub volumes: Volumes,
    /// The pods' cgroups; `None` leaves them to the runtime.
    pub cgroups: Option<Cgroups>,
    /// Whom to tell.
    pub report: Arc<dyn Report>,
    /// Events.
    pub events: Events,
    /// The wall clock.
    pub clock: Clock,
    /// How many starts may be under way at a time: a burst is bound by CPU, and waiting beats crowding.
    pub starts: Arc<Semaphore>,
    /// `/var/log/containers`: links to the logs, for log shippers.
    pub link_dir: PathBuf,
}

impl Kit {
    /// The device's addresses as pods show them.
    pub fn host_ips(&self) -> Vec<String> {
        self.facts.host_ips.iter().map(ToString::to_string).collect()
    }
}
