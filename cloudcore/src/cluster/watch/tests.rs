//! Lists and watches as servers of several ages answer them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::Full;
use kube::client::Body;

use super::super::api::Impersonation;
use super::*;

#[test]
fn an_empty_list_may_be_written_as_null() {
    let text = Bytes::from_static(br#"{"metadata":{"resourceVersion":"7"},"items":null}"#);
    let page = parse_page("/api/v1/pods", &text).unwrap();
    assert!(page.items.is_empty());
    assert_eq!(page.metadata.resource_version, "7");
}

/// Counts what the first list holds.
#[derive(Default)]
struct FirstList {
    told: usize,
    listed: Arc<Notify>,
    patient: bool,
}

impl FirstList {
    /// One that takes refusals.
    fn patient() -> Self {
        Self {
            patient: true,
            ..Self::default()
        }
    }
}

impl Sink for FirstList {
    fn listing(&mut self) {
        self.told = 0;
    }

    fn put(&mut self, _: &ThinMeta<'_>, _: &[u8]) {
        self.told += 1;
    }

    fn gone(&mut self, _: &ThinMeta<'_>, _: &[u8]) {}

    fn listed(&mut self, _: Revision) {
        self.listed.notify_one();
    }

    fn at(&mut self, _: Revision) {}

    fn failed(&mut self, error: &ApiError) -> bool {
        assert!(self.patient, "{error}");
        true
    }
}

/// An API server that refuses streaming lists with this status, and has one pod.
fn without_streaming(code: http::StatusCode, text: &'static str) -> Api {
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let (code, text) = if query.contains("sendInitialEvents") {
            (code, text)
        } else if query.contains("watch=true") {
            (http::StatusCode::OK, "")
        } else {
            (http::StatusCode::OK, LIST)
        };
        let body = Full::new(Bytes::from_static(text.as_bytes()));
        let answer = http::Response::builder().status(code).body(body);
        std::future::ready(answer)
    });
    Api::new(kube::Client::new(service, "default"), Impersonation::Classic)
}

const LIST: &str = r#"{"metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"a","uid":"u","resourceVersion":"5"}}]}"#;

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_streaming_lists_in_whatever_way_is_asked_for_plain_ones() {
    let refused = r#"{"kind":"Status","code":422,"reason":"Invalid","message":"no"}"#;
    let broken =
        "{\"type\":\"ERROR\",\"object\":{\"code\":500,\"reason\":\"InternalError\",\"message\":\"no\"}}\n";
    for (code, text) in [
        (http::StatusCode::UNPROCESSABLE_ENTITY, refused),
        (http::StatusCode::OK, broken),
    ] {
        let api = without_streaming(code, text);
        let source = Source {
            path: "/api/v1/pods".to_owned(),
            selector: String::new(),
            only_metadata: false,
        };
        let (mut sink, never) = (FirstList::default(), Notify::new());
        let listed = sink.listed.clone();
        tokio::select! {
            () = follow(&api, Actor::Cloudcore, &source, &mut sink, &never) => {}
            () = listed.notified() => {}
        }
        assert_eq!(sink.told, 1, "{code}");
    }
}

/// An API server that ends the first watch after its list, refuses the next few, and then tells a watch that goes
/// on from a revision nothing: nothing changed.
fn refusing_for_a_while() -> Api {
    let asked = Arc::new(AtomicUsize::new(0));
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let lists = request
            .uri()
            .query()
            .unwrap_or_default()
            .contains("sendInitialEvents");
        let (code, text) = match asked.fetch_add(1, Ordering::Relaxed) {
            1..5 => (http::StatusCode::FORBIDDEN, FORBIDDEN),
            _ if lists => (http::StatusCode::OK, END_OF_LIST),
            _ => (http::StatusCode::OK, ""),
        };
        let body = Full::new(Bytes::from_static(text.as_bytes()));
        std::future::ready(http::Response::builder().status(code).body(body))
    });
    Api::new(kube::Client::new(service, "default"), Impersonation::Classic)
}

#[tokio::test(start_paused = true)]
async fn after_a_refusal_a_sink_hears_the_whole_state_again() {
    let api = refusing_for_a_while();
    let source = Source {
        path: "/api/v1/namespaces/shop/secrets".to_owned(),
        selector: String::new(),
        only_metadata: false,
    };
    let (mut sink, never) = (FirstList::patient(), Notify::new());
    let listed = sink.listed.clone();
    let twice = async {
        listed.notified().await;
        listed.notified().await;
    };
    let heard = timeout(Duration::from_hours(1), async {
        tokio::select! {
            () = follow(&api, Actor::Cloudcore, &source, &mut sink, &never) => {}
            () = twice => {}
        }
    });
    heard.await.expect("a second list");
}

/// A node's authorizer that knows of a binding only after some questions.
fn late_graph(refusals: usize) -> Api {
    let asked = Arc::new(AtomicUsize::new(0));
    let service = tower::service_fn(move |_: http::Request<Body>| {
        let (code, text) = if asked.fetch_add(1, Ordering::Relaxed) < refusals {
            (http::StatusCode::FORBIDDEN, FORBIDDEN)
        } else {
            (http::StatusCode::OK, END_OF_LIST)
        };
        let body = Full::new(Bytes::from_static(text.as_bytes()));
        std::future::ready(http::Response::builder().status(code).body(body))
    });
    Api::new(kube::Client::new(service, "default"), Impersonation::Classic)
}

const FORBIDDEN: &str = r#"{"kind":"Status","code":403,"reason":"Forbidden","message":"no"}"#;
const END_OF_LIST: &str = "{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":\"7\",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}}}}\n";

#[tokio::test(start_paused = true)]
async fn an_authorizer_that_lags_behind_a_binding_is_asked_again_at_once() {
    let api = late_graph(3);
    let source = Source {
        path: "/api/v1/namespaces/shop/configmaps".to_owned(),
        selector: String::new(),
        only_metadata: false,
    };
    let (mut sink, never) = (FirstList::patient(), Notify::new());
    let (listed, began) = (sink.listed.clone(), Instant::now());
    tokio::select! {
        () = follow(&api, Actor::Cloudcore, &source, &mut sink, &never) => {}
        () = listed.notified() => {}
    }
    let waited = began.elapsed();
    assert!(waited < Duration::from_millis(100), "{waited:?}");
}
