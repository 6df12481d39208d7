//! Requests as a node writes them, and what the API server hears of them.

use http::Method;
use parking_lot::Mutex;
use protocol::wire::{DialReply, FrameReader};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex, split},
    time::advance,
};

use super::*;
use crate::cluster::testing;

type Seen = Arc<Mutex<Vec<http::request::Parts>>>;

/// The service, before an API server that has no Node yet, and makes any token.
fn service() -> (Arc<KubeApi>, Seen) {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let cluster = testing::cluster(move |asked| {
        let code = if asked.head.method == Method::POST {
            StatusCode::CREATED
        } else {
            StatusCode::NOT_FOUND
        };
        noted.lock().push(asked.head);
        (code, json!({ "made": true }))
    });
    (Arc::new(KubeApi::new(cluster)), seen)
}

/// What comes back for one request, written as it stands.
async fn ask(service: &Arc<KubeApi>, request: &str) -> String {
    let (edge, cloud) = duplex(64 << 10);
    let (recv, send) = split(cloud);
    let node = "edge-1".parse().unwrap();
    let service = Arc::clone(service);
    let tunnel = service.serve(node, Box::new(recv), FrameWriter::new(Box::new(send)));
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
    let (service, seen) = service();
    let forged = "Authorization: Bearer x\r\nImpersonate-User: admin\r\nImpersonate-Group: system:masters\r\n\
                  X-Remote-User: admin\r\nX-Other: y\r\n";
    let answer = ask(&service, &token_request(forged)).await;
    assert!(
        answer.starts_with("HTTP/1.1 201") && answer.ends_with("{\"made\":true}"),
        "{answer}"
    );
    let seen = seen.lock();
    let made = seen.iter().find(|head| head.method == Method::POST).unwrap();
    assert_eq!(made.headers["impersonate-user"], "system:node:edge-1");
    for forbidden in ["authorization", "impersonate-group", "x-remote-user", "x-other"] {
        assert!(!made.headers.contains_key(forbidden), "{forbidden} was passed on");
    }
}

#[tokio::test]
async fn what_is_not_listed_never_reaches_the_api_server() {
    let (service, seen) = service();
    let secret =
        "GET /api/v1/namespaces/kube-system/secrets HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = ask(&service, secret).await;
    assert!(
        answer.starts_with("HTTP/1.1 403") && answer.contains("\"kind\":\"Status\""),
        "{answer}"
    );
    let large = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        1 << 30
    );
    let answer = ask(&service, &large).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(seen.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_asks_without_end_is_told_to_wait_and_the_log_hears_of_it_once_a_minute() {
    let (service, seen) = service();
    let request = token_request("");
    let made = |seen: &Seen| {
        let seen = seen.lock();
        seen.iter().filter(|head| head.method == Method::POST).count()
    };
    for _ in 0..REQUESTS.burst {
        let answer = ask(&service, &request).await;
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }
    let answer = ask(&service, &request).await;
    assert!(
        answer.starts_with("HTTP/1.1 429") && answer.contains("retry-after: 1\r\n"),
        "{answer}"
    );
    assert_eq!(made(&seen), REQUESTS.burst as usize);
    let (node, now) = ("edge-1".parse().unwrap(), Instant::now());
    assert_eq!(service.warned.take(&node, now), Err(now + WARNINGS.every));
    advance(REQUESTS.every).await;
    assert!(ask(&service, &request).await.starts_with("HTTP/1.1 201"));
    assert!(ask(&service, &request).await.starts_with("HTTP/1.1 429"));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_listed_counts_and_is_told_of_too() {
    let (service, _) = service();
    let (node, now): (NodeName, _) = ("edge-1".parse().unwrap(), Instant::now());
    let other = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert!(ask(&service, other).await.starts_with("HTTP/1.1 403"));
    assert_eq!(service.warned.take(&node, now), Err(now + WARNINGS.every));
    for _ in 1..REQUESTS.burst {
        service.asked.take(&node, now).unwrap();
    }
    assert!(ask(&service, other).await.starts_with("HTTP/1.1 429"));
}
