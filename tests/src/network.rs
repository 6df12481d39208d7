//! The testbed's network: a bridge on the host, a cable per machine, routes to pods.
//!
//! Nothing is written to the host's iptables: links are cut at the bridge's port, and what a
//! machine may reach is filtered inside the machine.
//!
//! **Invariant:** block 0 holds the host (`.1`) and the machines, block *i* the pods of the *i*-th
//! machine where it is an ordinary node (the pods of edge machines have ranges of their own), the last
//! block the Services.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::{Result, ensure};
use parking_lot::Mutex;

use crate::{command::ip, ground::Ground};

/// The block of the cluster's Services.
const SERVICES: u8 = 15;
/// The first machine's host number.
const FIRST_MACHINE: u8 = 10;
/// The last machine: `.250`.
const MACHINES: u8 = 240;

/// The bridge and who has which place on it.
#[derive(Debug)]
pub struct Network {
    ground: Arc<Ground>,
    machines: Mutex<u8>,
}

/// A machine's place on the network.
#[derive(Clone, Debug)]
pub struct Place {
    /// The machine's own address.
    pub address: Ipv4Addr,
    nth: u8,
    /// The host's end of the cable.
    pub cable: String,
}

impl Network {
    /// Lays the bridge.
    pub fn lay(ground: Arc<Ground>) -> Result<Self> {
        let (bridge, host) = (ground.bridge(), ground.address(0, 1));
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("addr add {host}/24 dev {bridge}"))?;
        ip(&format!("link set {bridge} up"))?;
        Ok(Self {
            ground,
            machines: Mutex::new(0),
        })
    }

    /// The host's address, on which the control plane serves.
    pub fn host(&self) -> Ipv4Addr {
        self.ground.address(0, 1)
    }

    /// The bridge that machines hang on.
    pub fn bridge(&self) -> String {
        self.ground.bridge()
    }

    /// The range of the cluster's Services.
    pub fn service_range(&self) -> String {
        format!("{}/24", self.ground.address(SERVICES, 0))
    }

    /// The address of the Service `kubernetes`.
    pub fn kubernetes_service(&self) -> Ipv4Addr {
        self.ground.address(SERVICES, 1)
    }

    /// The next free place.
    pub fn place(&self) -> Result<Place> {
        let mut machines = self.machines.lock();
        ensure!(
            *machines < MACHINES,
            "a testbed holds at most {MACHINES} machines"
        );
        *machines += 1;
        let nth = *machines;
        Ok(Place {
            address: self.ground.address(0, FIRST_MACHINE + nth),
            nth,
            cable: format!("{}-{nth}", self.ground.bridge()),
        })
    }

    /// The range of the pods of an ordinary node, a /24.
    pub fn pods_of(&self, place: &Place) -> Result<String> {
        ensure!(
            place.nth < SERVICES,
            "ordinary nodes must be among the first {} machines of a testbed",
            SERVICES - 1
        );
        Ok(format!("{}/24", self.ground.address(place.nth, 0)))
    }

    /// Plugs a machine in: a cable from the bridge into the namespace of its PID 1.
    pub fn plug(&self, place: &Place, pid: i32) -> Result<()> {
        let (cable, bridge) = (&place.cable, self.ground.bridge());
        ip(&format!("link add {cable} type veth peer name eth0 netns {pid}"))?;
        ip(&format!("link set {cable} master {bridge} up")).map(drop)
    }

    /// Lets the host, and with it the API server, reach the pods of a machine.
    pub fn route_pods(&self, place: &Place) -> Result<()> {
        ip(&format!(
            "route replace {} via {}",
            self.pods_of(place)?,
            place.address
        ))
        .map(drop)
    }
}

impl Place {
    /// Nothing passes any more; the device at the other end is not told.
    pub fn cut(&self) -> Result<()> {
        self.port_state(0)
    }

    /// Everything passes again.
    pub fn restore(&self) -> Result<()> {
        self.port_state(3)
    }

    /// 0 is a disabled port, 3 one that forwards.
    fn port_state(&self, state: u8) -> Result<()> {
        let words = ["link", "set", "dev", &self.cable, "state", &state.to_string()];
        crate::command::run("bridge", words).map(drop)
    }
}
