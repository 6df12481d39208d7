//! What a session's streams carry, each handed to its flow.

use protocol::transport::{BoxFuture, Stream};
use protocol::wire::Dial;
use tracing::{debug, info};

use crate::cluster::Cluster;
use crate::desired::{self, NodeSource};
use crate::hub::{Services, SessionInfo};
use crate::reported;
use crate::tunnel::Tunnels;

/// The flows of every session.
pub struct Flows {
    cluster: Cluster,
    tunnels: Tunnels,
}

impl Flows {
    /// Flows between edges and the cluster.
    pub const fn new(cluster: Cluster, tunnels: Tunnels) -> Self {
        Self { cluster, tunnels }
    }
}

impl Services for Flows {
    fn desired(&self, session: SessionInfo, stream: Stream) -> BoxFuture<'static, ()> {
        let cluster = self.cluster.clone();
        Box::pin(async move {
            let node = &session.peer.node;
            match desired::serve(stream, &NodeSource::new(cluster, node)).await {
                Ok(()) => debug!(%node, "the desired stream ended"),
                Err(error) => {
                    info!(%node, error = &error as &dyn std::error::Error, "the desired stream was reset");
                }
            }
        })
    }

    fn reported(&self, session: SessionInfo, stream: Stream) -> BoxFuture<'static, ()> {
        Box::pin(reported::run(self.cluster.clone(), session.peer.node, stream))
    }

    fn tunnel(&self, session: SessionInfo, dial: Dial, stream: Stream) -> BoxFuture<'static, ()> {
        Box::pin(self.tunnels.clone().serve(session.peer.node, dial, stream))
    }
}
