//! Answers, headers and redirects of a real server.

use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A server that answers each connection with the next of `answers` and keeps what it was asked.
struct Server {
    port: u16,
    asked: Arc<parking_lot::Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

async fn server(tls: Option<TlsAcceptor>, answers: Vec<Vec<u8>>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let (seen, mut tasks) = (Arc::clone(&asked), JoinSet::new());
    tasks.spawn(async move {
        for answer in answers {
            let (stream, _) = listener.accept().await.unwrap();
            match &tls {
                Some(tls) => serve(tls.accept(stream).await.unwrap(), &answer, &seen).await,
                None => serve(stream, &answer, &seen).await,
            }
        }
    });
    Server {
        port,
        asked,
        _tasks: tasks,
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &[u8],
    seen: &parking_lot::Mutex<Vec<String>>,
) {
    let mut request = vec![0; 4096];
    let length = stream.read(&mut request).await.unwrap();
    seen.lock()
        .push(String::from_utf8_lossy(&request[..length]).into_owned());
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
}

fn answer(head: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn get(json: &str, port: u16) -> HttpGet {
    let action: HTTPGetAction = serde_json::from_str(json).unwrap();
    HttpGet::new(&action, "127.0.0.1", port, Asker::Probe).unwrap()
}

#[tokio::test]
async fn status_codes_decide_and_bodies_of_failures_are_not_told() {
    let answers = vec![
        answer("200 OK", "fine"),
        answer("204 Nothing", ""),
        answer("500 Oh", "secret"),
        answer("404 No", ""),
    ];
    let server = server(None, answers).await;
    let get = get(r#"{"port":1,"path":"/a b?x=1"}"#, server.port);
    assert_eq!(get.run().await, Outcome::Success);
    assert_eq!(get.run().await, Outcome::Success);
    assert_eq!(
        get.run().await,
        Outcome::Failure("HTTP probe failed with statuscode: 500".to_owned())
    );
    assert_eq!(
        get.run().await,
        Outcome::Failure("HTTP probe failed with statuscode: 404".to_owned())
    );
    let asked = server.asked.lock()[0].to_lowercase();
    assert!(asked.starts_with("get /a%20b?x=1 http/1.1\r\n"), "{asked}");
    for header in [
        "user-agent: kube-probe/1.36\r\n",
        "accept: */*\r\n",
        "connection: close\r\n",
        &format!("host: 127.0.0.1:{}\r\n", server.port),
    ] {
        assert!(asked.contains(header), "{asked}");
    }
}

#[tokio::test]
async fn own_headers_replace_the_usual_ones() {
    let server = server(None, vec![answer("200 OK", "")]).await;
    let json = r#"{"port":1,"httpHeaders":[{"name":"Host","value":"me"},{"name":"User-Agent","value":"x"},{"name":"Accept","value":""}]}"#;
    assert_eq!(get(json, server.port).run().await, Outcome::Success);
    let asked = server.asked.lock()[0].to_lowercase();
    assert!(
        asked.contains("host: me\r\n") && asked.contains("user-agent: x\r\n") && !asked.contains("accept:"),
        "{asked}"
    );
}

#[tokio::test]
async fn redirects_are_followed_on_the_same_host_and_end_elsewhere() {
    let there = answer("302 Found\r\nLocation: /next", "");
    let elsewhere = answer("302 Found\r\nLocation: http://example.invalid/", "moved");
    let server = server(None, vec![there, answer("200 OK", ""), elsewhere]).await;
    let get = get(r#"{"port":1}"#, server.port);
    assert_eq!(get.run().await, Outcome::Success);
    assert!(server.asked.lock()[1].starts_with("GET /next "));
    let warned = Outcome::Warning("Probe terminated redirects, Response body: moved".to_owned());
    assert_eq!(get.run().await, warned);
}

#[tokio::test]
async fn a_ring_of_redirects_ends() {
    let server = server(None, vec![answer("302 Found\r\nLocation: /", ""); 20]).await;
    let Outcome::Failure(why) = get(r#"{"port":1}"#, server.port).run().await else {
        panic!("not a failure")
    };
    assert!(why.ends_with("stopped after 10 redirects"), "{why}");
    assert_eq!(server.asked.lock().len(), 11);
}

#[tokio::test]
async fn an_endless_body_costs_ten_kilobytes() {
    let mut endless = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    endless.resize(4 << 20, b'x');
    let server = server(None, vec![endless]).await;
    assert_eq!(get(r#"{"port":1}"#, server.port).run().await, Outcome::Success);
}

#[tokio::test]
async fn nobody_there_is_told_as_the_kubelet_tells_it() {
    let port = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let Outcome::Failure(why) = get(r#"{"port":1,"path":"healthz"}"#, port).run().await else {
        panic!("not a failure")
    };
    assert_eq!(
        why,
        format!(
            "Get \"http://127.0.0.1:{port}/healthz\": dial tcp 127.0.0.1:{port}: connect: connection refused"
        )
    );
}

#[tokio::test]
async fn https_is_asked_without_verifying_anybody() {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["wrong.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = config
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let server = server(
        Some(TlsAcceptor::from(Arc::new(config))),
        vec![answer("200 OK", "")],
    )
    .await;
    assert_eq!(
        get(r#"{"port":1,"scheme":"HTTPS"}"#, server.port).run().await,
        Outcome::Success
    );
}

#[test]
fn redirects_lead_where_they_say() {
    let url = Url {
        tls: false,
        host: "h".to_owned(),
        port: 80,
        path: "/a/b?q".to_owned(),
    };
    let path = |location: &str| url.follow(location).map(|next| next.text());
    assert_eq!(path("/x"), Some("http://h:80/x".to_owned()));
    assert_eq!(path("x"), Some("http://h:80/a/x".to_owned()));
    assert_eq!(path("https://h/y?z"), Some("https://h:443/y?z".to_owned()));
    assert_eq!(path("//o:8/"), Some("http://o:8/".to_owned()));
    assert_eq!(path("http://"), None);
}
