//! Adds an address to the loopback device and takes it away again; removes our bridge.
//!
//! Three fixed messages of rtnetlink(7), written out here: a library for all of it would be a
//! hundred times the size of what is needed. All operations are idempotent.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use thiserror::Error;

/// The loopback device is the first of every network namespace.
const LOOPBACK: u32 = 1;

const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const DELETE_LINK: u16 = 17;
const ERROR: u16 = 2;
const REQUEST: u16 = 0x01;
const ACKNOWLEDGE: u16 = 0x04;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;
/// `IFA_F_NODAD`: an IPv6 address is usable at once.
const NO_DUPLICATE_DETECTION: u8 = 0x02;
const SCOPE_HOST: u8 = 254;
const ATTR_ADDRESS: u16 = 1;
const ATTR_LOCAL: u16 = 2;
const ATTR_NAME: u16 = 3;

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
    let done = exchange(&message(NEW_ADDRESS, CREATE | REPLACE, address));
    done.map_err(|source| AddressError {
        verb: "add",
        preposition: "to",
        address,
        source,
    })
}

/// Takes `address` from `lo`; fine when it is not there.
pub fn remove(address: IpAddr) -> Result<(), AddressError> {
    match exchange(&message(DELETE_ADDRESS, 0, address)) {
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EADDRNOTAVAIL as i32) => Ok(()),
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
    // `ifinfomsg`: the device is named by its attribute, not by its index.
    let mut body = vec![0; 16];
    attribute(&mut body, ATTR_NAME, &[name.as_bytes(), &[0]].concat());
    match exchange(&framed(DELETE_LINK, 0, &body)) {
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32) => Ok(()),
        done => done,
    }
}

/// `nlmsghdr`, `ifaddrmsg`, and the attributes ADDRESS and LOCAL.
fn message(kind: u16, flags: u16, address: IpAddr) -> Vec<u8> {
    let (family, octets, bits) = match address {
        IpAddr::V4(v4) => (AddressFamily::Inet as u8, Ipv4Addr::octets(&v4).to_vec(), 32),
        IpAddr::V6(v6) => (AddressFamily::Inet6 as u8, Ipv6Addr::octets(&v6).to_vec(), 128),
    };
    let mut body = vec![family, bits, NO_DUPLICATE_DETECTION, SCOPE_HOST];
    body.extend(LOOPBACK.to_ne_bytes());
    attribute(&mut body, ATTR_LOCAL, &octets);
    attribute(&mut body, ATTR_ADDRESS, &octets);
    framed(kind, flags, &body)
}

/// Puts `nlmsghdr` before a body.
fn framed(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(16 + body.len());
    message.extend(length(16 + body.len()).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((REQUEST | ACKNOWLEDGE | flags).to_ne_bytes());
    message.extend(1_u32.to_ne_bytes()); // sequence number
    message.extend(0_u32.to_ne_bytes()); // the kernel fills in the port
    message.extend(body);
    message
}

fn attribute(body: &mut Vec<u8>, kind: u16, octets: &[u8]) {
    let len = u16::try_from(4 + octets.len()).unwrap_or(u16::MAX);
    body.extend(len.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(octets);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Sends one request and reads its acknowledgement. The kernel answers at once; the time limit
/// is for a kernel that does not.
fn exchange(message: &[u8]) -> io::Result<()> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(2))?;
    sendto(
        fd.as_raw_fd(),
        message,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    let mut answer = [0_u8; 512];
    let received = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    acknowledged(answer.get(..received).unwrap_or_default())
}

/// An acknowledgement is an error message with the code 0.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let malformed = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the kernel's answer is not an acknowledgement",
        )
    };
    let kind = answer
        .get(4..6)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u16::from_ne_bytes);
    let code = answer
        .get(16..20)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(ERROR), Some(0)) => Ok(()),
        (Some(ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let message = message(NEW_ADDRESS, CREATE, IpAddr::from([10, 96, 0, 1]));
        assert_eq!(message.len(), 40);
        assert_eq!(message[..4], 40_u32.to_ne_bytes());
        assert_eq!(message[16..20], [2, 32, 2, 254]);
        assert_eq!(message[28..32], [10, 96, 0, 1]);
    }

    #[test]
    fn an_answer_with_code_zero_is_a_yes_and_any_other_an_error() {
        let answer = |code: i32| {
            let mut bytes = vec![0_u8; 36];
            bytes[4..6].copy_from_slice(&ERROR.to_ne_bytes());
            bytes[16..20].copy_from_slice(&code.to_ne_bytes());
            bytes
        };
        assert!(acknowledged(&answer(0)).is_ok());
        assert_eq!(
            acknowledged(&answer(-1)).unwrap_err().kind(),
            io::ErrorKind::PermissionDenied
        );
        assert!(acknowledged(&[]).is_err());
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
        let script =
            "ip link set lo up && exec \"$0\" --exact network::netlink::tests::inside_a_namespace --ignored";
        let program = std::env::current_exe().unwrap();
        let ran = std::process::Command::new("unshare")
            .args(["-rn", "sh", "-c", script])
            .arg(program)
            .output();
        let output = ran.expect("unshare, of the package util-linux");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{said}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(said.contains("1 passed"), "{said}");
    }
}
