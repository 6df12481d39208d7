//! A knock at the API server's address, from the device itself: what `edgecore doctor` asks.
//!
//! The kernel may keep connections from the listener that waits for them, and nobody is told: a firewall of the
//! device drops them, or has them pass untracked, and then no rule translates them.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::addresses;
use super::ApiEndpoint;

/// The sockets of this network namespace; a listener for both families is in the second.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// `TCP_LISTEN`.
const LISTENS: u8 = 0x0a;
/// `TCP_ESTABLISHED`.
const IS_OPEN: u8 = 0x01;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knock {
    /// Where.
    pub endpoint: ApiEndpoint,
    /// The ports of that address at which somebody listens: edgecore, for nobody else knows the address.
    pub ports: Vec<u16>,
    /// Who was met.
    pub met: Met,
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Met {
    /// The one that listens at the address.
    Listener,
    /// Somebody who listens at all addresses, or to whom the kernel sends it: a pod that publishes the port, or another
    /// device.
    Stranger,
    /// Somebody refuses: the kernel, for nobody listens at that port, or a firewall.
    Refusal,
    /// Nobody.
    Silence,
    /// There is no way there, in the kernel's words.
    NoWay(String),
    /// It was not tried, for nobody listens at the address.
    NobodyListens,
    /// It was not tried, for the device does not have the address.
    NoAddress,
}

/// Connects to `endpoint`, and sends nothing.
pub async fn knock(endpoint: ApiEndpoint, limit: Duration) -> io::Result<Knock> {
    let ports = listeners(&sockets()?, endpoint.address);
    let met = if !addresses::has(endpoint.address)? {
        Met::NoAddress
    } else if ports.is_empty() {
        Met::NobodyListens
    } else {
        meet(endpoint, &ports, limit).await?
    };
    Ok(Knock { endpoint, ports, met })
}

async fn meet(endpoint: ApiEndpoint, ports: &[u16], limit: Duration) -> io::Result<Met> {
    let connecting = TcpStream::connect((endpoint.address, endpoint.port));
    let stream = match timeout(limit, connecting).await {
        Err(_) => return Ok(Met::Silence),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(Met::Refusal),
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => return Ok(Met::Silence),
        Ok(Err(error)) => return Ok(Met::NoWay(error.to_string())),
        Ok(Ok(stream)) => stream,
    };
    let client = stream.local_addr()?;
    let is_listener = match reached(&sockets()?, client) {
        Some(port) => ports.contains(&port),
        // Where it was closed already, as without a link to the cloud, nothing speaks against the listener. Read anew:
        // the other end went first.
        None => !is_open(&sockets()?, client),
    };
    Ok(if is_listener { Met::Listener } else { Met::Stranger })
}

/// A line of the kernel's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    local: SocketAddr,
    remote: SocketAddr,
    state: u8,
}

fn sockets() -> io::Result<Vec<Socket>> {
    let mut all = Vec::new();
    for table in TABLES {
        match fs::read_to_string(table) {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            text => all.extend(text?.lines().filter_map(socket)),
        }
    }
    Ok(all)
}

fn socket(line: &str) -> Option<Socket> {
    let mut words = line.split_whitespace().skip(1);
    Some(Socket {
        local: at(words.next()?)?,
        remote: at(words.next()?)?,
        state: u8::from_str_radix(words.next()?, 16).ok()?,
    })
}

/// `0100007F:0019`: words of 32 bits as they lie in memory, and the port.
fn at(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let mut octets = Vec::new();
    for word in address.as_bytes().chunks(8) {
        let word = u32::from_str_radix(str::from_utf8(word).ok()?, 16).ok()?;
        octets.extend(word.to_ne_bytes());
    }
    let address = match octets.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?)),
        _ => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?)),
    };
    Some(SocketAddr::new(
        address.to_canonical(),
        u16::from_str_radix(port, 16).ok()?,
    ))
}

fn listeners(sockets: &[Socket], address: IpAddr) -> Vec<u16> {
    let here = |socket: &&Socket| socket.state == LISTENS && socket.local.ip() == address;
    let ports = sockets.iter().filter(here).map(|socket| socket.local.port());
    ports.collect()
}

/// The port at which `client` arrived.
fn reached(sockets: &[Socket], client: SocketAddr) -> Option<u16> {
    let end = sockets.iter().find(|socket| socket.remote == client)?;
    Some(end.local.port())
}

/// Whether the other end of `client` is there, be it in another network namespace or on another machine.
fn is_open(sockets: &[Socket], client: SocketAddr) -> bool {
    let mut all = sockets.iter();
    all.any(|socket| socket.local == client && socket.state == IS_OPEN)
}

#[cfg(test)]
mod tests;
