//! The devices' task: the twins, and the carriers that speak with the world.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use protocol::devices::{DeviceIdentity, DeviceStatusStatus};
use protocol::object::{Kind, Object};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Parts;
use crate::devices::dmi::{self, DmiConfig};
use crate::devices::{Cluster, Source, Twins, drivers, mqtt};
use crate::reported::Reporter;
use crate::state::Desired;
use crate::supervise::BoxError;
use crate::uplink::{DesiredFlow, Link, LinkState};

/// A link that takes nothing for so long is as good as none.
const SILENT: Duration = Duration::from_secs(2);
/// How long carriers get to end, before what they brought is written to flash.
const CARRIERS_END: Duration = Duration::from_secs(2);

/// A carrier: serves devices until the token is cancelled.
type Carrier = BoxFuture<'static, Result<(), BoxError>>;

/// Runs the twins and their carriers until `stop`.
pub(super) async fn run(parts: Arc<Parts>, stop: CancellationToken) -> Result<(), BoxError> {
    let core = Arc::clone(&parts.devices);
    let carried = CancellationToken::new();
    let mut carriers = JoinSet::new();
    for carrier in carriers_of(&parts, Arc::clone(&core) as _, &stop) {
        carriers.spawn(carrier);
    }
    let carry = async {
        let lost = watch_carriers(&mut carriers, &stop).await;
        // The twins end after those who bring values.
        carried.cancel();
        lost
    };
    tokio::join!(carry, core.run(&carried)).0
}

/// Whoever speaks with devices on this node.
fn carriers_of(parts: &Arc<Parts>, twins: Arc<dyn Twins>, stop: &CancellationToken) -> Vec<Carrier> {
    vec![
        broker(parts, Arc::clone(&twins), stop.clone()),
        mappers(parts, Arc::clone(&twins), stop.clone()),
        drivers(parts, twins, stop.clone()),
    ]
}

/// Devices that need no code: MQTT on topics of their own, and Modbus.
fn drivers(parts: &Parts, twins: Arc<dyn Twins>, stop: CancellationToken) -> Carrier {
    let mut config = parts.config.drivers();
    config.credentials = parts.paths.at(&config.credentials);
    config.lost_power = parts.devices.lost_power();
    config.counters = Arc::clone(&parts.mqtt);
    Box::pin(async move {
        drivers::run(config, twins, stop).await;
        Ok(())
    })
}

/// Devices that speak KubeEdge's topics, at the site's MQTT broker.
fn broker(parts: &Parts, twins: Arc<dyn Twins>, stop: CancellationToken) -> Carrier {
    let setup = mqtt::Setup {
        config: parts.config.mqtt.clone(),
        node: parts.config.node_name.to_string(),
        lost_power: parts.devices.lost_power(),
        counters: Arc::clone(&parts.mqtt),
    };
    let clock = parts.clock.clone();
    Box::pin(async move {
        mqtt::run(setup, twins, clock, stop).await;
        Ok(())
    })
}

/// Mappers, at their socket.
fn mappers(parts: &Parts, twins: Arc<dyn Twins>, stop: CancellationToken) -> Carrier {
    let config = DmiConfig {
        socket: parts.paths.at(&parts.config.dmi.socket),
        group: parts.config.dmi.group.clone(),
    };
    // With the journal of devices: a mapper registers once, so that must outlive what the cluster can send again.
    let rows = Arc::new(parts.stores.outbox.clone());
    Box::pin(dmi::keep(config, twins, rows, stop).map(Ok))
}

/// Returns when the carriers have ended after `stop`, or one of them before.
async fn watch_carriers(
    carriers: &mut JoinSet<Result<(), BoxError>>,
    stop: &CancellationToken,
) -> Result<(), BoxError> {
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = carriers.join_next() => ended.map_err(BoxError::from).flatten()?,
        }
    }
    let ended = async { while carriers.join_next().await.is_some() {} };
    if timeout(CARRIERS_END, ended).await.is_err() {
        tracing::warn!("what speaks with devices did not end in time");
        carriers.shutdown().await;
    }
    Ok(())
}

/// The outbox and the link, as the twins see them.
pub(super) struct Outbox {
    reporter: Arc<Reporter>,
    link: watch::Receiver<LinkState>,
}

impl Outbox {
    pub(super) fn new(reporter: Arc<Reporter>, link: &Link) -> Self {
        Self {
            reporter,
            link: link.watch(),
        }
    }
}

impl Cluster for Outbox {
    fn is_away(&self) -> bool {
        !self.link.borrow().is_connected() || self.reporter.silence_of_devices() > SILENT
    }

    fn tell(&self, device: &DeviceIdentity, status: &DeviceStatusStatus) {
        if let Err(error) = self.reporter.device(device, status) {
            tracing::error!(%error, device = device.name, "what a device said cannot be reported");
        }
    }

    fn keep(&self, devices: Option<Vec<DeviceIdentity>>) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let kept = self.reporter.keep_devices(devices.as_deref()).await;
            kept.map_err(|error| error.to_string())
        })
    }

    fn forget(&self, device: &DeviceIdentity) {
        self.reporter.forget_device(device);
    }
}

/// What the node holds, as the twins see it.
pub(super) struct Held {
    pub(super) desired: Desired,
    pub(super) flow: Arc<DesiredFlow>,
}

impl Source for Held {
    fn objects(&self) -> Vec<Arc<Object>> {
        self.desired.device_objects()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.desired.watch_devices()
    }

    fn is_confirmed(&self) -> bool {
        self.flow.synced().contains(&Kind::Device)
    }
}
