//! `tombolo/modbus`: Modbus over TCP and over serial lines.
//!
//! ```text
//! settings (config) ──► plan ──► rounds ──► wire ◄──► bus
//!                                  │          ▲
//!                      outgoing ◄──┴─ codec ──┴── wishes
//! ```
//!
//! **Invariant:** one task speaks on a connection or bus, one request at a time; a unit that is silent
//! or talks nonsense delays the others by its timeouts (twice on a serial line, see [`wire`]) and no more, and
//! other endpoints not at all.

mod codec;
mod config;
mod line;
mod plan;
mod rounds;
mod task;
mod wire;

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::driver::{Driver, Hands, Reading, Units};
use super::polling;
use crate::devices::Served;
use config::{Endpoint, Settled};

/// The driver.
pub(crate) struct Modbus;

impl Driver for Modbus {
    type Endpoint = Endpoint;
    type Device = Settled;

    fn protocol(&self) -> &'static str {
        "tombolo/modbus"
    }

    fn read(&self, served: &Served) -> Reading<Endpoint, Settled> {
        config::read(served)
    }

    fn serve(
        self: Arc<Self>,
        endpoint: Endpoint,
        units: watch::Receiver<Units<Settled>>,
        hands: Hands,
    ) -> BoxFuture<'static, ()> {
        polling::run(task::Task::new(endpoint), units, hands).boxed()
    }
}
