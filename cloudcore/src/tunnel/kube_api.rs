//! `kube-api`: edgecore's own requests, over HTTP/1.1 in a tunnel.
//!
//! Each request is read whole, judged by `allow`, and made again as the node. Of its headers none
//! is passed on: not `Authorization`, not `Impersonate-*`, not `X-Remote-*`, not one.
//!
//! A node's key may be stolen, and each token costs the API server a signature and a record of it. So the requests
//! of a node have a rate over all its tunnels and sessions at a replica, and so has what the log says of them.
//!
//! **Invariant:** within any span of time a node has at most a burst of requests, and one more in each of
//! [`REQUESTS`]' spans.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use protocol::{
    name::NodeName,
    transport::{ByteReader, ByteWriter},
    wire::FrameWriter,
};
use serde_json::json;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::{
    TunnelFault, accept,
    allow::{self, Denied},
};
use crate::{
    cluster::{Call, Cluster, WriteError},
    gcra::{Rate, Rates},
};

/// A `TokenRequest` is a few hundred bytes.
const BODY_MAX: usize = 64 << 10;
const BODY_LIMIT: Duration = Duration::from_secs(30);
const HEADER_BYTES: usize = 16 << 10;

/// How often a node may ask. An honest one asks for some tokens of each pod when it starts, keeps them, and asks
/// again after most of an hour: 110 pods with five each are 550 at a boot.
const REQUESTS: Rate = Rate {
    every: Duration::from_millis(200),
    burst: 600,
};
/// How often the log says that a node asks for what it should not.
pub(super) const WARNINGS: Rate = Rate {
    every: Duration::from_mins(1),
    burst: 1,
};

/// The service, for all nodes.
pub(super) struct KubeApi {
    cluster: Cluster,
    asked: Rates<NodeName>,
    warned: Rates<NodeName>,
}

impl KubeApi {
    pub(super) fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            asked: Rates::new(REQUESTS),
            warned: Rates::new(WARNINGS),
        }
    }

    /// Serves a tunnel of a node.
    pub(super) async fn serve(
        self: Arc<Self>,
        node: NodeName,
        recv: ByteReader,
        writer: FrameWriter<ByteWriter>,
    ) -> Result<(), TunnelFault> {
        let stream = tokio::io::join(recv, accept(writer).await?);
        let service = service_fn(move |request| {
            let (api, node) = (Arc::clone(&self), node.clone());
            async move { Ok::<_, Infallible>(api.answer(&node, request).await) }
        });
        let connection = http1::Builder::new()
            .max_buf_size(HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        Ok(connection.await?)
    }

    async fn answer(&self, node: &NodeName, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let now = Instant::now();
        if let Err(opens) = self.asked.take(node, now) {
            self.warn(node, &"too many requests");
            return too_many(opens - now);
        }
        let (head, body) = request.into_parts();
        // What is announced is believed: a body that is too large is not waited for.
        if hyper::body::Body::size_hint(&body).lower() > BODY_MAX as u64 {
            return too_large();
        }
        let body = match timeout(BODY_LIMIT, Limited::new(body, BODY_MAX).collect()).await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => return too_large(),
            Err(_) => {
                return failure(
                    StatusCode::REQUEST_TIMEOUT,
                    "Timeout",
                    "the body did not arrive in time",
                );
            }
        };
        let judged = allow::judge(&head.method, head.uri.path(), head.uri.query(), &body.to_bytes());
        let allowed = match judged {
            Ok(allowed) => allowed,
            Err(denied) => {
                self.warn(node, &denied);
                return deny(&denied);
            }
        };
        let call = Call::post(allowed.path, allowed.body);
        match self.cluster.request_as_node(node, call).await {
            Ok(answer) => respond(StatusCode::CREATED, answer),
            Err(error) => {
                debug!(%node, error = &error as &dyn std::error::Error, "a node's request failed");
                refused(&error)
            }
        }
    }

    /// Tells the log why a node's request was refused, if nothing like it was told a moment ago.
    fn warn(&self, node: &NodeName, why: &dyn std::fmt::Display) {
        if self.warned.take(node, Instant::now()).is_ok() {
            warn!(%node, %why, "a node's request was refused; others of the next minute are not told of");
        }
    }
}

fn too_many(wait: Duration) -> Response<Full<Bytes>> {
    let text = "this node asks too often";
    let mut response = failure(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", text);
    let seconds = header::HeaderValue::from(wait.as_secs() + 1);
    response.headers_mut().insert(header::RETRY_AFTER, seconds);
    response
}

fn too_large() -> Response<Full<Bytes>> {
    failure(
        StatusCode::PAYLOAD_TOO_LARGE,
        "RequestEntityTooLarge",
        "the body is too large",
    )
}

fn deny(denied: &Denied) -> Response<Full<Bytes>> {
    match denied {
        Denied::NotListed => failure(StatusCode::FORBIDDEN, "Forbidden", &denied.to_string()),
        Denied::BadBody => failure(StatusCode::BAD_REQUEST, "BadRequest", &denied.to_string()),
    }
}

/// The API server's own answer, where it gave one.
fn refused(error: &WriteError) -> Response<Full<Bytes>> {
    let code = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::BAD_GATEWAY);
    failure(
        code,
        code.canonical_reason().unwrap_or_default(),
        &error.to_string(),
    )
}

/// A `Status` object, as clients of Kubernetes expect it.
fn failure(code: StatusCode, reason: &str, message: &str) -> Response<Full<Bytes>> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16(),
    });
    respond(code, status.to_string().into())
}

fn respond(code: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = code;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}

#[cfg(test)]
mod tests;
