//! Tunnels: byte streams from an edge to a service on the cluster's side.
//!
//! `kube-api` carries edgecore's own requests, parsed, judged and made again as the node;
//! `kube-api-tcp` carries what pods say to the API server, byte by byte, with no credential of ours.
//!
//! **Invariant:** an edge reaches the two services named here and nothing else, and no header of
//! its own is ever passed on as an identity.

mod allow;
mod gone;
mod kube_api;
mod splice;

use std::{sync::Arc, time::Duration};

use protocol::{
    name::{NodeName, ServiceName, shown},
    transport::{ByteWriter, Stream},
    wire::{Dial, DialRefusal, DialReply, FrameWriter, WireError},
};
use thiserror::Error;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::{
    cluster::Cluster,
    gcra::{Rate, Rates},
};
use kube_api::KubeApi;

/// The most tunnels a node may have open.
pub const TUNNELS_MAX: usize = 256;

/// How often a node's pods may be connected to the API server. A connection that ends keeps one of the replica's
/// 28,000 ports for a minute, and those are for all nodes: five a second keep 300. Pods open theirs when they start,
/// no more at once than an edge carries, and keep them.
const PODS_DIALS: Rate = Rate {
    every: Duration::from_millis(200),
    burst: 256,
};

/// What tunnels lead to.
#[derive(Clone)]
pub struct Tunnels {
    kube_api: Arc<KubeApi>,
    pods_dials: Arc<Rates<NodeName>>,
    warned: Arc<Rates<NodeName>>,
    api_server: String,
}

impl Tunnels {
    /// Tunnels to `api_server` (`host:port`), and to it as a node through `cluster`.
    pub fn new(cluster: Cluster, api_server: String) -> Self {
        Self {
            kube_api: Arc::new(KubeApi::new(cluster)),
            pods_dials: Arc::new(Rates::new(PODS_DIALS)),
            warned: Arc::new(Rates::new(kube_api::WARNINGS)),
            api_server,
        }
    }

    /// Serves one tunnel to its end, the answer to its dial included.
    pub async fn serve(self, node: NodeName, dial: Dial, stream: Stream) {
        let Stream { recv, send } = stream;
        let mut writer = FrameWriter::new(send);
        let served = match dial.service_name() {
            Ok(ServiceName::KubeApi) => self.kube_api.serve(node, recv, writer).await,
            Ok(ServiceName::KubeApiTcp) => match self.may_dial(&node, Instant::now()) {
                Ok(()) => splice::serve(&self.api_server, recv, writer).await,
                Err(too_often) => refuse(&mut writer, DialRefusal::Busy, too_often).await,
            },
            Ok(ServiceName::Kubelet | ServiceName::Http) | Err(_) => {
                let text = format!("cloudcore has no service {}", shown(&dial.service));
                refuse(&mut writer, DialRefusal::UnknownService, text).await
            }
        };
        match served {
            Ok(()) | Err(TunnelFault::Wire(WireError::Io(_))) => {}
            Err(TunnelFault::Unreachable { address, source }) => {
                warn!(address, %source, "a pod's tunnel could not be opened");
            }
            Err(fault) => debug!(error = &fault as &dyn std::error::Error, "a tunnel broke"),
        }
    }

    /// Whether a node's pods may be connected once more; if not, what its edge is told.
    fn may_dial(&self, node: &NodeName, now: Instant) -> Result<(), String> {
        self.pods_dials.take(node, now).map_err(|opens| {
            if self.warned.take(node, now).is_ok() {
                warn!(%node, "pods connect to the API server too often; refusals of the next minute are not told of");
            }
            let wait = opens.saturating_duration_since(now).as_millis();
            format!("the pods of node {node} connect to the API server too often: again in {wait} ms")
        })
    }
}

/// Why a tunnel ended before its time.
#[derive(Debug, Error)]
enum TunnelFault {
    #[error("the edge's end failed")]
    Wire(#[from] WireError),
    #[error("{address} could not be reached")]
    Unreachable { address: String, source: std::io::Error },
    #[error("the bytes stopped")]
    Io(#[from] std::io::Error),
    #[error("the edge does not speak HTTP")]
    Http(#[from] hyper::Error),
}

async fn refuse(
    writer: &mut FrameWriter<ByteWriter>,
    code: DialRefusal,
    text: String,
) -> Result<(), TunnelFault> {
    Ok(writer.write(&DialReply::refused(code, text)).await?)
}

/// Answers a dial; raw bytes may follow.
async fn accept(mut writer: FrameWriter<ByteWriter>) -> Result<ByteWriter, TunnelFault> {
    writer.write(&DialReply::dialed()).await?;
    Ok(writer.into_inner())
}

#[cfg(test)]
mod tests;
