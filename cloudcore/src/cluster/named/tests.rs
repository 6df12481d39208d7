//! What a refusal does to what was known, and what it does not.

use std::collections::BTreeSet;

use http::StatusCode;
use parking_lot::Mutex;
use protocol::desired::{Found, View};
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::super::index::PodEntry;
use super::super::testing::cluster;
use super::super::thin::Thin;
use super::*;

const SOON: Duration = Duration::from_secs(31);

fn node() -> NodeName {
    "edge-1".parse().unwrap()
}

fn key() -> ObjectKey {
    ObjectKey::new(Kind::Secret, "shop", "db")
}

/// A pod that names a Secret.
fn pod(name: &str, revision: u64, secret: &str) -> PodEntry {
    let pod = json!({ "metadata": { "name": name, "namespace": "shop", "uid": name,
        "resourceVersion": revision.to_string() } });
    PodEntry {
        object: Arc::new(canonical(Kind::Pod, pod.to_string().as_bytes()).unwrap()),
        refs: BTreeSet::from([ObjectKey::new(Kind::Secret, "shop", secret)]),
        withheld: false,
    }
}

/// A cluster with a pod of a connected node that names the Secret, and the sink of the Secret's watch.
fn named() -> NamedSink {
    let cluster = cluster(|_| (StatusCode::SERVICE_UNAVAILABLE, json!({})));
    let mut index = cluster.inner.index.write();
    index.attach(&node(), Arc::default());
    index.put_pod(&node(), pod("a", 5, "db"));
    drop(index);
    NamedSink::new(cluster, key())
}

fn tell(sink: &mut NamedSink) {
    let secret =
        json!({ "metadata": { "name": "db", "namespace": "shop", "uid": "s", "resourceVersion": "7" } })
            .to_string();
    let Thin { metadata } = serde_json::from_str(&secret).unwrap();
    sink.listing();
    sink.put(&metadata, secret.as_bytes());
    sink.listed(Revision(8));
}

fn refuse(sink: &mut NamedSink) {
    let error = ApiError::Refused {
        action: "watch".to_owned(),
        code: 403,
        reason: "Forbidden".to_owned(),
        message: String::new(),
        retry_after: None,
    };
    assert!(sink.failed(&error));
}

fn known(sink: &NamedSink) -> Lookup {
    sink.cluster
        .inner
        .index
        .read()
        .lookup(&node(), &key())
        .unwrap()
        .clone()
}

#[tokio::test(start_paused = true)]
async fn what_was_read_once_is_not_taken_back_by_a_refusal_however_long_it_lasts() {
    let mut sink = named();
    tell(&mut sink);
    for _ in 0..100 {
        refuse(&mut sink);
        tokio::time::advance(SOON).await;
    }
    assert!(matches!(known(&sink), Lookup::Present(_)));
}

#[tokio::test(start_paused = true)]
async fn what_the_api_server_says_is_gone_stays_gone_through_a_refusal() {
    let mut sink = named();
    sink.listing();
    sink.listed(Revision(8));
    refuse(&mut sink);
    tokio::time::advance(SOON).await;
    refuse(&mut sink);
    assert_eq!(known(&sink), Lookup::Absent(AbsentReason::Missing));
    // The right is back, and so is the object.
    tell(&mut sink);
    assert!(matches!(known(&sink), Lookup::Present(_)));
}

#[tokio::test(start_paused = true)]
async fn a_pod_learns_after_a_while_that_what_it_names_may_not_be_read_and_then_that_it_may() {
    let mut sink = named();
    refuse(&mut sink);
    tokio::time::advance(LAG / 2).await;
    refuse(&mut sink);
    assert_eq!(known(&sink), Lookup::Unknown, "the authorizer may lag");
    tokio::time::advance(LAG).await;
    refuse(&mut sink);
    assert_eq!(known(&sink), Lookup::Absent(AbsentReason::Forbidden));
    // It rests on nothing: an edge that holds the object keeps it.
    let index = sink.cluster.inner.index.read();
    let node = node();
    assert_eq!(index.seen_by(&node).seen(&key()), Revision(0));
    drop(index);
    tell(&mut sink);
    assert!(matches!(known(&sink), Lookup::Present(_)));
}

#[tokio::test(start_paused = true)]
async fn refusals_with_an_answer_in_between_do_not_add_up() {
    let mut sink = named();
    refuse(&mut sink);
    tokio::time::advance(SOON).await;
    // A list that was begun, and broke off before it told of the object.
    sink.at(Revision(3));
    refuse(&mut sink);
    assert_eq!(known(&sink), Lookup::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_pod_is_gone_loses_what_only_that_pod_named() {
    let mut sink = named();
    tell(&mut sink);
    refuse(&mut sink);
    let pod = ObjectKey::new(Kind::Pod, "shop", "a");
    sink.cluster
        .inner
        .index
        .write()
        .remove_pod(&node(), &pod, Revision(9));
    let index = sink.cluster.inner.index.read();
    assert_eq!(index.lookup(&node(), &key()), None);
    assert!(matches!(index.seen_by(&node()).find(&key()), Found::Nothing));
}

#[tokio::test(start_paused = true)]
async fn a_watch_begins_when_a_pod_names_something_new() {
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let noted = Arc::clone(&asked);
    let cluster = cluster(move |ask| {
        noted.lock().push(ask.head.uri.to_string());
        (StatusCode::SERVICE_UNAVAILABLE, json!({}))
    });
    cluster.inner.index.write().attach(&node(), Arc::default());
    let story = async {
        for (revision, secret) in [(5, "db"), (6, "db"), (7, "mail")] {
            let pod = pod("a", revision, secret);
            cluster.inner.index.write().put_pod(&node(), pod);
            asked.lock().clear();
            cluster.inner.wants.notify_one();
            let watch = format!("metadata.name%3D{secret}");
            while !asked.lock().iter().any(|uri| uri.contains(&watch)) {
                sleep(Duration::from_millis(10)).await;
            }
        }
    };
    let told = timeout(Duration::from_hours(1), async {
        tokio::select! {
            () = cluster.watch_named() => {}
            () = story => {}
        }
    });
    told.await.expect("a watch of each");
    let last = asked.lock().clone();
    assert!(last.iter().all(|uri| !uri.contains("%3Ddb")), "{last:?}");
}
