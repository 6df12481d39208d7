//! Where a broker is.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

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
        let rest = rest.trim_end_matches('/');
        let (host, port) = match rest.rsplit_once(':') {
            // An address of IPv6 stands in brackets, and has colons of its own.
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
            Some(_) | None => (rest, if tls { 8883 } else { 1883 }),
        };
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let bracketed = bare.len() != host.len();
        let odd = |letter: char| letter.is_whitespace() || "/@?#[]".contains(letter);
        if bare.is_empty() || bare.contains(odd) || (bare.contains(':') && !bracketed) {
            return Err(wrong());
        }
        Ok(Self {
            host: bare.to_owned(),
            port,
            tls,
        })
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            return write!(out, "{scheme}://[{}]:{}", self.host, self.port);
        }
        write!(out, "{scheme}://{}:{}", self.host, self.port)
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
        ] {
            assert_eq!(
                text.parse::<Broker>().map(|broker| broker.to_string()),
                Ok(shown.to_owned())
            );
        }
        for text in ["", "ftp://x", "broker:port", "user@broker", "a b", "fd00::1"] {
            assert!(text.parse::<Broker>().is_err(), "{text}");
        }
    }
}
