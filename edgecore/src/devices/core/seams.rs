//! What the twins need of the rest of the node.

use std::sync::Arc;

use futures::future::BoxFuture;
use protocol::devices::{DeviceIdentity, DeviceStatusStatus};
use protocol::object::Object;
use tokio::sync::watch;

/// The cluster, as the twins see it: whoever takes what devices said.
pub trait Cluster: Send + Sync + 'static {
    /// Whether nobody takes anything: there is no link, or it has been silent for too long.
    fn is_away(&self) -> bool;

    /// Takes a device's status, the newest of which goes to the cluster. In memory: what it is made
    /// of is in the journal.
    fn tell(&self, device: &DeviceIdentity, status: &DeviceStatusStatus);

    /// Puts on flash what was told of these devices, or of all, and was not taken yet.
    fn keep(&self, devices: Option<Vec<DeviceIdentity>>) -> BoxFuture<'_, Result<(), String>>;

    /// The device is not this node's any more.
    fn forget(&self, device: &DeviceIdentity);
}

/// Which devices are at this node.
pub trait Source: Send + Sync + 'static {
    /// Every Device and DeviceModel that is held.
    fn objects(&self) -> Vec<Arc<Object>>;

    /// Changes whenever they may have.
    fn changed(&self) -> watch::Receiver<u64>;

    /// Whether the cluster has confirmed them since edgecore started: what is not there is gone.
    fn is_confirmed(&self) -> bool;
}
