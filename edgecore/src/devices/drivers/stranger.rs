//! Devices that name a protocol as one of ours which is none: nobody serves them, and they are told so.

use std::convert::Infallible;
use std::sync::Arc;

use futures::future::BoxFuture;
use protocol::devices::check::{BUILT_IN_PROTOCOLS, is_ours};
use tokio::sync::watch;

use super::driver::{Driver, Hands, Mistake, Reading, Units};
use crate::devices::Served;

/// Serves nobody.
pub(crate) struct Stranger;

impl Driver for Stranger {
    type Endpoint = Infallible;
    type Device = Infallible;

    fn protocol(&self) -> &'static str {
        "none"
    }

    fn serves(&self, protocol: &str) -> bool {
        is_ours(protocol) && !BUILT_IN_PROTOCOLS.contains(&protocol)
    }

    fn read(&self, served: &Served) -> Reading<Infallible, Infallible> {
        let known = BUILT_IN_PROTOCOLS.join(", ");
        let text = format!("there is no protocol {}; there are {known}", served.protocol);
        Reading {
            good: None,
            mistakes: Mistake::of_device(vec![text]).collect(),
        }
    }

    fn serve(
        self: Arc<Self>,
        endpoint: Infallible,
        _units: watch::Receiver<Units<Infallible>>,
        _hands: Hands,
    ) -> BoxFuture<'static, ()> {
        match endpoint {}
    }
}
