//! The HTTP proxy through which cloudcore is reached: `http://user:password@host:port`.
//!
//! **Invariant:** the password is in no message: not in what is shown, not in what is wrong.

use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

use super::fields::{self, Fields};
use super::{Address, InvalidAddress};

/// What most proxies listen on, and what a URL of this scheme means without a port.
const DEFAULT_PORT: u16 = 80;
/// No password is longer.
const MAX_PASSWORD: usize = 4096;

/// A proxy that leads TCP on (`CONNECT`).
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Where it is.
    pub address: Address,
    user: Option<String>,
    password: Option<String>,
    /// Where the password stands, when it shall not stand in the configuration.
    pub password_file: Option<PathBuf>,
}

/// Text that is no proxy. It does not repeat the text, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("this is not a proxy ({0}): write it as http://host:port or http://user:password@host:port")]
pub struct InvalidProxy(String);

/// The proxy's password could not be read.
#[derive(Debug, Error)]
#[error("the proxy's password cannot be read from {}", .path.display())]
pub struct ProxyPasswordError {
    path: PathBuf,
    source: std::io::Error,
}

/// Reads `proxy`, and where its password stands.
pub(super) fn read(fields: &mut Fields<'_>) -> Option<Proxy> {
    let is_named = fields.has("proxy");
    let proxy = fields.optional("proxy", fields::proxy);
    let Some(file) = fields.optional("proxy_password_file", fields::absolute_path) else {
        return proxy;
    };
    let why = match &proxy {
        None if is_named => return None,
        None => "there is no proxy: add proxy: http://user@host:port",
        Some(proxy) if proxy.user.is_none() => {
            "the proxy is asked as nobody: write proxy: http://user@host:port"
        }
        Some(_) => return proxy.map(|proxy| proxy.with_password_in(PathBuf::from(file))),
    };
    fields.blame(
        "proxy_password_file",
        &format!("{why}, or remove proxy_password_file"),
    );
    None
}

impl FromStr for Proxy {
    type Err = InvalidProxy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |why: &str| InvalidProxy(why.to_owned());
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some(_) => return Err(wrong("only http:// is spoken to a proxy")),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // A password may hold an @ that nobody has escaped.
        let (credentials, place) = match rest.rsplit_once('@') {
            Some((credentials, place)) => (Some(credentials), place),
            None => (None, rest),
        };
        let (user, password) = match credentials.map(|both| both.split_once(':').unwrap_or((both, ""))) {
            Some((user, password)) => (Some(unescaped(user)?), Some(unescaped(password)?)),
            None => (None, None),
        };
        let mut address: Address = place.parse().map_err(|_: InvalidAddress| {
            wrong("after http:// and the password, if any, host:port must follow")
        })?;
        let names_port = |(_, port): (&str, &str)| port.parse::<u16>().is_ok();
        if !place.rsplit_once(':').is_some_and(names_port) {
            address.port = DEFAULT_PORT;
        }
        Ok(Self {
            address,
            user,
            password: password.filter(|password| !password.is_empty()),
            password_file: None,
        })
    }
}

/// Undoes `%40`.
fn unescaped(text: &str) -> Result<String, InvalidProxy> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        let byte = after
            .get(..2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or_else(|| InvalidProxy("a % in the password is written %25".to_owned()))?);
        rest = &after[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    let text = String::from_utf8(bytes).map_err(|_| InvalidProxy("the password is not UTF-8".to_owned()))?;
    if text.contains(['\r', '\n']) {
        return Err(InvalidProxy("the password holds a line break".to_owned()));
    }
    Ok(text)
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

impl Proxy {
    fn with_password_in(self, file: PathBuf) -> Self {
        Self {
            password_file: Some(file),
            ..self
        }
    }

    /// The user and the password, if the proxy wants any; the file is read anew each time.
    pub async fn credentials(&self) -> Result<Option<(String, String)>, ProxyPasswordError> {
        let Some(user) = self.user.clone() else {
            return Ok(None);
        };
        let password = match &self.password_file {
            Some(path) => read_password(path).await?,
            None => self.password.clone().unwrap_or_default(),
        };
        Ok(Some((user, password)))
    }

    /// The text that [`from_str`](Self::from_str) reads back, with the password in it.
    pub(super) fn expose(&self) -> String {
        let credentials = match (&self.user, &self.password) {
            (Some(user), Some(password)) => format!("{}:{}@", escaped(user), escaped(password)),
            (Some(user), None) => format!("{}@", escaped(user)),
            (None, _) => String::new(),
        };
        format!("http://{credentials}{}", self.address)
    }
}

async fn read_password(path: &PathBuf) -> Result<String, ProxyPasswordError> {
    let failed = |source| ProxyPasswordError {
        path: path.clone(),
        source,
    };
    let text = tokio::fs::read_to_string(path).await.map_err(failed)?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.len() > MAX_PASSWORD || password.contains(['\r', '\n']) {
        return Err(failed(std::io::Error::other("it holds more than one line")));
    }
    Ok(password.to_owned())
}

/// Without the password.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|user| format!("{}:***@", escaped(user)));
        write!(f, "http://{}{}", user.unwrap_or_default(), self.address)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Proxy {
        text.parse().unwrap()
    }

    #[test]
    fn a_proxy_is_read_and_written_and_its_password_is_never_shown() {
        let proxy = read("http://us%20er:p@ss%25w%2Frd@proxy.example.org:3128/");
        assert_eq!(proxy.address.to_string(), "proxy.example.org:3128");
        assert_eq!(
            (proxy.user.as_deref(), proxy.password.as_deref()),
            (Some("us er"), Some("p@ss%w/rd"))
        );
        assert_eq!(read(&proxy.expose()), proxy);
        assert_eq!(proxy.to_string(), "http://us%20er:***@proxy.example.org:3128");
        assert!(!format!("{proxy:?}").contains("ss"));
    }

    #[test]
    fn a_proxy_needs_no_user_and_no_port() {
        assert_eq!(read("http://proxy").address.port, 80);
        assert_eq!(read("proxy:8080").expose(), "http://proxy:8080");
        assert_eq!(read("http://[::1]").address.to_string(), "[::1]:80");
        assert_eq!(read("http://user@[::1]:3128").expose(), "http://user@[::1]:3128");
    }

    #[test]
    fn what_is_wrong_with_a_proxy_is_said_without_its_password() {
        for text in [
            "https://u:geheim@proxy:1",
            "http://u:geheim@",
            "http://u:geheim%zz@proxy:1",
            "http://u:geheim%0A@proxy:1",
        ] {
            let error = text.parse::<Proxy>().unwrap_err().to_string();
            assert!(!error.contains("geheim"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_password_may_stand_in_a_file() {
        let path = std::env::temp_dir().join(format!("tombolo-proxy-{}", std::process::id()));
        std::fs::write(&path, "from file\n").unwrap();
        let mut proxy = read("http://user@proxy:1");
        proxy.password_file = Some(path.clone());
        let read = proxy.credentials().await.unwrap();
        assert_eq!(read, Some(("user".to_owned(), "from file".to_owned())));
        std::fs::remove_file(&path).unwrap();
        assert!(proxy.credentials().await.is_err());
    }
}
