//! The device mapper interface: mappers that were written for KubeEdge, over gRPC on unix sockets.
//!
//! What it is: the service at which mappers register and report, and one session for each mapper that tells
//! it of its devices. What it is not: a place where values are kept or judged; that is the twins' work, behind
//! [`Twins`].
//!
//! ```text
//! mapper ──dmi.sock──► socket ► wire (authority) ► service ──report, state──► Twins
//!                                                     │ register                │ devices, wishes
//!                                                     ▼                         ▼
//! mapper ◄──its socket── caller ◄──────────────── session ◄── plan ◄── message (pure)
//!                                                     │
//!                                  roster (one a protocol), rows (what outlives a restart)
//! ```
//!
//! **Invariant:** a mapper that hangs, lies or ends holds up no other mapper and no report.

mod accounts;
mod authority;
mod caller;
mod message;
mod peer;
mod plan;
mod presence;
mod roster;
mod rows;
mod service;
mod session;
mod socket;
mod store;
#[cfg(test)]
mod testing;
mod wire;

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub(crate) use accounts::has_group;
pub use rows::{Rows, RowsError};
pub use socket::SocketError;

use crate::devices::Twins;
use roster::Roster;
use service::Service;
use socket::Socket;

/// Where existing mappers look for it.
pub const DEFAULT_SOCKET: &str = "/etc/kubeedge/dmi.sock";
/// The group whose members may report.
pub const DEFAULT_GROUP: &str = "tombolo-mapper";

/// The pause before what ended begins again.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Mappers that may wait for the answer to their registration.
const REGISTERING: usize = 16;

/// Where mappers report, and who may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DmiConfig {
    /// The socket.
    pub socket: PathBuf,
    /// The group whose members may; where there is none, root alone may.
    pub group: String,
}

impl Default for DmiConfig {
    fn default() -> Self {
        Self {
            socket: PathBuf::from(DEFAULT_SOCKET),
            group: DEFAULT_GROUP.to_owned(),
        }
    }
}

/// Why mappers are served no longer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DmiError {
    /// The socket could not be opened.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Nobody knows who was registered.
    #[error("the mappers that registered before are not known")]
    Rows(#[from] RowsError),
    /// The server ended.
    #[error("the service for mappers has ended")]
    Server(#[from] tonic::transport::Error),
    /// A mapper's session panicked.
    #[error("the session of a mapper has ended")]
    Session(#[from] JoinError),
}

/// Serves mappers until `stop`. Whatever ends it before is told, and it begins again: pods and other
/// devices go on without mappers.
pub async fn keep(config: DmiConfig, twins: Arc<dyn Twins>, rows: Arc<dyn Rows>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let ended = run(
            config.clone(),
            Arc::clone(&twins),
            Arc::clone(&rows),
            stop.clone(),
        )
        .await;
        let Err(error) = ended else { return };
        warn!(
            error = &error as &dyn Error,
            "mappers are not served; this is tried again"
        );
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(AGAIN_AFTER) => {}
        }
    }
}

/// Serves mappers until `stop`, or until that is not possible.
pub async fn run(
    config: DmiConfig,
    twins: Arc<dyn Twins>,
    rows: Arc<dyn Rows>,
    stop: CancellationToken,
) -> Result<(), DmiError> {
    let roster = Roster::load(Arc::clone(&twins), rows).await?;
    let socket = Socket::bind(&config.socket, &config.group)?;
    let (registering, requests) = mpsc::channel(REGISTERING);
    let service = Service::server(twins, registering);
    let server = tonic::transport::Server::builder().serve_with_incoming_shutdown(
        service,
        socket.connections(),
        stop.cancelled(),
    );
    tokio::select! {
        ended = server => Ok(ended?),
        ended = roster.run(requests) => Ok(ended?),
    }
}
