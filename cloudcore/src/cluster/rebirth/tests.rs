//! Many Nodes that are deleted at once, on an API server that takes its time.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, StatusCode};
use protocol::object::Kind;
use serde_json::json;
use tokio::time::sleep;

use super::*;
use crate::cluster::Enrolment;
use crate::cluster::testing::cluster_of;

/// When the pod garbage collector deletes the pods of a Node that is missing.
const PODS_GO: Duration = Duration::from_secs(40);

/// Everyone has joined, and it takes a while to read that; of those in `silent` no first answer comes.
#[derive(Default)]
struct Slow {
    silent: Mutex<BTreeSet<String>>,
}

impl Enrolment for Slow {
    fn is_enrolled(&self, _: &NodeName) -> bool {
        true
    }

    fn confirm<'a>(&'a self, node: &'a NodeName) -> BoxFuture<'a, Result<bool, BoxError>> {
        async {
            if self.silent.lock().remove(node.as_ref()) {
                pending::<()>().await;
            }
            sleep(Duration::from_millis(150)).await;
            Ok(true)
        }
        .boxed()
    }
}

type Made = Arc<Mutex<BTreeSet<String>>>;

/// A replica, and what it makes.
fn replica(enrolment: Slow) -> (Cluster, Made) {
    let made = Made::default();
    let noted = Arc::clone(&made);
    let cluster = cluster_of(
        move |asked| {
            assert!(asked.is(&Method::POST, NODES), "{:?}", asked.head.uri);
            let name = asked.body["metadata"]["name"].as_str().unwrap().to_owned();
            noted.lock().insert(name.clone());
            (StatusCode::CREATED, node(&name, "new", "9"))
        },
        Arc::new(enrolment),
    );
    (cluster, made)
}

fn node(name: &str, uid: &str, revision: &str) -> Value {
    json!({ "metadata": { "name": name, "uid": uid, "resourceVersion": revision,
        "labels": { "node-restriction.kubernetes.io/tombolo": "" } } })
}

fn lose(cluster: &Cluster, name: &str) {
    let key = ObjectKey::new(Kind::Node, "", name);
    let last = node(name, "old", "5").to_string();
    cluster.lost_node(&key, Some(last.as_bytes()));
}

/// Runs until so many are made, or it is too late for their pods.
async fn make(cluster: &Cluster, made: &Made, wanted: usize) {
    let all = async {
        while made.lock().len() < wanted {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = cluster.rebirth_nodes() => {}
        all = timeout(PODS_GO, all) => all.unwrap_or_else(|_| panic!("{} of {wanted}", made.lock().len())),
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_nodes_are_there_again_before_their_pods_are_deleted() {
    let (cluster, made) = replica(Slow::default());
    for name in 0..1000 {
        lose(&cluster, &format!("e{name}"));
    }
    make(&cluster, &made, 1000).await;
}

#[tokio::test(start_paused = true)]
async fn one_whose_enrolment_cannot_be_read_holds_up_no_other_and_is_tried_again() {
    let silent = (0..AT_ONCE * 2).map(|name| format!("a{name}")).collect();
    let (cluster, made) = replica(Slow {
        silent: Mutex::new(silent),
    });
    for name in 0..AT_ONCE * 2 {
        lose(&cluster, &format!("a{name}"));
    }
    lose(&cluster, "b");
    make(&cluster, &made, AT_ONCE * 2 + 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_another_replica_has_made_is_left_out_and_an_older_answer_does_not_pass_for_it() {
    let (cluster, made) = replica(Slow::default());
    for name in ["made", "missing"] {
        lose(&cluster, name);
    }
    cluster.saw_node_now(
        &"made".parse().unwrap(),
        node("made", "new", "6").to_string().as_bytes(),
    );
    cluster.saw_node_now(
        &"missing".parse().unwrap(),
        node("missing", "old", "4").to_string().as_bytes(),
    );
    timeout(PODS_GO, cluster.rebirth_nodes()).await.unwrap_err();
    assert_eq!(*made.lock(), BTreeSet::from(["missing".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn no_two_replicas_go_through_them_in_one_order() {
    let order = || {
        let rebirths = Rebirths::default();
        for name in 0..100 {
            rebirths.add(format!("e{name}"), Body::compress(b"{}"));
        }
        let drawn = std::iter::from_fn(|| rebirths.draw(Instant::now()));
        drawn.map(|(name, _)| name).collect::<Vec<_>>()
    };
    let (one, other) = (order(), order());
    assert_eq!(one.len(), 100);
    assert_ne!(one, other);
}

#[tokio::test(start_paused = true)]
async fn one_that_failed_waits_and_a_newer_deletion_does_not() {
    let rebirths = Rebirths::default();
    rebirths.add("e1".to_owned(), Body::compress(b"1"));
    let (name, lost) = rebirths.draw(Instant::now()).unwrap();
    rebirths.put_off(name.clone(), lost);
    assert!(rebirths.draw(Instant::now()).is_none());
    assert!(rebirths.next_due().unwrap() >= Instant::now() + PAUSE);
    let (_, lost) = rebirths.draw(rebirths.next_due().unwrap()).unwrap();
    rebirths.add(name.clone(), Body::compress(b"2"));
    rebirths.put_off(name, lost);
    let (_, newer) = rebirths.draw(Instant::now()).unwrap();
    assert_eq!(newer.last.json().unwrap(), b"2"[..]);
}
