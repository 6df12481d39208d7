//! The listeners behind the API server's address.
//!
//! ```text
//! pod ── 10.96.0.1:443 ──► nat ──► 10.96.0.1:61443   the own door, always open
//! pod ── 10.96.0.1:443 ─────────────────────────►   the plain door, where the kernel is not to translate, or cannot
//! ```
//!
//! Whatever else listens on all addresses of the device at 443 (a web server, a pod on the host's network) excludes the
//! plain door, and is excluded by it. The own door's port is the same at each start if it can be, so that the
//! rules which outlive the agent lead there from its first moment on.
//!
//! A network manager that sets `lo` up anew, or a person, may take the address away: every minute it is looked for.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::super::addresses;
use super::super::nat::{Door, Translation};
use super::super::netlink::{self, AddressError};
use super::{ApiEndpoint, describe};

/// Behind the ports that Linux hands out to clients (32768 to 60999) and those of Services (30000 to 32767).
const OWN_PORT: u16 = 61_443;
/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;
/// How long to wait before the address or a port is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// How often to look where all is well.
const LOOK: Duration = Duration::from_mins(1);

/// Why pods do not reach the API server.
#[derive(Debug, Error)]
enum DoorError {
    #[error(transparent)]
    Address(#[from] AddressError),
    /// No port can be had on the address.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
}

/// The listeners that are open now.
#[derive(Debug)]
pub(super) struct Doors {
    endpoint: ApiEndpoint,
    own: Option<TcpListener>,
    plain: Option<TcpListener>,
    /// What was told last: the same trouble is told once.
    trouble: Option<String>,
    was_open: bool,
}

impl Doors {
    /// Nothing is open yet.
    pub(super) fn closed(endpoint: ApiEndpoint) -> Self {
        Self {
            endpoint,
            own: None,
            plain: None,
            trouble: None,
            was_open: false,
        }
    }

    /// Opens what is needed and closes what is not, and says when to look again.
    pub(super) fn keep(&mut self, translation: Translation) -> Duration {
        let trouble = self.open(translation).err().map(|error| describe(&error));
        let endpoint = self.endpoint;
        match &trouble {
            Some(error) if self.trouble != trouble => {
                tracing::warn!(%endpoint, error, "pods cannot reach the API server; trying again");
            }
            None if self.trouble.is_some() || !self.was_open => {
                tracing::info!(%endpoint, "pods reach the API server here");
            }
            Some(_) | None => {}
        }
        let look = if trouble.is_some() { RETRY } else { LOOK };
        self.was_open |= trouble.is_none();
        self.trouble = trouble;
        look
    }

    fn open(&mut self, translation: Translation) -> Result<(), DoorError> {
        let ApiEndpoint { address, port } = self.endpoint;
        self.claim(address)?;
        if self.own.is_none() && address.is_ipv4() {
            self.own = Some(listen(address, OWN_PORT).or_else(|_| listen(address, 0))?);
        }
        if !needs_plain(self.own.is_some(), translation) {
            self.plain = None;
        } else if self.plain.is_none() {
            self.plain = Some(listen(address, port)?);
        }
        Ok(())
    }

    /// Puts the address on the loopback device, again when somebody took it away. The listeners live through that.
    fn claim(&self, address: IpAddr) -> Result<(), AddressError> {
        if addresses::has(address).unwrap_or(false) {
            return Ok(());
        }
        if self.was_open {
            tracing::warn!(%address, "somebody took the API server's address from the loopback device; it is put back");
        }
        netlink::add(address)
    }

    /// Where connections are to be sent; none before anything is open.
    pub(super) fn door(&self) -> Option<Door> {
        let own = self.own.as_ref().and_then(|listener| listener.local_addr().ok());
        (own.is_some() || self.plain.is_some()).then_some(Door {
            endpoint: self.endpoint,
            own: own.map(|address| address.port()),
        })
    }

    /// The next connection.
    ///
    /// # Cancel safety
    ///
    /// No connection is lost.
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        tokio::select! {
            accepted = at(self.own.as_ref()) => accepted,
            accepted = at(self.plain.as_ref()) => accepted,
        }
    }
}

/// Whether the Service's own port is to be listened on.
const fn needs_plain(has_own: bool, translation: Translation) -> bool {
    match translation {
        Translation::Untold | Translation::Holds => !has_own,
        Translation::Fails => true,
    }
}

async fn at(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

fn listen(address: IpAddr, port: u16) -> Result<TcpListener, DoorError> {
    let at = SocketAddr::new(address, port);
    let open = || {
        let socket = if at.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        // What the agent before left behind (TIME_WAIT) does not keep the port.
        socket.set_reuseaddr(true)?;
        socket.bind(at)?;
        socket.listen(BACKLOG)
    };
    open().map_err(|error| DoorError::Listen(at, error))
}

#[cfg(test)]
pub(super) fn plain(listener: TcpListener) -> Doors {
    let address = listener.local_addr().unwrap();
    let endpoint = ApiEndpoint {
        address: address.ip(),
        port: address.port(),
    };
    Doors {
        plain: Some(listener),
        ..Doors::closed(endpoint)
    }
}

#[cfg(test)]
mod tests;
