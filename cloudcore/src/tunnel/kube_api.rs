//! `kube-api`: edgecore's own requests, over HTTP/1.1 in a tunnel.
//!
//! Each request is read whole, judged by `allow`, and made again as the node. Of its headers none
//! is passed on: not `Authorization`, not `Impersonate-*`, not `X-Remote-*`, not one.

use std::convert::Infallible;

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
use tracing::{debug, warn};

use super::{
    TunnelFault, accept,
    allow::{self, Denied},
};
use crate::cluster::{Call, Cluster, WriteError};

/// A `TokenRequest` is a few hundred bytes.
const BODY_MAX: usize = 64 << 10;
const HEADER_BYTES: usize = 16 << 10;

pub(super) async fn serve(
    cluster: Cluster,
    node: NodeName,
    recv: ByteReader,
    writer: FrameWriter<ByteWriter>,
) -> Result<(), TunnelFault> {
    let stream = tokio::io::join(recv, accept(writer).await?);
    let service = service_fn(move |request| {
        let (cluster, node) = (cluster.clone(), node.clone());
        async move { Ok::<_, Infallible>(answer(&cluster, &node, request).await) }
    });
    let connection = http1::Builder::new()
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    Ok(connection.await?)
}

async fn answer(cluster: &Cluster, node: &NodeName, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_MAX).collect().await else {
        return failure(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            "the body is too large",
        );
    };
    let judged = allow::judge(&head.method, head.uri.path(), head.uri.query(), &body.to_bytes());
    let allowed = match judged {
        Ok(allowed) => allowed,
        Err(denied) => return deny(node, &denied),
    };
    match cluster
        .request_as_node(node, Call::post(allowed.path, allowed.body))
        .await
    {
        Ok(answer) => respond(StatusCode::CREATED, answer),
        Err(error) => {
            debug!(%node, error = &error as &dyn std::error::Error, "a node's request failed");
            refused(&error)
        }
    }
}

fn deny(node: &NodeName, denied: &Denied) -> Response<Full<Bytes>> {
    warn!(%node, %denied, "a node's request is not on the list");
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
