//! `tombolo/mqtt`: devices that speak MQTT on topics of their own, as those behind
//! `Zigbee2MQTT` and those with `Tasmota` or `ESPHome` do.
//!
//! ```text
//! settings (config) ──► routes (decode) ◄── message ── link ◄──► broker
//!                            │                          ▲
//!                            └─► outgoing       encode ─┘ ◄── wishes
//! ```
//!
//! **Invariant:** a retained message is old news: it counts while nothing newer is known, except where
//! it says whether a device is there.

mod config;
mod decode;
mod encode;
mod link;
mod presence;
mod task;
#[cfg(test)]
pub(super) mod testing;
mod topics;
mod unacked;

use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

pub use topics::Allowed;

use super::driver::{Driver, Hands, Reading, Units};
use crate::devices::credentials::{self, Credentials};
use crate::devices::mqtt::Counters;
use crate::devices::{Broker, Served};
use config::{Endpoint, Settled};

/// What the driver needs to know of the node.
#[derive(Clone, Debug)]
pub(crate) struct MqttConfig {
    /// The node's broker, for devices that name none.
    pub(crate) broker: Broker,
    /// What client ids begin with; unique to the node.
    pub(crate) client_id: String,
    /// The topics that each namespace's devices may use.
    pub(crate) topics: Allowed,
    /// Where credentials are.
    pub(crate) credentials: PathBuf,
    /// Whether the power of the node and of its broker failed since the last process.
    pub(crate) lost_power: bool,
    /// Where it counts.
    pub(crate) counters: Arc<Counters>,
}

/// The driver.
pub(crate) struct Mqtt {
    config: MqttConfig,
}

impl Mqtt {
    /// A driver for this node.
    pub(crate) fn new(config: MqttConfig) -> Self {
        Self { config }
    }

    fn broker<'a>(&'a self, endpoint: &'a Endpoint) -> &'a Broker {
        endpoint.broker.as_ref().unwrap_or(&self.config.broker)
    }

    /// The credentials of an endpoint, as far as a namespace may use them.
    fn credentials(
        &self,
        endpoint: &Endpoint,
        namespace: &str,
    ) -> Result<Option<Credentials>, credentials::NoCredentials> {
        let name = endpoint.credentials.as_ref();
        name.map(|name| credentials::load(&self.config.credentials, name, namespace))
            .transpose()
    }

    /// Another one for each endpoint: two connections of one id would end each other.
    fn client_id(&self, endpoint: &Endpoint) -> String {
        let digest = blake3::hash(format!("{endpoint:?}").as_bytes()).to_hex();
        format!("{}-drivers-{}", self.config.client_id, &digest[..8])
    }
}

impl Driver for Mqtt {
    type Endpoint = Endpoint;
    type Device = Settled;

    fn protocol(&self) -> &'static str {
        "tombolo/mqtt"
    }

    fn read(&self, served: &Served) -> Reading<Endpoint, Settled> {
        let mut reading = config::read(served, &self.config.topics);
        if let Some((endpoint, _)) = &mut reading.good
            && endpoint.broker.as_ref() == Some(&self.config.broker)
        {
            endpoint.broker = None;
        }
        reading
    }

    fn serve(
        self: Arc<Self>,
        endpoint: Endpoint,
        units: watch::Receiver<Units<Settled>>,
        hands: Hands,
    ) -> BoxFuture<'static, ()> {
        task::Task::new(self, endpoint, units, hands).run().boxed()
    }
}
