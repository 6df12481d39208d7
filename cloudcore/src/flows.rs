//! What a session's streams carry, each handed to its flow.

use protocol::transport::{BoxFuture, Stream};
use protocol::wire::Dial;

use crate::cluster::{Cluster, Holder};
use crate::desired;
use crate::devices::Devices;
use crate::hub::{Services, SessionInfo};
use crate::reported::{self, Paces};
use crate::tunnel::Tunnels;

/// The flows of every session.
pub struct Flows {
    cluster: Cluster,
    devices: Devices,
    tunnels: Tunnels,
    paces: Paces,
}

impl Flows {
    /// Flows between edges and the cluster.
    pub fn new(cluster: Cluster, devices: Devices, tunnels: Tunnels) -> Self {
        Self {
            cluster,
            devices,
            tunnels,
            paces: Paces::default(),
        }
    }
}

impl Services for Flows {
    fn desired(&self, session: SessionInfo, stream: Stream) -> BoxFuture<'static, ()> {
        let by = Holder {
            node: session.peer.node,
            session: session.session,
        };
        Box::pin(desired::run(self.cluster.clone(), by, stream))
    }

    fn reported(&self, session: SessionInfo, stream: Stream) -> BoxFuture<'static, ()> {
        let (cluster, devices) = (self.cluster.clone(), self.devices.clone());
        let carried = (stream, self.paces.of(&session.peer.node));
        let by = Holder {
            node: session.peer.node,
            session: session.session,
        };
        Box::pin(async move { reported::run(cluster, &devices, by, carried).await })
    }

    fn events(&self, session: SessionInfo, stream: Stream) -> BoxFuture<'static, ()> {
        let pace = self.paces.of(&session.peer.node);
        Box::pin(reported::events(
            self.cluster.clone(),
            session.peer.node,
            stream,
            pace,
        ))
    }

    fn tunnel(&self, session: SessionInfo, dial: Dial, stream: Stream) -> BoxFuture<'static, ()> {
        Box::pin(self.tunnels.clone().serve(session.peer.node, dial, stream))
    }
}
