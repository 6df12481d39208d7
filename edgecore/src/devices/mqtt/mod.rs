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
mod lanes;
mod outbox;
mod payload;
mod roll;
mod topic;
mod wire;
mod work;

use std::sync::Arc;

pub use client::run;
pub use counters::{Counted, Counters};

/// What a bridge needs to begin with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where the broker is.
    pub config: crate::config::Mqtt,
    /// The node's name.
    pub node: String,
    /// Where it counts.
    pub counters: Arc<Counters>,
}
