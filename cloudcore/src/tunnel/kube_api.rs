//! `kube-api`: edgecore's own requests, over HTTP/1.1 in a tunnel.
//!
//! Each request is read whole, judged by `allow`, and made again as the node. Of its headers none
//! is passed on: not `Authorization`, not `Impersonate-*`, not `X-Remote-*`, not one.

use std::{convert::Infallible, time::Duration};

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
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{
    TunnelFault, accept,
    allow::{self, Denied},
};
use crate::cluster::{Call, Cluster, WriteError};

/// A `TokenRequest` is a few hundred bytes.
const BODY_MAX: usize = 64 << 10;
const BODY_LIMIT: Duration = Duration::from_secs(30);
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

fn too_large() -> Response<Full<Bytes>> {
    failure(
        StatusCode::PAYLOAD_TOO_LARGE,
        "RequestEntityTooLarge",
        "the body is too large",
    )
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::future::BoxFuture;
    use kube::client::Body;
    use parking_lot::Mutex;
    use protocol::{
        clock::Clock,
        wire::{DialReply, FrameReader},
    };
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};

    use super::*;
    use crate::cluster::{Api, BoxError, Enrolment, Impersonation, PodObserver, Settings};

    /// Everybody is enrolled, and nobody listens.
    struct Everybody;

    impl Enrolment for Everybody {
        fn is_enrolled(&self, _node: &NodeName) -> bool {
            true
        }

        fn confirm<'a>(&'a self, _node: &'a NodeName) -> BoxFuture<'a, Result<bool, BoxError>> {
            Box::pin(async { Ok(true) })
        }
    }

    impl PodObserver for Everybody {
        fn bound(&self, _namespace: &str, _name: &str, _here: bool, _json: &[u8]) {}
        fn gone(&self, _namespace: &str, _name: &str) {}
    }

    type Seen = Arc<Mutex<Vec<http::request::Parts>>>;

    /// A cluster whose API server has no Node yet, and makes any token.
    fn cluster() -> (Cluster, Seen) {
        let seen = Seen::default();
        let noted = Arc::clone(&seen);
        let service = tower::service_fn(move |request: Request<Body>| {
            let (head, _) = request.into_parts();
            let code = if head.method == http::Method::POST {
                StatusCode::CREATED
            } else {
                StatusCode::NOT_FOUND
            };
            noted.lock().push(head);
            let mut answer = Response::new(Full::new(Bytes::from_static(b"{\"made\":true}")));
            *answer.status_mut() = code;
            async move { Ok::<_, Infallible>(answer) }
        });
        let api = Api::new(
            kube::Client::new(service, "tombolo-system"),
            Impersonation::Constrained,
        );
        let (enrolment, bindings) = (Arc::new(Everybody), Arc::new(Everybody));
        let settings = Settings {
            api,
            clock: Clock::system(),
            enrolment,
            bindings,
            advertise: None,
        };
        (Cluster::new(settings), seen)
    }

    /// What comes back for one request, written as it stands.
    async fn ask(cluster: Cluster, request: &str) -> String {
        let (edge, cloud) = duplex(64 << 10);
        let (recv, send) = split(cloud);
        let node = "edge-1".parse().unwrap();
        let tunnel = serve(cluster, node, Box::new(recv), FrameWriter::new(Box::new(send)));
        let client = async {
            let mut reader = FrameReader::new(edge);
            assert_eq!(reader.read().await.unwrap(), Some(DialReply::dialed()));
            let mut edge = reader.into_inner();
            edge.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            edge.read_to_string(&mut answer).await.unwrap();
            answer
        };
        tokio::join!(tunnel, client).1
    }

    fn token_request(headers: &str) -> String {
        let body = r#"{"spec":{"audiences":[],"boundObjectRef":{"kind":"Pod","name":"a","uid":"u"}}}"#;
        let path = "/api/v1/namespaces/default/serviceaccounts/app/token";
        let length = body.len();
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        )
    }

    #[tokio::test]
    async fn a_token_is_asked_for_as_the_node_and_no_header_of_the_edge_is_passed_on() {
        let (cluster, seen) = cluster();
        let forged = "Authorization: Bearer x\r\nImpersonate-User: admin\r\nImpersonate-Group: system:masters\r\n\
                      X-Remote-User: admin\r\nX-Other: y\r\n";
        let answer = ask(cluster, &token_request(forged)).await;
        assert!(
            answer.starts_with("HTTP/1.1 201") && answer.ends_with("{\"made\":true}"),
            "{answer}"
        );
        let seen = seen.lock();
        let made = seen
            .iter()
            .find(|head| head.method == http::Method::POST)
            .unwrap();
        assert_eq!(made.headers["impersonate-user"], "system:node:edge-1");
        for forbidden in ["authorization", "impersonate-group", "x-remote-user", "x-other"] {
            assert!(!made.headers.contains_key(forbidden), "{forbidden} was passed on");
        }
    }

    #[tokio::test]
    async fn what_is_not_listed_never_reaches_the_api_server() {
        let (cluster, seen) = cluster();
        let secret =
            "GET /api/v1/namespaces/kube-system/secrets HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let answer = ask(cluster.clone(), secret).await;
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains("\"kind\":\"Status\""),
            "{answer}"
        );
        let large = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            1 << 30
        );
        let answer = ask(cluster, &large).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert!(seen.lock().is_empty());
    }
}
