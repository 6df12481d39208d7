//! `tombolo/http` that listens: devices that push.

use std::net::SocketAddr;
use std::time::Duration;

use edgecore::devices::Observation;
use protocol::devices::DeviceState;
use serde_json::json;

use crate::folder::Folder;
use crate::http::{device, fault, name, value};
use crate::node::Node;
use crate::server::send;

fn free_port() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn post(path: &str, token: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: node\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

async fn until_heard(to: SocketAddr, request: &[u8]) -> Option<u16> {
    for _ in 0..200 {
        // Until the tokens are read nobody is let in.
        match send(to, request).await {
            None | Some(401) => tokio::time::sleep(Duration::from_millis(20)).await,
            some => return some,
        }
    }
    None
}

const ONE: &str = "one-has-this-token";
const TWO: &str = "two-has-this-token";

/// Requests with a token that is none, or another device's.
fn foreign(body: &str) -> Vec<Vec<u8>> {
    vec![
        post("/devices/hall/two", ONE, body),
        post("/devices/hall/one", TWO, body),
        post("/devices/hall/one", "", body),
        post("/devices/hall/nobody", ONE, body),
        post("/devices/lab/one", ONE, body),
        post("/", ONE, body),
        post("/devices/hall/twin-a", "both-have-this-token", body),
        post("/devices/hall/short", "short", body),
        post("/devices/hall/theirs", "0123456789abcdef", body),
        format!("GET /devices/hall/two HTTP/1.1\r\nHost: node\r\nAuthorization: Bearer {ONE}\r\n\r\n")
            .into_bytes(),
    ]
}

#[tokio::test]
async fn a_device_pushes_with_its_own_token_and_for_itself_alone() {
    let folder = Folder::new("push");
    folder.write("one", &format!("namespaces: [hall]\ntoken: {ONE}\n"));
    folder.write("two", &format!("namespaces: [hall]\ntoken: {TWO}\n"));
    folder.write("short", "namespaces: [hall]\ntoken: short\n");
    folder.write("theirs", "namespaces: [lab]\ntoken: 0123456789abcdef\n");
    let pushes = |device_name: &str, credentials: &str| {
        let config = json!({"push": {"credentials": credentials}});
        device(
            device_name,
            &config,
            &[("p", json!({"push": {"path": "$.temperature"}, "scale": 0.1}))],
        )
    };
    let all = [
        pushes("one", "one"),
        pushes("two", "two"),
        pushes("twin-a", "shared"),
        pushes("twin-b", "shared"),
        pushes("short", "short"),
        pushes("theirs", "theirs"),
    ];
    folder.write("shared", "namespaces: [hall]\ntoken: both-have-this-token\n");
    let to = free_port();
    let node = Node::listening(1883, folder.path(), Some(to), all);
    let body = r#"{"temperature": 215, "battery": 90}"#;
    assert_eq!(
        until_heard(to, &post("/devices/hall/one", ONE, body)).await,
        Some(204)
    );
    assert_eq!(
        node.twins.observed(&name("one")),
        [("p".to_owned(), value("21.5"))]
    );
    assert_eq!(node.twins.states(&name("one")), [DeviceState::Online]);
    let refused = foreign(body);
    for request in &refused {
        let text = String::from_utf8_lossy(request);
        assert_eq!(send(to, request).await, Some(401), "{text}");
    }
    assert_eq!(node.twins.observed(&name("two")), []);
    for (device, part) in [
        ("twin-a", "another device has the same token"),
        ("short", "shorter than 16"),
        ("theirs", "may use"),
    ] {
        let observed = node.twins.observed(&name(device));
        let told = |seen: &Observation| matches!(seen, Observation::Fault(why) if why.contains(part));
        assert!(
            observed.iter().any(|(_, seen)| told(seen)),
            "{device}: {observed:?}"
        );
    }
    node.stop().await;
}

#[tokio::test]
async fn what_is_pushed_is_bounded_and_what_is_wrong_is_told() {
    const TOKEN: &str = "one-has-this-token";
    let folder = Folder::new("bounds");
    folder.write("one", &format!("namespaces: [hall]\ntoken: {TOKEN}\n"));
    let config = json!({"push": {"credentials": "one"}});
    let one = device("one", &config, &[("p", json!({"push": {"path": "$.t"}}))]);
    let to = free_port();
    let node = Node::listening(1883, folder.path(), Some(to), [one]);
    let path = "/devices/hall/one";
    assert_eq!(
        until_heard(to, &post(path, TOKEN, r#"{"t": 1}"#)).await,
        Some(204)
    );
    let large = format!(r#"{{"t": "{}"}}"#, "x".repeat(70_000));
    for (request, status) in [
        (post(path, TOKEN, &large), 413),
        (post(path, TOKEN, r#"{"other": 1}"#), 400),
        (post(path, TOKEN, "{"), 400),
        (
            format!("GET {path} HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer {TOKEN}\r\n\r\n").into_bytes(),
            405,
        ),
    ] {
        let text = String::from_utf8_lossy(&request)
            .chars()
            .take(200)
            .collect::<String>();
        assert_eq!(send(to, &request).await, Some(status), "{text}");
    }
    node.twins
        .until(&name("one"), "p", &fault("the payload is not JSON"))
        .await;
    node.twins.refuse_next(1);
    assert_eq!(send(to, &post(path, TOKEN, r#"{"t": 2}"#)).await, Some(503));
    // Those who connect and say nothing keep a few out, and not for ever.
    let mut idle = Vec::new();
    for _ in 0..63 {
        idle.push(tokio::net::TcpStream::connect(to).await.unwrap());
    }
    assert_eq!(send(to, &post(path, TOKEN, r#"{"t": 3}"#)).await, Some(204));
    node.twins.until(&name("one"), "p", &value("3")).await;
    node.stop().await;
}

#[tokio::test]
async fn nobody_listens_unless_edgecore_is_told_to() {
    let config = json!({"push": {"credentials": "one"}});
    let one = device("one", &config, &[("p", json!({"push": {"path": "$.t"}}))]);
    let node = Node::start(1883, [one]);
    let why = "device hall/one, property p: protocol.configData.push needs devices.http_listen in \
               edgecore.yaml of this node, which is not set: nobody listens";
    node.twins.until(&name("one"), "p", &fault(why)).await;
    node.until_state(&name("one"), DeviceState::Unhealthy).await;
    node.stop().await;
}

#[tokio::test]
async fn a_device_that_may_not_push_is_unhealthy_each_time_anew() {
    let folder = Folder::new("again");
    folder.write("one", &format!("namespaces: [hall]\ntoken: {ONE}\n"));
    let pushes = |credentials: &str| {
        let config = json!({"push": {"credentials": credentials}});
        device("one", &config, &[("p", json!({"push": {"path": "$.t"}}))])
    };
    let to = free_port();
    let node = Node::listening(1883, folder.path(), Some(to), [pushes("none")]);
    node.until_state(&name("one"), DeviceState::Unhealthy).await;
    node.twins.serve([pushes("one")]);
    let heard = until_heard(to, &post("/devices/hall/one", ONE, r#"{"t": 1}"#)).await;
    assert_eq!(heard, Some(204));
    node.until_state(&name("one"), DeviceState::Online).await;
    node.twins.serve([pushes("none")]);
    node.until_state(&name("one"), DeviceState::Unhealthy).await;
    node.stop().await;
}
