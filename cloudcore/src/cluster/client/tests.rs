//! What the kernel is told of each connection, and that kube's layers are all there.

use http::header;
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

#[tokio::test]
async fn a_proxy_is_refused_and_not_passed_by() {
    let mut config = kube::Config::new("https://10.96.0.1".parse().unwrap());
    config.proxy_url = Some("http://proxy:3128".parse().unwrap());
    assert!(matches!(
        client(config),
        Err(kube::Error::ProxyProtocolDisabled { .. })
    ));
}
