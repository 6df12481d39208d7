//! How the API server lets cloudcore act for nodes, looked at again whenever it refuses.
//!
//! What it is: trying the two ways, at the start and while nodes' Leases are refused. What it is not: a judgement of
//! one node; it is asked for a node that does not exist.
//!
//! **Invariant:** the way in use is left for the other only when it is refused and the other is taken.

use std::time::Duration;

use protocol::name::NodeName;
use tokio::time::sleep;
use tracing::{error, warn};

use super::api::{Actor, Api, ApiError, Call, Impersonation};
use super::lease::path as lease_path;
use super::nodes::path as node_path;
use super::{Cluster, ConnectError};

/// A node that does not exist: what the way of impersonation is tried with.
const PROBE: &str = "tombolo-impersonation-probe";
/// After how long without a lease write a replica asks for a sign of life: a replica with sessions
/// renews more often, and asks nothing.
const PROBE_AFTER: Duration = Duration::from_secs(12);
/// How often it looks whether it should ask, and asks again while nothing answers.
const PROBE_EVERY: Duration = Duration::from_secs(3);

impl Impersonation {
    const fn other(self) -> Self {
        match self {
            Self::Constrained => Self::Classic,
            Self::Classic => Self::Constrained,
        }
    }
}

/// Sees to it that the API server lets cloudcore act for nodes, by the other way where it refuses the one in use.
/// Fails with the refusal where it takes neither.
pub(super) async fn find_way(api: &Api) -> Result<Impersonation, ApiError> {
    let way = api.impersonation();
    match attempt(api, way).await {
        Err(refusal) if refusal.is_forbidden() => {}
        done => return done.map(|()| way),
    }
    let other = way.other();
    attempt(api, other).await?;
    api.go(other);
    Ok(other)
}

/// As a node one may read its own Node and its own Lease; there are none, so 404 means that it worked. The rights to
/// both stand in different roles.
async fn attempt(api: &Api, way: Impersonation) -> Result<(), ApiError> {
    let Ok(node) = PROBE.parse::<NodeName>() else {
        return Ok(());
    };
    let api = api.by(way);
    for path in [node_path(&node), lease_path(&node)] {
        match api.call(Actor::Node(&node), Call::get(path)).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

impl Cluster {
    /// Asks for a sign of life where no lease write gives one, and for the right to act for nodes, for ever.
    pub(crate) async fn probe(&self) {
        loop {
            if self.health().quiet_for().is_none_or(|quiet| quiet >= PROBE_AFTER) {
                self.look().await;
            }
            sleep(PROBE_EVERY).await;
        }
    }

    async fn look(&self) {
        if let Err(error) = self.probe_leases().await {
            if self.health().silent() {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "the API server does not answer"
                );
            }
            return;
        }
        let before = self.api().impersonation();
        match find_way(self.api()).await {
            Ok(way) => {
                self.health().answered();
                if way != before {
                    warn!(?before, now = ?way, "cloudcore's right to act for nodes has changed, and so does its way");
                }
            }
            Err(refusal) if refusal.is_forbidden() => {
                if self.health().refused() {
                    let error = ConnectError::Impersonation(refusal);
                    error!(
                        error = &error as &dyn std::error::Error,
                        "nothing can be done for nodes"
                    );
                }
            }
            Err(_) => drop(self.health().silent()),
        }
    }
}

#[cfg(test)]
mod tests;
