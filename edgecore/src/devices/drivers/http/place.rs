//! Where a device's server is, and what is asked of it. Pure.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::PathAndQuery;
use thiserror::Error;

/// Words in a query that stand for secrets.
const SECRETS: [&str; 4] = ["password", "passwd", "token", "secret"];
/// The longest path with its query.
const LONGEST: usize = 2048;

/// A server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Whether the connection is encrypted.
    pub(crate) tls: bool,
    /// The host; an IPv6 address without brackets.
    pub(crate) host: String,
    /// The port.
    pub(crate) port: u16,
}

/// Why a text is no server.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{0}\"; write http://host or https://host:8443, without a path, a user or a password")]
pub(crate) struct NotAPlace(String);

impl FromStr for Place {
    type Err = NotAPlace;

    fn from_str(text: &str) -> Result<Self, NotAPlace> {
        // A password must not be shown again.
        let shown = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
        let wrong = || NotAPlace(shown.to_owned());
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) | None => return Err(wrong()),
        };
        let bare = uri.path_and_query().is_none_or(|path| path.as_str() == "/");
        let authority = uri
            .authority()
            .filter(|authority| bare && !authority.as_str().contains('@'));
        let authority = authority.ok_or_else(wrong)?;
        let host = authority.host().trim_matches(['[', ']']);
        // A colon with no number after it parses as an authority.
        let odd_port = authority.port_u16().is_none() && authority.as_str() != authority.host();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        if host.is_empty() || odd_port || port == 0 {
            return Err(wrong());
        }
        Ok(Self {
            tls,
            host: host.to_ascii_lowercase(),
            port,
        })
    }
}

impl Place {
    /// As the `Host` header has it: without the scheme's own port.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        if self.port == if self.tls { 443 } else { 80 } {
            return host;
        }
        format!("{host}:{}", self.port)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(out, "{scheme}://{}", self.authority())
    }
}

/// What is asked of a server: a path, perhaps with a query.
pub(crate) fn target(text: &str) -> Result<PathAndQuery, String> {
    if text.len() > LONGEST {
        return Err(format!("is longer than {LONGEST} bytes"));
    }
    if !text.starts_with('/') || text.contains('#') {
        return Err(format!(
            "is \"{text}\"; a path such as /status is meant, the host stands in protocol.configData.url"
        ));
    }
    refuse_secrets(text)?;
    text.parse().map_err(|_| {
        format!("is \"{text}\", which is no path; write % for what may not stand there (a blank is %20)")
    })
}

/// Secrets do not belong into a Device, in a query neither.
pub(crate) fn refuse_secrets(text: &str) -> Result<(), String> {
    let query = text.split_once('?').map_or("", |(_, query)| query);
    let secret = |pair: &str| {
        let key = pair.split('=').next().unwrap_or_default().to_ascii_lowercase();
        SECRETS.contains(&key.as_str())
    };
    if query.split('&').any(secret) {
        return Err("has a secret in its query: put it into a file in \
                    /etc/tombolo/device-credentials and name that with credentials"
            .to_owned());
    }
    Ok(())
}

/// A text as it may stand in a path or a query, whatever is in it.
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&hex::encode_upper([byte]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_people_write_them() {
        for (text, shown) in [
            ("http://10.0.0.8", "http://10.0.0.8"),
            ("http://Shelly.local:80/", "http://shelly.local"),
            ("https://gateway:8443", "https://gateway:8443"),
            ("http://[fd00::8]:81", "http://[fd00::8]:81"),
        ] {
            let place: Place = text.parse().unwrap();
            assert_eq!(place.to_string(), shown, "{text}");
        }
        for text in [
            "",
            "10.0.0.8",
            "ftp://x",
            "http://",
            "http://x/rpc",
            "http://x?a=b",
            "http://x:port",
            "http://x:0",
            "http://x:",
            "http://admin:hidden@x",
        ] {
            let error = text.parse::<Place>().unwrap_err().to_string();
            assert!(!error.contains("hidden"), "{error}");
        }
    }

    #[test]
    fn a_path_is_a_path_and_holds_no_secret() {
        for text in ["/rpc/Switch.GetStatus?id=0", "/cm?cmnd=Status%208", "/"] {
            assert_eq!(target(text).unwrap().as_str(), text);
        }
        for (text, part) in [
            ("rpc", "a path such as"),
            ("http://x/rpc", "a path such as"),
            ("/a b", "no path"),
            ("/a#b", "a path such as"),
            ("/cm?user=admin&password=x", "a secret"),
            ("/cm?Token=x", "a secret"),
        ] {
            let why = target(text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }

    #[test]
    fn a_value_cannot_leave_its_place_in_a_path() {
        assert_eq!(encoded("on&x=../ä\r\n"), "on%26x%3D..%2F%C3%A4%0D%0A");
    }
}
