//! The node's own calls to the API server, through the tunnel service `kube-api`.
//!
//! cloudcore rebuilds each request and sends it as the node; no credentials travel from here.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use protocol::name::ServiceName;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Link;
use crate::pods::volumes::tokens::NodeApi;

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// The largest answer: a token is 2 KB.
const MAX_ANSWER: usize = 256 << 10;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl NodeApi for Link {
    fn post<'a>(&'a self, path: &'a str, body: Vec<u8>) -> BoxFuture<'a, Result<(u16, Vec<u8>), String>> {
        Box::pin(async move {
            match timeout(PATIENCE, self.call(path, body)).await {
                Ok(answer) => answer.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
            }
        })
    }
}

impl Link {
    async fn call(&self, path: &str, body: Vec<u8>) -> Result<(u16, Vec<u8>), BoxError> {
        let stream = self.tunnel(ServiceName::KubeApi).await?;
        let io = TokioIo::new(tokio::io::join(stream.recv, stream.send));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(http::header::HOST, "kubernetes.default.svc")
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::ACCEPT, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await?;
        Ok((status, body.to_bytes().to_vec()))
    }
}
