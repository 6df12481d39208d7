//! `tombolo/http`: devices with a web server of their own, as those of `Shelly`, `Tasmota` and
//! `ESPHome`, and devices that post what they measure.
//!
//! ```text
//! settings (config) ──► polls ──► client ──► server       device ──► push ──► Twins
//!                         │          ▲
//!            outgoing ◄───┴── body ──┴── wishes
//! ```
//!
//! **Invariant:** a poll that failed never passes the last value off as good; a device's token speaks for
//! no other device.

mod body;
mod client;
mod config;
mod door;
mod place;
mod polls;
mod push;
mod task;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::driver::{Driver, Hands, Mistake, Reading, Units};
use super::polling;
use crate::devices::Served;
use config::{Endpoint, Settled};

/// The protocol's name.
const PROTOCOL: &str = "tombolo/http";

/// Asks devices.
pub(crate) struct Http {
    /// Where credentials are.
    pub(crate) credentials: PathBuf,
}

impl Driver for Http {
    type Endpoint = Endpoint;
    type Device = Settled;

    fn protocol(&self) -> &'static str {
        PROTOCOL
    }

    fn read(&self, served: &Served) -> Reading<Endpoint, Settled> {
        let found = config::read(served);
        Reading {
            good: found.endpoint.zip(found.settled),
            mistakes: found.mistakes,
        }
    }

    fn serve(
        self: Arc<Self>,
        endpoint: Endpoint,
        units: watch::Receiver<Units<Settled>>,
        hands: Hands,
    ) -> BoxFuture<'static, ()> {
        let credentials = self.credentials.clone();
        polling::run(task::Task::new(endpoint, credentials), units, hands).boxed()
    }
}

/// Hears devices.
pub(crate) struct Push {
    /// Where credentials are.
    pub(crate) credentials: PathBuf,
    /// Where it listens; nowhere by default.
    pub(crate) listen: Option<SocketAddr>,
}

impl Driver for Push {
    type Endpoint = SocketAddr;
    type Device = Settled;

    fn protocol(&self) -> &'static str {
        PROTOCOL
    }

    /// What is wrong with the manifest itself the other half says.
    fn read(&self, served: &Served) -> Reading<SocketAddr, Settled> {
        let found = config::read(served);
        let pushes = found.settled.filter(|settled| settled.push.is_some());
        let deaf = pushes.is_some() && self.listen.is_none();
        let text = "protocol.configData.push needs devices.http_listen in edgecore.yaml of this node, which \
                    is not set: nobody listens";
        let mistakes = deaf.then(|| Mistake::of_device(vec![text.to_owned()]));
        Reading {
            good: self.listen.zip(pushes),
            mistakes: mistakes.into_iter().flatten().collect(),
        }
    }

    fn serve(
        self: Arc<Self>,
        listen: SocketAddr,
        units: watch::Receiver<Units<Settled>>,
        hands: Hands,
    ) -> BoxFuture<'static, ()> {
        push::run(listen, self.credentials.clone(), units, hands).boxed()
    }
}
