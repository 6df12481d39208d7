//! What the hub asks of others, so that it can be driven without a cluster.

use protocol::{
    name::NodeName,
    tls::PeerIdentity,
    transport::{BoxFuture, Stream},
    wire::Dial,
};
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, Fence, LeaseError};

/// One session, as its services know it.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// Who is at the other end.
    pub peer: PeerIdentity,
    /// The session's name, as the Lease carries it.
    pub session: String,
    /// One start of edgecore.
    pub boot_id: Vec<u8>,
    /// The protocol version that both speak.
    pub version: u32,
    /// Fires when the session has lost its generation: nothing more may be written for the node.
    pub lost: CancellationToken,
}

/// What a session's streams carry. Each future is dropped when its session ends; a future that
/// ends closes its stream, and the edge opens another.
pub trait Services: Send + Sync + 'static {
    /// Serves the desired flow.
    fn desired(&self, session: SessionInfo, stream: Stream) -> BoxFuture<'static, ()>;

    /// Serves the reported flow.
    fn reported(&self, session: SessionInfo, stream: Stream) -> BoxFuture<'static, ()>;

    /// Serves the flow of events.
    fn events(&self, session: SessionInfo, stream: Stream) -> BoxFuture<'static, ()>;

    /// Serves a tunnel, its answer to the dial included.
    fn tunnel(&self, session: SessionInfo, dial: Dial, stream: Stream) -> BoxFuture<'static, ()>;
}

/// The nodes' Leases.
pub trait Leases: Send + Sync + 'static {
    /// Takes a node's Lease for a session, whoever held it.
    fn take<'a>(
        &'a self,
        node: &'a NodeName,
        session: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Lease>, LeaseError>>;

    /// Whether the API server answers here, and lets nodes be acted for.
    fn reachable(&self) -> bool;
}

/// A Lease that was taken.
pub trait Lease: Send + 'static {
    /// Renews it; `Superseded` when another session has it.
    fn renew(&mut self) -> BoxFuture<'_, Result<(), LeaseError>>;
}

/// The Leases of a real cluster.
pub struct ClusterLeases(pub Cluster);

impl Leases for ClusterLeases {
    fn take<'a>(
        &'a self,
        node: &'a NodeName,
        session: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Lease>, LeaseError>> {
        Box::pin(async move {
            let fence = self.0.fence(node, session).await?;
            Ok(Box::new(ClusterLease {
                cluster: self.0.clone(),
                fence,
            }) as Box<dyn Lease>)
        })
    }

    fn reachable(&self) -> bool {
        self.0.health().obstacle().is_none()
    }
}

struct ClusterLease {
    cluster: Cluster,
    fence: Fence,
}

impl Lease for ClusterLease {
    fn renew(&mut self) -> BoxFuture<'_, Result<(), LeaseError>> {
        Box::pin(self.cluster.renew(&mut self.fence))
    }
}
