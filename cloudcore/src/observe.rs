//! Health and metrics on a port of their own: read-only, and no secrets.
//!
//! What it is: `/healthz` (the process lives), `/readyz` (it can serve edges, else why not; and what is amiss
//! although it can) and `/metrics`. What it is not: a way to change anything.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::waits::accepted;

/// Connections at once. The oldest makes room for one more: anybody in the cluster may hold connections open, and the
/// kubelet, which kills a replica that does not answer it, is served within milliseconds.
const CONNECTIONS: usize = 64;
/// What a scraper has to say its request in.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// How long a connection may last in all.
const CONNECTION_TIME: Duration = Duration::from_secs(30);

/// Why health and metrics cannot be served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ObserveError {
    /// Another program listens there.
    #[error("TCP port {} is in use: stop what listens there, or choose another with --observe", .0.port())]
    InUse(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {address} for health and metrics")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Answers why the replica cannot serve edges, or `None` when it can.
pub trait Readiness: Send + Sync + 'static {
    /// The reason, for people.
    fn obstacle(&self) -> Option<&'static str>;

    /// What people should know of a replica that serves edges all the same.
    fn trouble(&self) -> Option<&'static str>;
}

/// Bound, not yet serving.
pub struct Observe {
    listener: TcpListener,
    registry: Arc<Registry>,
    readiness: Arc<dyn Readiness>,
}

impl Observe {
    /// Binds the port.
    pub async fn bind(
        address: SocketAddr,
        registry: Registry,
        readiness: Arc<dyn Readiness>,
    ) -> Result<Self, ObserveError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| bind_error(address, source))?;
        Ok(Self {
            listener,
            registry: Arc::new(registry),
            readiness,
        })
    }

    /// The address in use (tests bind port 0).
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until told to stop.
    pub async fn serve(self, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        let mut open: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            let (stream, _) = tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = connections.join_next() => continue,
                accepted = accepted(|| self.listener.accept()) => accepted,
            };
            open.retain(|connection| !connection.is_finished());
            if open.len() >= CONNECTIONS
                && let Some(oldest) = open.pop_front()
            {
                oldest.abort();
            }
            let conversation = converse(stream, self.registry.clone(), self.readiness.clone());
            open.push_back(connections.spawn(conversation));
        }
    }
}

fn bind_error(address: SocketAddr, source: io::Error) -> ObserveError {
    if source.kind() == io::ErrorKind::AddrInUse {
        ObserveError::InUse(address)
    } else {
        ObserveError::Bind { address, source }
    }
}

async fn converse(stream: TcpStream, registry: Arc<Registry>, readiness: Arc<dyn Readiness>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(request.method(), request.uri().path(), &registry, &*readiness);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIME, connection).await {
        debug!(%error, "a connection for health and metrics failed");
    }
}

fn answer(
    method: &Method,
    path: &str,
    registry: &Registry,
    readiness: &dyn Readiness,
) -> Response<Full<Bytes>> {
    if method != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    match path {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match readiness.obstacle() {
            None => match readiness.trouble() {
                None => text(StatusCode::OK, "ok\n"),
                Some(trouble) => text(StatusCode::OK, &format!("ok, but {trouble}\n")),
            },
            Some(obstacle) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("{obstacle}\n")),
        },
        "/metrics" => metrics(registry),
        _ => text(StatusCode::NOT_FOUND, "try /healthz, /readyz or /metrics\n"),
    }
}

fn metrics(registry: &Registry) -> Response<Full<Bytes>> {
    let mut encoded = String::new();
    if prometheus_client::encoding::text::encode(&mut encoded, registry).is_err() {
        return text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the metrics cannot be written\n",
        );
    }
    let mut answer = text(StatusCode::OK, &encoded);
    let kind = header::HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *answer.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct Always(Option<&'static str>);

    impl Readiness for Always {
        fn obstacle(&self) -> Option<&'static str> {
            self.0
        }

        fn trouble(&self) -> Option<&'static str> {
            Some("something is amiss")
        }
    }

    async fn bound(obstacle: Option<&'static str>) -> Observe {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Observe::bind(address, Registry::default(), Arc::new(Always(obstacle)))
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let first = bound(None).await;
        let address = first.address().unwrap();
        let second = Observe::bind(address, Registry::default(), Arc::new(Always(None))).await;
        let error = second.err().unwrap().to_string();
        assert!(
            error.contains(&format!("TCP port {} is in use", address.port())),
            "{error}"
        );
    }

    async fn ask(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn idle_connections_keep_nobody_out() {
        let observe = bound(None).await;
        let address = observe.address().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(observe.serve(CancellationToken::new()));
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS * 2 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let answer = tokio::time::timeout(HEADER_TIME / 2, ask(address)).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok, but something is amiss\n"),
            "{answer}"
        );
        assert_eq!(idle[0].read(&mut [0]).await.unwrap_or(0), 0, "the oldest is gone");
    }

    #[tokio::test]
    async fn an_obstacle_is_told_to_whoever_asks() {
        let observe = bound(Some("the lists are not complete")).await;
        let address = observe.address().unwrap();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(observe.serve(stop.clone()));
        let answer = ask(address).await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.ends_with("are not complete\n"),
            "{answer}"
        );
        stop.cancel();
        tasks.join_next().await.unwrap().unwrap();
    }

    #[test]
    fn nothing_can_be_changed_here() {
        let registry = Registry::default();
        let status = |method: &Method, path| answer(method, path, &registry, &Always(None)).status();
        assert_eq!(status(&Method::POST, "/healthz"), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(status(&Method::GET, "/healthz"), StatusCode::OK);
        assert_eq!(status(&Method::GET, "/debug"), StatusCode::NOT_FOUND);
    }
}
