//! A small mapper, to copy from: thermostats that exist in memory alone.
//!
//! A mapper is a program beside edgecore that speaks with devices of one protocol. It opens a socket of
//! its own, registers it at edgecore's, and from then on is told which devices there are and what their
//! properties should be; it reports what they are. Replace [`thermostat`] by your device.
//!
//! ```text
//! edgecore ──RegisterDevice, UpdateDevice, RemoveDevice──► mapper ──► devices
//!          ◄──MapperRegister, ReportDeviceStatus, ReportDeviceStates──
//! ```

mod edge;
mod service;
mod thermostat;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use protocol::dmi::device_mapper_service_server::DeviceMapperServiceServer;
use tokio::net::UnixListener;
use tokio::time::interval;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use edge::Edge;
use service::{Devices, Mapper};

/// What `spec.protocol.protocolName` of its devices says.
const PROTOCOL: &str = "example-thermostat";
/// How often the devices are read. A real mapper takes each property's `collectCycle`.
const CYCLE: Duration = Duration::from_secs(1);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let path = |variable, default: &str| PathBuf::from(std::env::var(variable).unwrap_or(default.into()));
    let edgecore = path("EDGECORE_SOCKET", "/etc/kubeedge/dmi.sock");
    let socket = path("MAPPER_SOCKET", "/run/example-mapper.sock");

    // The socket comes first, so that edgecore reaches it as soon as it knows it.
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket)?;

    let devices: Devices = Arc::new(Mutex::new(BTreeMap::new()));
    let mapper = Mapper::new(Arc::clone(&devices));
    let edge = Edge::dial(&edgecore);
    for device in edge.register(PROTOCOL, &socket).await? {
        mapper.put(device);
    }
    println!("registered; {} devices so far", devices.lock().len());

    let server = Server::builder().serve_with_incoming(
        DeviceMapperServiceServer::new(mapper),
        UnixListenerStream::new(listener),
    );
    tokio::select! {
        ended = server => Ok(ended?),
        () = report(&edge, &devices) => Ok(()),
    }
}

/// Reads every device again and again, and says what it is.
async fn report(edge: &Edge, devices: &Devices) {
    let mut ticks = interval(CYCLE);
    loop {
        ticks.tick().await;
        let read: Vec<_> = devices
            .lock()
            .iter_mut()
            .map(|(name, thermostat)| (name.clone(), thermostat.read()))
            .collect();
        for (name, values) in read {
            // What edgecore did not take is out of date by the next cycle: nothing is kept here.
            if let Err(status) = edge.report(&name, &values).await {
                eprintln!("{}/{} is not reported: {}", name.0, name.1, status.message());
            }
        }
    }
}
