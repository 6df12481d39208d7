//! The bridge to the site's MQTT broker: KubeEdge's device topics, on top of the twins.
//!
//! What it is: `$hw/events/device/…` and `$hw/events/node/…/membership/…` as existing clients know
//! them. What it is not: a broker, nor the driver for devices that speak their own topics.
//!
//! ```text
//! client ──► wire (MQTT 5 or 3.1.1) ──► bridge (pure) ──► work ──► Twins
//!                    ▲                    │    ▲                     │
//!                    └──── outbox ◄───────┘    └────── told ◄────────┘
//! ```
//!
//! **Invariant:** one message, one device or one lost connection never stops the others; whatever
//! the broker has not seen acknowledged it delivers again.

mod answers;
mod arrivals;
mod bridge;
mod client;
mod counters;
mod credentials;
mod dial;
mod knock;
mod lanes;
mod message;
mod outbox;
mod oversized;
mod packets;
mod payload;
mod roll;
mod terms;
mod topic;
mod version;
mod wire;
mod work;

use std::path::PathBuf;
use std::sync::Arc;

use super::Broker;
use super::broker::PORT;

pub use client::run;
pub(super) use counters::count;
pub use counters::{Counted, Counters};
pub(super) use credentials::Access;
pub use knock::{Answer, Knock, knock};
pub(super) use message::{Filter, Message, Publish};
pub(super) use version::{Greeting, Lost, Session};
pub(super) use wire::{Event, Wire};

/// The broker, as the node reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mqtt {
    /// Where it is: on the node itself by default. A node without a broker notices one that is
    /// installed later, and until then asks a closed port now and then.
    pub address: Broker,
    /// A file with user and password, and for TLS the broker's CA and the node's certificate.
    pub credentials: Option<PathBuf>,
    /// The name of the node's session; `edgecore-` and the node's name by default.
    pub client_id: Option<String>,
}

impl Default for Mqtt {
    fn default() -> Self {
        let address = Broker {
            host: "127.0.0.1".to_owned(),
            port: PORT,
            tls: false,
        };
        Self {
            address,
            credentials: None,
            client_id: None,
        }
    }
}

impl Mqtt {
    /// The name of this node's session.
    pub fn client_id(&self, node: &str) -> String {
        let own = || format!("edgecore-{node}");
        self.client_id.clone().unwrap_or_else(own)
    }
}

/// What a bridge needs to begin with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where the broker is.
    pub config: Mqtt,
    /// The node's name.
    pub node: String,
    /// Whether the power failed since the last connection: a broker that saves what it knows now and
    /// then has forgotten since when it was read.
    pub lost_power: bool,
    /// Where it counts.
    pub counters: Arc<Counters>,
}
