//! What the kernel is told of each connection, and that kube's layers are all there.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::future::join_all;
use http::header;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use kube::config::AuthInfo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tower::Service;

use super::*;

#[tokio::test]
async fn the_kernel_looks_after_every_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let connection = tcp().call(url.parse().unwrap()).await.unwrap();
    let socket = SockRef::from(connection.inner());
    assert!(is_asked(connection.inner()));
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(DEAD_AFTER));
    assert_eq!(ASK_AFTER + ASK_EVERY * ASK_TIMES, DEAD_AFTER);
}

/// Whether the kernel asks if its other end is there.
fn is_asked(socket: &TcpStream) -> bool {
    let socket = SockRef::from(socket);
    let asks = (
        socket.tcp_keepalive_time().unwrap(),
        socket.tcp_keepalive_interval().unwrap(),
        socket.tcp_keepalive_retries().unwrap(),
    );
    socket.keepalive().unwrap() && asks == (ASK_AFTER, ASK_EVERY, ASK_TIMES)
}

#[tokio::test]
async fn another_s_connection_is_asked_for_and_abandoned_only_when_he_has_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    assert!(!is_asked(&socket));
    ask_whether_alive(&socket).unwrap();
    let limit = || SockRef::from(&socket).tcp_user_timeout().unwrap();
    assert!(is_asked(&socket) && limit().is_none());
    abandon_soon(&socket).unwrap();
    assert_eq!(limit(), Some(DEAD_AFTER));
}

/// Answers one request, compressed; what was asked.
async fn serve_one(listener: TcpListener) -> String {
    /// `{}`, as gzip has it.
    const EMPTY: [u8; 22] = [
        0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xab, 0xae, 5, 0, 0x43, 0xbf, 0xa6, 0xa3, 2, 0, 0, 0,
    ];
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut asked = vec![0; 4096];
    let length = stream.read(&mut asked).await.unwrap();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        EMPTY.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&EMPTY).await.unwrap();
    String::from_utf8_lossy(&asked[..length]).to_lowercase()
}

#[tokio::test]
async fn a_request_goes_to_the_server_of_the_configuration_with_its_credentials_and_comes_back_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/base", listener.local_addr().unwrap());
    let mut config = kube::Config::new(url.parse().unwrap());
    config.auth_info = AuthInfo {
        token: Some("secret".to_owned().into()),
        ..AuthInfo::default()
    };
    config
        .headers
        .push((header::USER_AGENT, "cloudcore/1".parse().unwrap()));
    let client = client(config).unwrap();
    let request = http::Request::get("/version").body(Vec::new()).unwrap();
    let (asked, answer) = tokio::join!(serve_one(listener), client.request_text(request));
    assert_eq!(answer.unwrap(), "{}");
    for part in [
        "get /base/version http/1.1\r\n",
        "\r\nauthorization: bearer secret\r\n",
        "\r\nuser-agent: cloudcore/1\r\n",
        "\r\naccept-encoding: gzip\r\n",
    ] {
        assert!(asked.contains(part), "{part:?} is not in {asked:?}");
    }
}

/// An API server that speaks these versions and accepts whatever is watched, and how many connections have carried it.
async fn serve_watches(alpn: &[&str]) -> (kube::Config, Arc<AtomicUsize>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    tls.alpn_protocols = alpn.iter().map(|version| version.as_bytes().to_vec()).collect();
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let mut config = kube::Config::new(url.parse().unwrap());
    config.root_cert = Some(vec![made.cert.der().to_vec()]);
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let serve = async move {
        let mut serving = tokio::task::JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            let (tls, counted) = (tls.clone(), Arc::clone(&counted));
            serving.spawn(async move {
                let stream = TokioIo::new(tls.accept(socket).await.unwrap());
                // Those that come too late for the watches they were opened for carry none.
                let carries = AtomicBool::new(false);
                let service = service_fn(|_| {
                    if !carries.swap(true, Ordering::Relaxed) {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    async {
                        // A head, and a body without end.
                        let body = futures::stream::pending::<Result<Frame<Bytes>, Infallible>>();
                        Ok::<_, Infallible>(Response::new(StreamBody::new(body)))
                    }
                });
                let served = auto::Builder::new(TokioExecutor::new());
                drop(served.serve_connection(stream, service).await);
            });
        }
    };
    #[expect(clippy::disallowed_methods, reason = "it ends with the runtime of its test")]
    drop(tokio::spawn(serve));
    (config, connections)
}

async fn watch(client: &kube::Client) -> Response<Body> {
    client
        .send(Request::get("/w").body(Body::empty()).unwrap())
        .await
        .unwrap()
}

#[tokio::test]
async fn watches_share_a_connection_where_the_server_lets_them_and_have_one_each_where_not() {
    let (config, connections) = serve_watches(&["h2", "http/1.1"]).await;
    let client = watching_client(&config).unwrap();
    let mut watches = vec![watch(&client).await];
    watches.extend(join_all((1..90).map(|_| watch(&client))).await);
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    watches.push(watch(&client).await);
    assert_eq!(connections.load(Ordering::Relaxed), 2);
    assert!(
        watches
            .iter()
            .all(|watch| watch.version() == http::Version::HTTP_2)
    );
    // Those that begin at once, before there is a connection, all go by one in the end.
    let at_once = watching_client(&config).unwrap();
    let watches = join_all((0..90).map(|_| watch(&at_once))).await;
    assert!(
        watches
            .iter()
            .all(|watch| watch.version() == http::Version::HTTP_2)
    );
    let before = connections.load(Ordering::Relaxed);
    drop(watches);
    let _again = join_all((0..90).map(|_| watch(&at_once))).await;
    assert_eq!(connections.load(Ordering::Relaxed), before);

    let (config, connections) = serve_watches(&["http/1.1"]).await;
    let client = watching_client(&config).unwrap();
    let watches = [watch(&client).await, watch(&client).await];
    assert_eq!(watches[0].version(), http::Version::HTTP_11);
    assert_eq!(connections.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_proxy_is_refused_and_not_passed_by() {
    let mut config = kube::Config::new("https://10.96.0.1".parse().unwrap());
    config.proxy_url = Some("http://proxy:3128".parse().unwrap());
    assert!(matches!(
        client(config),
        Err(kube::Error::ProxyProtocolDisabled { .. })
    ));
}
