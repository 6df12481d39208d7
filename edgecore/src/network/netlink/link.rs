//! Bridges and the cables that hang on them: `RTM_NEWLINK` and its kin.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::errno::Errno;

use super::message::Message;
use super::socket::Netlink;
use super::{ATTR_ADDRESS, ATTR_LOCAL, CREATE, NEW_ADDRESS, REPLACE};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const SET_LINK: u16 = 19;
const NEW_ROUTE: u16 = 24;
const EXCLUSIVE: u16 = 0x200;
/// `IFF_UP`.
const UP: u32 = 1;
/// The family `PF_BRIDGE`: what a bridge knows of a port.
const OF_A_PORT: u8 = 7;
const IPV4: u8 = 2;

const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MASTER: u16 = 10;
const PORT: u16 = 12;
const PORT_HAIRPIN: u16 = 4;
const INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const NAMESPACE: u16 = 28;
const PEER: u16 = 1;

const BROADCAST: u16 = 4;
const ROUTE_OUT: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// A cable between a bridge and another network namespace.
#[derive(Debug)]
pub struct Cable<'a> {
    /// Its end in this namespace.
    pub host: &'a str,
    /// That end's Ethernet address.
    pub host_mac: Mac,
    /// The bridge which that end hangs on.
    pub bridge: u32,
    /// Its end in the other.
    pub peer: &'a str,
    /// The other end's Ethernet address.
    pub mac: Mac,
    /// The other namespace.
    pub namespace: BorrowedFd<'a>,
}

impl Netlink {
    /// Makes the bridge `name`; fine when there is one.
    pub fn add_bridge(&self, name: &str, mac: Mac) -> io::Result<()> {
        let request = Message::new(NEW_LINK, CREATE | EXCLUSIVE, &link(0, 0, 0))
            .name(NAME, name)
            .attribute(ADDRESS, &mac)
            .nested(INFO, &[], |info| info.name(INFO_KIND, "bridge"));
        but(self.ask(request), Errno::EEXIST)
    }

    /// Makes a cable whose end here is up, and takes what comes in by it back out of it, for a pod that
    /// calls itself through an address of the device.
    pub fn add_cable(&self, cable: &Cable<'_>) -> io::Result<()> {
        let namespace = u32::try_from(cable.namespace.as_raw_fd()).unwrap_or(u32::MAX);
        let request = Message::new(NEW_LINK, CREATE | EXCLUSIVE, &link(0, 0, UP))
            .name(NAME, cable.host)
            .attribute(ADDRESS, &cable.host_mac)
            .attribute(MASTER, &cable.bridge.to_ne_bytes())
            .nested(INFO, &[], |info| {
                info.name(INFO_KIND, "veth").nested(INFO_DATA, &[], |data| {
                    // It cannot be up before both are there.
                    data.nested(PEER, &link(0, 0, 0), |peer| {
                        peer.name(NAME, cable.peer)
                            .attribute(ADDRESS, &cable.mac)
                            .attribute(NAMESPACE, &namespace.to_ne_bytes())
                    })
                })
            });
        self.ask(request)
    }

    /// Lets a bridge send back through the port what came in by it.
    pub fn set_hairpin(&self, port: u32) -> io::Result<()> {
        let request =
            Message::new(SET_LINK, 0, &link(OF_A_PORT, port, 0))
                .nested(PORT | 0x8000, &[], |port| port.attribute(PORT_HAIRPIN, &[1]));
        self.ask(request)
    }

    /// Sets a device up.
    pub fn set_up(&self, device: u32) -> io::Result<()> {
        self.ask(Message::new(NEW_LINK, 0, &link(0, device, UP)))
    }

    /// Removes the device `name` and, of a cable, its other end; fine when there is none.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        // The device is named by its attribute, not by its index.
        let request = Message::new(DELETE_LINK, 0, &link(0, 0, 0)).name(NAME, name);
        but(self.ask(request), Errno::ENODEV)
    }

    /// Gives a device an address in a network of `prefix` bits; fine when it has it.
    pub fn add_address(&self, device: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut fixed = vec![IPV4, prefix, 0, 0];
        fixed.extend(device.to_ne_bytes());
        let broadcast = u32::from(address) | u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        let request = Message::new(NEW_ADDRESS, CREATE | REPLACE, &fixed)
            .attribute(ATTR_LOCAL, &address.octets())
            .attribute(ATTR_ADDRESS, &address.octets())
            .attribute(BROADCAST, &broadcast.to_be_bytes());
        self.ask(request)
    }

    /// Sends all that goes nowhere else to `gateway`.
    pub fn add_default_route(&self, device: u32, gateway: Ipv4Addr) -> io::Result<()> {
        // The main table, as set up at boot, from everywhere, unicast.
        let fixed = [IPV4, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
        let request = Message::new(NEW_ROUTE, CREATE | EXCLUSIVE, &fixed)
            .attribute(ROUTE_GATEWAY, &gateway.octets())
            .attribute(ROUTE_OUT, &device.to_ne_bytes());
        self.ask(request)
    }
}

/// `ifinfomsg`.
fn link(family: u8, index: u32, flags: u32) -> [u8; 16] {
    let mut fixed = [0; 16];
    fixed[0] = family;
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    // Those flags alone are changed.
    fixed[12..].copy_from_slice(&flags.to_ne_bytes());
    fixed
}

fn but(done: io::Result<()>, fine: Errno) -> io::Result<()> {
    match done {
        Err(error) if error.raw_os_error() == Some(fine as i32) => Ok(()),
        done => done,
    }
}
