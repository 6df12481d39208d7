//! Drivers without code: devices that speak MQTT in their own way, Modbus or HTTP.
//!
//! What it is: settings of a Device read into types that cannot be wrong, pure decoders and encoders,
//! one small task per connection. What it is not: a mapper; those speak DMI (`edgecore/src/devices/dmi`)
//! and keep the bare protocol names, since two masters on one bus disturb each other.
//!
//! ```text
//! Twins ──► fleet (one per driver) ──► task per broker, bus or address ──► outgoing ──► Twins
//!             settings, mistakes           decode, plan, writing
//! ```
//!
//! **Invariant:** a device that is wrong, hangs or talks nonsense costs its own values and no others.

mod driver;
mod extract;
#[cfg(test)]
mod fake;
mod fleet;
mod http;
mod modbus;
mod mqtt;
mod outgoing;
mod overruns;
mod pace;
mod polling;
mod settings;
mod stranger;
mod template;
mod wishes;
mod writing;
mod written;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use mqtt::Allowed;

use self::http::{Http, Push};
use super::mqtt::Counters;
use super::{Broker, Twins, credentials};
use modbus::Modbus;
use mqtt::{Mqtt, MqttConfig};
use stranger::Stranger;

/// Where device credentials are, unless a test says otherwise.
pub const CREDENTIALS: &str = credentials::DIRECTORY;

/// What the drivers need to know of the node.
#[derive(Clone, Debug)]
pub struct DriversConfig {
    /// The node's broker.
    pub broker: Broker,
    /// What client ids begin with; unique to the node.
    pub client_id: String,
    /// The topics that each namespace's devices may use (`devices.topics`).
    pub topics: Allowed,
    /// Where device credentials are; [`CREDENTIALS`].
    pub credentials: PathBuf,
    /// Where devices may push what they say over HTTP; nowhere by default.
    pub http_listen: Option<SocketAddr>,
    /// Whether the power failed since the last process: the node's broker may deliver again what it has
    /// forgotten that it delivered.
    pub lost_power: bool,
    /// Where the MQTT driver counts what it could not take, beside the bridge.
    pub counters: Arc<Counters>,
}

/// Serves the devices of all drivers until it is told to stop.
pub async fn run(config: DriversConfig, twins: Arc<dyn Twins>, stop: CancellationToken) {
    let mut fleets = JoinSet::new();
    let http = Http {
        credentials: config.credentials.clone(),
    };
    let push = Push {
        credentials: config.credentials.clone(),
        listen: config.http_listen,
    };
    let mqtt = Mqtt::new(MqttConfig {
        broker: config.broker,
        client_id: config.client_id,
        topics: config.topics,
        credentials: config.credentials,
        lost_power: config.lost_power,
        counters: config.counters,
    });
    fleets.spawn(fleet::run(Arc::new(mqtt), Arc::clone(&twins), stop.clone()));
    fleets.spawn(fleet::run(Arc::new(Stranger), Arc::clone(&twins), stop.clone()));
    fleets.spawn(fleet::run(Arc::new(http), Arc::clone(&twins), stop.clone()));
    fleets.spawn(fleet::run(Arc::new(push), Arc::clone(&twins), stop.clone()));
    fleets.spawn(fleet::run(Arc::new(Modbus), Arc::clone(&twins), stop));
    while let Some(ended) = fleets.join_next().await {
        if let Err(error) = ended {
            warn!(%error, "a driver failed; the others go on");
        }
    }
}
