//! The drivers of one node, with twins that remember.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use edgecore::devices::Twins;
use edgecore::devices::drivers::{Allowed, DriversConfig, run};
use edgecore::devices::mqtt::Counters;
use protocol::devices::{DeviceName, DeviceState};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::fake::FakeTwins;

pub(crate) struct Node {
    pub(crate) twins: Arc<FakeTwins>,
    pub(crate) counters: Arc<Counters>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

fn config(broker: u16, credentials: &Path) -> DriversConfig {
    DriversConfig {
        broker: format!("mqtt://127.0.0.1:{broker}").parse().unwrap(),
        client_id: "edgecore-n1".to_owned(),
        topics: Allowed::new(BTreeMap::from([("*".to_owned(), vec!["#".to_owned()])])),
        credentials: credentials.to_owned(),
        http_listen: None,
        lost_power: false,
        counters: Arc::new(Counters::default()),
    }
}

impl Node {
    /// Serves these devices; the node's broker is at this port.
    pub(crate) fn start(broker: u16, manifests: impl IntoIterator<Item = Value>) -> Self {
        Self::with(broker, Path::new("/nonexistent"), manifests)
    }

    /// As well, with credentials in this folder.
    pub(crate) fn with(broker: u16, credentials: &Path, manifests: impl IntoIterator<Item = Value>) -> Self {
        Self::listening(broker, credentials, None, manifests)
    }

    /// As well, with a place where devices may push.
    pub(crate) fn listening(
        broker: u16,
        credentials: &Path,
        listen: Option<SocketAddr>,
        manifests: impl IntoIterator<Item = Value>,
    ) -> Self {
        let config = DriversConfig {
            http_listen: listen,
            ..config(broker, credentials)
        };
        Self::run(config, manifests)
    }

    /// As [`start`](Self::start), after the power of the node failed.
    pub(crate) fn after_a_power_cut(broker: u16, manifests: impl IntoIterator<Item = Value>) -> Self {
        let config = DriversConfig {
            lost_power: true,
            ..config(broker, Path::new("/nonexistent"))
        };
        Self::run(config, manifests)
    }

    fn run(config: DriversConfig, manifests: impl IntoIterator<Item = Value>) -> Self {
        let counters = Arc::clone(&config.counters);
        let (twins, stop, mut tasks) = (FakeTwins::new(), CancellationToken::new(), JoinSet::new());
        twins.serve(manifests);
        tasks.spawn(run(config, Arc::clone(&twins) as Arc<dyn Twins>, stop.clone()));
        Self {
            twins,
            counters,
            stop,
            tasks,
        }
    }

    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        self.tasks.join_next().await.unwrap().unwrap();
    }

    pub(crate) async fn until_state(&self, device: &DeviceName, state: DeviceState) {
        for _ in 0..1000 {
            if self.twins.states(device).last() == Some(&state) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{device} is not {state:?}: {:?}", self.twins.states(device));
    }
}
