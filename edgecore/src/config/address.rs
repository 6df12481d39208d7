//! Where cloudcore is reached: `host[:port]`.
//!
//! A host is a DNS name or an IP address; it only says where to dial. Whom one meets there is
//! decided by the pinned CA, never by this name.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use thiserror::Error;

/// The port of cloudcore: UDP for the link, TCP for enrolment and where UDP is blocked.
pub const DEFAULT_PORT: u16 = 10_000;

/// One address of cloudcore.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// A DNS name or an IP address, without brackets.
    pub host: String,
    /// The port, both TCP and UDP.
    pub port: u16,
}

/// Text that is no address of cloudcore.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "\"{text}\" is not an address ({why}): write it as host or host:port, for example cloud.example.org:10000"
)]
pub struct InvalidAddress {
    text: String,
    why: &'static str,
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        split(text).map_err(|why| InvalidAddress {
            text: text.to_owned(),
            why,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

fn split(text: &str) -> Result<Address, &'static str> {
    if text.contains("://") {
        return Err("leave out the scheme");
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok(Address {
            host: text.to_owned(),
            port: DEFAULT_PORT,
        });
    }
    if let Some(rest) = text.strip_prefix('[') {
        return bracketed(rest);
    }
    let (host, port) = text
        .rsplit_once(':')
        .map_or((text, None), |(host, port)| (host, Some(port)));
    if !is_host(host) {
        return Err("the host is not a DNS name or an IP address");
    }
    Ok(Address {
        host: host.to_owned(),
        port: port_or_default(port)?,
    })
}

fn bracketed(rest: &str) -> Result<Address, &'static str> {
    let (host, tail) = rest.split_once(']').ok_or("the bracket is not closed")?;
    host.parse::<Ipv6Addr>()
        .map_err(|_| "what stands in brackets is not an IPv6 address")?;
    let port = match tail.strip_prefix(':') {
        None if tail.is_empty() => None,
        None => return Err("after the bracket only :port may follow"),
        some => some,
    };
    Ok(Address {
        host: host.to_owned(),
        port: port_or_default(port)?,
    })
}

fn port_or_default(port: Option<&str>) -> Result<u16, &'static str> {
    let Some(port) = port else { return Ok(DEFAULT_PORT) };
    match port.parse() {
        Ok(0) | Err(_) => Err("the port is not a number from 1 to 65535"),
        Ok(port) => Ok(port),
    }
}

fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        text.parse::<Address>()
            .map_or_else(|e| e.why.to_owned(), |a| a.to_string())
    }

    #[test]
    fn an_address_without_a_port_gets_the_default_one() {
        assert_eq!(read("cloud.example.org"), "cloud.example.org:10000");
        assert_eq!(read("198.18.0.1"), "198.18.0.1:10000");
        assert_eq!(read("2001:db8::1"), "[2001:db8::1]:10000");
        assert_eq!(read("[2001:db8::1]"), "[2001:db8::1]:10000");
    }

    #[test]
    fn an_address_keeps_the_port_it_names() {
        assert_eq!(read("cloud:31000"), "cloud:31000");
        assert_eq!(read("[::1]:31000"), "[::1]:31000");
    }

    #[test]
    fn what_is_wrong_with_an_address_is_named() {
        assert_eq!(read("https://cloud:1"), "leave out the scheme");
        assert_eq!(read("cloud:0"), "the port is not a number from 1 to 65535");
        assert_eq!(read("cloud:port"), "the port is not a number from 1 to 65535");
        assert_eq!(read("a b"), "the host is not a DNS name or an IP address");
        assert_eq!(read(""), "the host is not a DNS name or an IP address");
        assert_eq!(read("[::1"), "the bracket is not closed");
    }
}
