//! Whose events are written, against an API server in memory that takes its time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use kube::client::Body;
use parking_lot::Mutex;
use protocol::clock::Clock;
use protocol::object::Kind;
use protocol::reported::OutboxKey;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{EventWriter, Refusal, Writer};
use crate::cluster::testing::Everyone;
use crate::cluster::{Api, Cluster, Impersonation, Settings};

type Written = Arc<Mutex<Vec<(String, Value)>>>;

/// A cluster in which one pod is bound to the node. The watches have told of it, when nobody listened.
fn cluster() -> (Cluster, Written) {
    let written = Written::default();
    let noted = Arc::clone(&written);
    let service = tower::service_fn(move |request: Request<Body>| {
        let noted = Arc::clone(&noted);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let (code, answer) = if head.method == Method::POST {
                let event = serde_json::from_slice(&body).unwrap();
                noted.lock().push((head.uri.path().to_owned(), event));
                (StatusCode::CREATED, json!({}))
            } else {
                sleep(Duration::from_secs(1)).await;
                let pod = json!({ "metadata": {
                    "namespace": "shop", "name": "web", "uid": "u1", "resourceVersion": "4" },
                    "spec": { "nodeName": "e1" } });
                let items = json!({ "metadata": { "resourceVersion": "5" }, "items": [pod] });
                (StatusCode::OK, items)
            };
            let body = Full::new(Bytes::from(answer.to_string()));
            Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
        }
    });
    let cluster = Cluster::new(Settings {
        api: Api::new(kube::Client::new(service, "n"), Impersonation::Constrained),
        clock: Clock::system(),
        enrolment: Arc::new(Everyone),
        bindings: Arc::new(Everyone),
        advertise: None,
    });
    let node = json!({ "metadata": { "name": "e1", "uid": "e1", "resourceVersion": "1",
        "labels": { "node-restriction.kubernetes.io/tombolo": "" } } });
    cluster.told(Kind::Node, &[node]);
    for kind in [Kind::Pod, Kind::Service, Kind::RuntimeClass] {
        cluster.told(kind, &[]);
    }
    (cluster, written)
}

async fn tell(
    writer: &EventWriter,
    kind: &str,
    (namespace, name, uid): (&str, &str, &str),
) -> Result<(), Refusal> {
    let key = OutboxKey::Event {
        namespace: "shop".into(),
        name: "x".into(),
    };
    let event = json!({ "metadata": { "namespace": "shop", "name": "x" },
        "involvedObject": { "kind": kind, "namespace": namespace, "name": name, "uid": uid } });
    writer.write(&key, event.to_string().as_bytes()).await
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_events_that_comes_first_knows_whose_pods_they_are_about() {
    let (cluster, written) = cluster();
    let writer = EventWriter::new(cluster, "e1".parse().unwrap());
    writer.ready().await;
    tell(&writer, "Pod", ("shop", "web", "u1")).await.unwrap();
    let (path, event) = written.lock().pop().unwrap();
    assert_eq!(path, "/api/v1/namespaces/shop/events");
    assert_eq!(event["source"]["host"], "e1");
}

#[tokio::test(start_paused = true)]
async fn an_event_about_what_is_not_the_nodes_is_refused_for_good_and_reaches_no_api_server() {
    let (cluster, written) = cluster();
    let writer = EventWriter::new(cluster, "e1".parse().unwrap());
    writer.ready().await;
    for (kind, about) in [
        ("Pod", ("kube-system", "coredns", "u1")),
        ("Pod", ("shop", "web", "u2")),
        ("Pod", ("shop", "web", "")),
        ("Node", ("", "e2", "")),
        ("Node", ("kube-system", "e1", "")),
        ("Secret", ("shop", "web", "u1")),
    ] {
        let refusal = tell(&writer, kind, about).await.unwrap_err();
        assert!(refusal.code.is_permanent(), "{kind} {about:?}: {refusal:?}");
        assert!(refusal.text.contains("not its own"), "{refusal:?}");
    }
    assert!(written.lock().is_empty());
    tell(&writer, "Node", ("", "e1", "e1")).await.unwrap();
    let early = tell(&writer, "Device", ("shop", "pump", "u")).await.unwrap_err();
    assert!(
        !early.code.is_permanent(),
        "devices are not listed yet: {early:?}"
    );
}
