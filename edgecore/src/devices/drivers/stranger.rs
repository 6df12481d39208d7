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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::devices::merge;

    #[test]
    fn a_name_that_looks_like_ours_and_is_none_is_told_so() {
        let manifest = json!({
            "metadata": {"name": "d", "namespace": "hall", "uid": "u"},
            "spec": {"protocol": {"protocolName": "tombolo/htpp"}, "properties": [{"name": "p"}]}
        });
        let served = merge(&serde_json::from_value(manifest).unwrap(), None);
        assert!(Stranger.serves(&served.protocol));
        for known in ["tombolo/http", "tombolo/mqtt", "tombolo/modbus", "modbus", ""] {
            assert!(!Stranger.serves(known), "{known}");
        }
        let reading = Stranger.read(&served);
        let text = &reading.mistakes[0].text;
        assert!(
            text.contains("there is no protocol tombolo/htpp; there are tombolo/mqtt"),
            "{text}"
        );
    }
}
