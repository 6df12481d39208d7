//! Devices, addresses and routes of the kernel: an address on the loopback device, our bridge, the cables of pods.
//!
//! A handful of messages of rtnetlink(7), written out here: a library for all of it would be a
//! hundred times the size of what is needed.

mod link;
mod message;
mod socket;

use std::io;
use std::net::IpAddr;

use nix::errno::Errno;
use nix::sys::socket::AddressFamily;
use thiserror::Error;

pub use link::{Cable, Mac};
use message::Message;
pub use socket::Netlink;

/// The loopback device is the first of every network namespace.
const LOOPBACK: u32 = 1;

const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;
/// `IFA_F_NODAD`: an IPv6 address is usable at once.
const NO_DUPLICATE_DETECTION: u8 = 0x02;
const SCOPE_HOST: u8 = 254;
const ATTR_ADDRESS: u16 = 1;
const ATTR_LOCAL: u16 = 2;

/// Why the address of the API server is not on `lo`, or still is.
#[derive(Debug, Error)]
#[error("cannot {verb} {address} {preposition} the loopback device (edgecore needs CAP_NET_ADMIN)")]
pub struct AddressError {
    verb: &'static str,
    preposition: &'static str,
    address: IpAddr,
    source: io::Error,
}

/// Adds `address` to `lo`, as a /32 or /128; fine when it is there already.
pub fn add(address: IpAddr) -> Result<(), AddressError> {
    let done = ask(message(NEW_ADDRESS, CREATE | REPLACE, address));
    done.map_err(|source| AddressError {
        verb: "add",
        preposition: "to",
        address,
        source,
    })
}

/// Takes `address` from `lo`; fine when it is not there.
pub fn remove(address: IpAddr) -> Result<(), AddressError> {
    match ask(message(DELETE_ADDRESS, 0, address)) {
        Err(error) if error.raw_os_error() == Some(Errno::EADDRNOTAVAIL as i32) => Ok(()),
        done => done.map_err(|source| AddressError {
            verb: "remove",
            preposition: "from",
            address,
            source,
        }),
    }
}

/// Removes the network device `name` (a bridge that was ours); fine when there is none.
pub fn remove_device(name: &str) -> io::Result<()> {
    Netlink::open()?.remove(name)
}

fn ask(message: Message) -> io::Result<()> {
    Netlink::open()?.ask(message)
}

/// `ifaddrmsg`, and the attributes ADDRESS and LOCAL.
fn message(kind: u16, flags: u16, address: IpAddr) -> Message {
    let (family, octets, bits) = match address {
        IpAddr::V4(v4) => (AddressFamily::Inet as u8, v4.octets().to_vec(), 32),
        IpAddr::V6(v6) => (AddressFamily::Inet6 as u8, v6.octets().to_vec(), 128),
    };
    let mut fixed = vec![family, bits, NO_DUPLICATE_DETECTION, SCOPE_HOST];
    fixed.extend(LOOPBACK.to_ne_bytes());
    Message::new(kind, flags, &fixed)
        .attribute(ATTR_LOCAL, &octets)
        .attribute(ATTR_ADDRESS, &octets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::testing::in_a_namespace;

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let message = message(NEW_ADDRESS, CREATE, IpAddr::from([10, 96, 0, 1])).finish();
        assert_eq!(message.len(), 40);
        assert_eq!(message[..4], 40_u32.to_ne_bytes());
        assert_eq!(message[16..20], [2, 32, 2, 254]);
        assert_eq!(message[28..32], [10, 96, 0, 1]);
    }

    /// Runs in a network namespace of its own, started by the test below.
    #[test]
    #[ignore = "needs a network namespace of its own; the next test makes one and runs this in it"]
    fn inside_a_namespace() {
        for address in ["10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap()] {
            let on_lo = || std::net::TcpListener::bind((address, 0)).is_ok();
            assert!(!on_lo());
            add(address).unwrap();
            add(address).unwrap();
            assert!(on_lo(), "{address} is usable at once");
            remove(address).unwrap();
            remove(address).unwrap();
            assert!(!on_lo());
        }
        let add = std::process::Command::new("ip")
            .args(["link", "add", "tombolo0", "type", "bridge"])
            .status();
        assert!(add.unwrap().success());
        assert!(std::path::Path::new("/proc/sys/net/ipv4/conf/tombolo0").exists());
        remove_device("tombolo0").unwrap();
        remove_device("tombolo0").unwrap();
        assert!(!std::path::Path::new("/proc/sys/net/ipv4/conf/tombolo0").exists());
    }

    #[test]
    fn the_kernel_takes_an_address_and_gives_it_back_any_number_of_times() {
        in_a_namespace("network::netlink::tests::inside_a_namespace");
    }
}
