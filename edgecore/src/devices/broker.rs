//! Where a broker is.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use thiserror::Error;

/// The port of brokers without encryption.
pub(crate) const PORT: u16 = 1883;
/// The port of brokers with it.
const TLS_PORT: u16 = 8883;

/// A broker's address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Broker {
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// Why a text is no broker's address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{0}\"; write mqtt://host:1883 or mqtts://host:8883")]
pub struct NotABroker(String);

impl FromStr for Broker {
    type Err = NotABroker;

    fn from_str(text: &str) -> Result<Self, NotABroker> {
        let wrong = || NotABroker(text.to_owned());
        let (tls, rest) = match text.split_once("://") {
            None => (false, text),
            Some(("mqtt" | "tcp", rest)) => (false, rest),
            Some(("mqtts" | "ssl" | "tls", rest)) => (true, rest),
            Some(_) => return Err(wrong()),
        };
        let (host, port) = place(rest.trim_end_matches('/')).ok_or_else(wrong)?;
        let port = port.unwrap_or(if tls { TLS_PORT } else { PORT });
        Ok(Self {
            host: host.to_owned(),
            port,
            tls,
        })
    }
}

/// Host and port; the brackets of an IPv6 address are left out.
fn place(text: &str) -> Option<(&str, Option<u16>)> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Some((text, None));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            match port {
                "" => (host, None),
                port => (host, Some(port.strip_prefix(':')?)),
            }
        }
        None => match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_name = |host: &str| {
        host.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let port = match port {
        None => None,
        Some(port) => Some(port.parse().ok().filter(|port| *port != 0)?),
    };
    (text.starts_with('[') || (!host.is_empty() && is_name(host))).then_some((host, port))
}

impl Broker {
    /// The host as addresses have it: an IPv6 address in brackets.
    pub fn bracketed(&self) -> Cow<'_, str> {
        if self.host.contains(':') {
            return format!("[{}]", self.host).into();
        }
        self.host.as_str().into()
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        write!(out, "{scheme}://{}:{}", self.bracketed(), self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, shown) in [
            ("broker", "mqtt://broker:1883"),
            ("10.0.0.1:1884", "mqtt://10.0.0.1:1884"),
            ("tcp://broker:1", "mqtt://broker:1"),
            ("mqtts://broker", "mqtts://broker:8883"),
            ("ssl://[fd00::1]:8884", "mqtts://[fd00::1]:8884"),
            ("[fd00::1]", "mqtt://[fd00::1]:1883"),
            ("::1", "mqtt://[::1]:1883"),
            ("tls://::1", "mqtts://[::1]:8883"),
            ("mqtt://broker:1883/", "mqtt://broker:1883"),
        ] {
            assert_eq!(
                text.parse::<Broker>().map(|broker| broker.to_string()),
                Ok(shown.to_owned())
            );
        }
        for text in [
            "",
            "ftp://x",
            "broker:port",
            "broker:0",
            "broker:",
            "user@broker",
            "a b",
            "[::1",
            "[::1]x",
            "[broker]:1883",
            "mqtt://",
            "broker/topic",
        ] {
            assert!(text.parse::<Broker>().is_err(), "{text}");
        }
    }
}
