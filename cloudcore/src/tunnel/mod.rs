//! Tunnels: byte streams from an edge to a service on the cluster's side.
//!
//! `kube-api` carries edgecore's own requests, parsed, judged and made again as the node;
//! `kube-api-tcp` carries what pods say to the API server, byte by byte, with no credential of ours.
//!
//! **Invariant:** an edge reaches the two services named here and nothing else, and no header of
//! its own is ever passed on as an identity.

mod allow;
mod kube_api;
mod splice;

use std::sync::Arc;

use protocol::{
    name::{NodeName, ServiceName, shown},
    transport::{ByteWriter, Stream},
    wire::{Dial, DialRefusal, DialReply, FrameWriter, WireError},
};
use thiserror::Error;
use tracing::{debug, warn};

use crate::cluster::Cluster;
use kube_api::KubeApi;

/// The most tunnels a node may have open.
pub const TUNNELS_MAX: usize = 256;

/// What tunnels lead to.
#[derive(Clone)]
pub struct Tunnels {
    kube_api: Arc<KubeApi>,
    api_server: String,
}

impl Tunnels {
    /// Tunnels to `api_server` (`host:port`), and to it as a node through `cluster`.
    pub fn new(cluster: Cluster, api_server: String) -> Self {
        Self {
            kube_api: Arc::new(KubeApi::new(cluster)),
            api_server,
        }
    }

    /// Serves one tunnel to its end, the answer to its dial included.
    pub async fn serve(self, node: NodeName, dial: Dial, stream: Stream) {
        let Stream { recv, send } = stream;
        let mut writer = FrameWriter::new(send);
        let served = match dial.service_name() {
            Ok(ServiceName::KubeApi) => self.kube_api.serve(node, recv, writer).await,
            Ok(ServiceName::KubeApiTcp) => splice::serve(&self.api_server, recv, writer).await,
            Ok(ServiceName::Kubelet | ServiceName::Http) | Err(_) => {
                let text = format!("cloudcore has no service {}", shown(&dial.service));
                writer
                    .write(&DialReply::refused(DialRefusal::UnknownService, text))
                    .await
                    .map_err(Into::into)
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

/// Answers a dial; raw bytes may follow.
async fn accept(mut writer: FrameWriter<ByteWriter>) -> Result<ByteWriter, TunnelFault> {
    writer.write(&DialReply::dialed()).await?;
    Ok(writer.into_inner())
}
