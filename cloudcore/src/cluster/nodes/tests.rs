//! A Node that was deleted, and the report of its node that comes first.

use std::sync::Arc;

use http::{Method, StatusCode};
use parking_lot::Mutex;

use super::super::testing::{Asked, Enrolled, cluster_of};
use super::*;

const REPORT: &[u8] = br#"{"metadata": {}, "spec": {}, "status": {"conditions": [], "capacity": {"cpu": "2"},
    "allocatable": {"cpu": "2"}, "nodeInfo": {}}}"#;

struct World {
    cluster: Cluster,
    made: Arc<Mutex<Vec<Value>>>,
}

/// A node that was cordoned, and whose Node somebody has deleted a moment ago: the watch has not told of it yet.
fn world(enrolled: bool) -> World {
    let made = Arc::<Mutex<Vec<Value>>>::default();
    let there = Arc::clone(&made);
    let enrolment = Arc::new(Enrolled::as_remembered(enrolled));
    let cluster = cluster_of(move |asked| answer(&asked, &there), enrolment);
    cluster.told(Kind::Node, &[cordoned()]);
    World { cluster, made }
}

fn cordoned() -> Value {
    json!({ "metadata": { "name": "e1", "uid": "u1", "resourceVersion": "5",
        "labels": { labels::OURS: "", "team": "pumps" } }, "spec": { "unschedulable": true } })
}

/// Nodes, and the Lease of a session.
fn answer(asked: &Asked, made: &Mutex<Vec<Value>>) -> (StatusCode, Value) {
    if asked.is(&Method::POST, NODES) {
        let mut node = asked.body.clone();
        node["metadata"]["uid"] = json!("u2");
        node["metadata"]["resourceVersion"] = json!("9");
        made.lock().push(node.clone());
        return (StatusCode::CREATED, node);
    }
    if asked.head.uri.path().contains("/leases/") {
        let lease = json!({ "metadata": { "annotations": { "tombolo.dev/session": "one" } } });
        return (StatusCode::OK, lease);
    }
    match made.lock().last() {
        Some(node) => (StatusCode::OK, node.clone()),
        None => (StatusCode::NOT_FOUND, json!({ "code": 404 })),
    }
}

impl World {
    async fn report(&self) -> Result<(), WriteError> {
        let by = Holder {
            node: "e1".parse().unwrap(),
            session: "one".to_owned(),
        };
        self.cluster.write_node(&by, REPORT).await
    }

    /// The watch tells of the deletion, and somebody is about to make the Node again.
    fn deletion_is_told(&self) {
        self.cluster.told_node_gone(&"e1".parse().unwrap());
        assert_eq!(
            std::mem::take(&mut *self.cluster.inner.rebirths.waiting.lock()).len(),
            1
        );
    }
}

#[tokio::test]
async fn a_node_that_was_removed_is_not_made_again_by_its_own_report() {
    for told in [false, true] {
        let world = world(false);
        if told {
            world.deletion_is_told();
        }
        let refused = world.report().await.unwrap_err();
        assert!(matches!(refused, WriteError::NotEnrolled { .. }), "{refused}");
        assert_eq!(world.made.lock().len(), 0);
        assert_eq!(world.cluster.inner.rebirths.lost.lock().len(), 0);
    }
}

#[tokio::test]
async fn a_node_that_its_own_report_makes_again_is_as_it_was() {
    for told in [false, true] {
        let world = world(true);
        if told {
            world.deletion_is_told();
        }
        world.report().await.unwrap();
        let made = world.made.lock().clone();
        assert_eq!(made.len(), 1);
        assert_eq!(made[0]["spec"]["unschedulable"], true);
        assert_eq!(made[0]["metadata"]["labels"]["team"], "pumps");
        assert_eq!(world.cluster.inner.rebirths.lost.lock().len(), 0);
    }
}

#[tokio::test]
async fn a_node_that_never_was_is_made_as_it_says() {
    let world = world(true);
    world.cluster.told(Kind::Node, &[]);
    world.report().await.unwrap();
    let made = world.made.lock().clone();
    assert_eq!(made.len(), 1);
    assert_eq!(made[0]["status"]["capacity"]["cpu"], "2");
    assert_eq!(made[0]["metadata"]["labels"]["team"], Value::Null);
}
