//! The testbed's network: a bridge on the host, a cable per machine, routes to pods.
//!
//! Nothing is written to the host's iptables: links are cut at the bridge's port, and what a
//! machine may reach is filtered inside the machine.
//!
//! **Invariant:** block 0 holds the host (`.1`) and the machines, block *i* the pods of the *i*-th
//! machine, the last block the Services.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::{Result, ensure};
use parking_lot::Mutex;

use crate::{command::ip, ground::Ground};

/// The block of the cluster's Services.
const SERVICES: u8 = 15;
/// The first machine's host number.
const FIRST_MACHINE: u8 = 10;

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
    /// The addresses its pods may take, a /24.
    pub pods: Ipv4Addr,
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

    /// The next free place; a testbed has 14.
    pub fn place(&self) -> Result<Place> {
        let mut machines = self.machines.lock();
        *machines += 1;
        let nth = *machines;
        ensure!(nth < SERVICES, "a testbed holds at most 14 machines");
        Ok(Place {
            address: self.ground.address(0, FIRST_MACHINE + nth),
            pods: self.ground.address(nth, 0),
            cable: format!("{}-{nth}", self.ground.bridge()),
        })
    }

    /// Plugs a machine in: a cable from the bridge into the namespace of its PID 1.
    pub fn plug(&self, place: &Place, pid: i32) -> Result<()> {
        let (cable, bridge) = (&place.cable, self.ground.bridge());
        ip(&format!("link add {cable} type veth peer name eth0 netns {pid}"))?;
        ip(&format!("link set {cable} master {bridge} up")).map(drop)
    }

    /// Lets the host, and with it the API server, reach the pods of a machine.
    pub fn route_pods(&self, place: &Place) -> Result<()> {
        ip(&format!("route replace {}/24 via {}", place.pods, place.address)).map(drop)
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
