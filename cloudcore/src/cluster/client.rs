//! A client of the API server that notices when the other end is gone.
//!
//! What it is: kube's own stack of layers on connections that the kernel looks after. What it is not: a limit on
//! answers; a watch may be silent for as long as nothing happens.
//!
//! **Invariant:** a connection whose other end does not acknowledge for [`DEAD_AFTER`] ends with an error, whether
//! anything is sent on it or not. One that is somebody else's has [`ask_whether_alive`] and [`abandon_soon`].

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::{Builder, Client, Error as LegacyError, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ClientBuilder, ConfigExt};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tower::{Service, ServiceBuilder};
use tower_http::decompression::DecompressionLayer;

use super::lanes::Lanes;

/// A machine that lost its power, or a balancer that forgot the flow, says nothing: a watch on such a connection
/// hears of no pod and of no ban. client-go takes 45 s.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(30);
/// After how long without a word the kernel asks whether the other end is there, and how often it asks again.
const ASK_AFTER: Duration = Duration::from_secs(15);
const ASK_EVERY: Duration = Duration::from_secs(5);
const ASK_TIMES: u32 = 3;

type Http = Client<TimeoutConnector<HttpsConnector<HttpConnector>>, Body>;

/// A client as the configuration says.
pub(super) fn client(config: kube::Config) -> Result<kube::Client, kube::Error> {
    // cloudcore is built without proxies: kube knows how to say that.
    if config.proxy_url.is_some() {
        return kube::Client::try_from(config);
    }
    let builder = Builder::new(TokioExecutor::new());
    let http = http(
        &builder,
        &config,
        config.rustls_https_connector_with_connector(tcp())?,
    );
    layered(&config, http)
}

/// A client for watches that are many: they share connections where the server speaks HTTP/2.
///
/// Requests are better off without it: a connection of their own is not behind what others are sent.
pub(super) fn watching_client(config: &kube::Config) -> Result<kube::Client, kube::Error> {
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config.rustls_client_config()?)
        .https_or_http();
    // A name that is none was refused when the first client was made.
    let name = config
        .tls_server_name
        .clone()
        .and_then(|name| name.try_into().ok());
    let connector = match name {
        Some(name) => connector.with_server_name_resolver(FixedServerNameResolver::new(name)),
        None => connector,
    };
    let connector = connector.enable_all_versions().wrap_connector(tcp());
    let of = config.clone();
    let connect = move || {
        // One that has stopped answering says nothing to ninety watches; a balancer in between may go on
        // answering the kernel's questions.
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .http2_keep_alive_interval(ASK_AFTER)
            .http2_keep_alive_timeout(ASK_AFTER);
        http(&builder, &of, connector.clone())
    };
    layered(config, Lanes::new(connect))
}

/// A pool of connections, none of them open yet.
fn http(builder: &Builder, config: &kube::Config, connector: HttpsConnector<HttpConnector>) -> Http {
    let mut connector = TimeoutConnector::new(connector);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    builder.build(connector)
}

/// kube's layers around a service.
fn layered<S, R>(config: &kube::Config, http: S) -> Result<kube::Client, kube::Error>
where
    S: Service<Request<Body>, Response = Response<R>, Error = LegacyError> + Clone + Send + 'static,
    S::Future: Send,
    R: hyper::body::Body<Data = Bytes, Error = hyper::Error> + Send + 'static,
{
    let compressed = DecompressionLayer::new().gzip(!config.disable_compression);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(compressed)
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

fn tcp() -> HttpConnector {
    let mut connector = HttpConnector::new();
    // What is above it does TLS.
    connector.enforce_http(false);
    connector.set_keepalive(Some(ASK_AFTER));
    connector.set_keepalive_interval(Some(ASK_EVERY));
    connector.set_keepalive_retries(Some(ASK_TIMES));
    // For what was sent and is not acknowledged: no question is asked meanwhile.
    connector.set_tcp_user_timeout(Some(DEAD_AFTER));
    connector
}

/// Has the kernel notice that the other end of an idle connection is gone.
///
/// What was sent and is not acknowledged is left to whoever sent it: the limit that [`tcp`] sets would also end one whose
/// other end lives, and has not read for a while.
pub(crate) fn ask_whether_alive(socket: &TcpStream) -> io::Result<()> {
    let asks = TcpKeepalive::new()
        .with_time(ASK_AFTER)
        .with_interval(ASK_EVERY)
        .with_retries(ASK_TIMES);
    SockRef::from(socket).set_tcp_keepalive(&asks)
}

/// Nobody waits any more for what was sent to be acknowledged: without a limit the kernel tries for a quarter of
/// an hour.
pub(crate) fn abandon_soon(socket: &TcpStream) -> io::Result<()> {
    SockRef::from(socket).set_tcp_user_timeout(Some(DEAD_AFTER))
}

#[cfg(test)]
mod tests;
