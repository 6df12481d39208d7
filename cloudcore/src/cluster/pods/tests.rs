//! Which pod is meant, and what the answers to its deletion mean.

use http::{Method, StatusCode};

use super::*;
use crate::cluster::testing::cluster;

fn pod() -> PodRef {
    PodRef {
        node: "e1".parse().unwrap(),
        namespace: "shop".into(),
        name: "web".into(),
        uid: "u".into(),
    }
}

/// What becomes of the end of a pod that the API server forbids, where a list of the node's shows this.
async fn forbidden(list: Value) -> Result<(), WriteError> {
    let cluster = cluster(move |asked| match asked.head.method {
        Method::DELETE => (
            StatusCode::FORBIDDEN,
            json!({ "code": 403, "reason": "Forbidden" }),
        ),
        _ if asked.head.uri.path().ends_with("/pods") => (StatusCode::OK, list.clone()),
        _ => (
            StatusCode::NOT_FOUND,
            json!({ "code": 404, "reason": "NotFound" }),
        ),
    });
    cluster.delete_pod(&pod()).await
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_name_lives_on_at_another_node_has_ended() {
    let listed = |uid| json!({ "items": [{ "metadata": { "uid": uid } }] });
    for gone in [json!({ "items": [] }), listed("another")] {
        forbidden(gone).await.unwrap();
    }
    for not_gone in [listed("u"), json!({})] {
        let error = forbidden(not_gone).await.unwrap_err();
        assert_eq!(error.code(), 403, "{error}");
    }
}

#[tokio::test]
async fn a_node_s_pods_are_listed_as_the_api_server_s_cache_can_answer() {
    let cluster = cluster(|asked| {
        let query = asked.head.uri.query().unwrap_or_default();
        assert_eq!(query, "fieldSelector=spec.nodeName%3De1");
        (
            StatusCode::OK,
            json!({ "metadata": { "resourceVersion": "7" }, "items": null }),
        )
    });
    let listed = cluster.consistent_pods(&"e1".parse().unwrap()).await.unwrap();
    assert_eq!(listed, Revision(7));
}

#[test]
fn a_pod_that_is_not_listed_is_gone_for_good() {
    let pod = pod();
    let query = "/api/v1/namespaces/shop/pods?fieldSelector=metadata.name%3Dweb%2Cspec.nodeName%3De1";
    assert_eq!(pod.query().unwrap(), query);
    assert!(only_pod(&pod, br#"{"items":[]}"#).unwrap_err().is_permanent());
    assert!(only_pod(&pod, br#"{"items":null}"#).unwrap_err().is_permanent());
    let found = only_pod(&pod, br#"{"items":[{"metadata":{"uid":"u"}}]}"#).unwrap();
    assert_eq!(found["metadata"]["uid"], "u");
    assert!(!only_pod(&pod, b"{}").unwrap_err().is_permanent());
}

#[test]
fn names_from_the_edge_cannot_leave_their_place_in_a_path() {
    for good in ["a", "web-0", "kube-root-ca.crt", "10.0.0.1"] {
        assert!(is_path_segment(good), "{good}");
    }
    for bad in [
        "",
        "..",
        ".",
        "a/b",
        "a?b",
        "A",
        "-a",
        "a%2f",
        "a b",
        &"a".repeat(254),
    ] {
        assert!(!is_path_segment(bad), "{bad}");
    }
}

#[tokio::test]
async fn where_there_is_no_room_for_all_pods_the_youngest_that_the_device_has_not_waits_whatever_its_name() {
    const EACH: usize = 512;
    let pod = |number: usize| {
        let volume = |index| json!({ "configMap": { "name": format!("p{number}-{index}") } });
        let volumes: Vec<Value> = (0..EACH).map(volume).collect();
        let metadata = json!({ "name": format!("p{number}"), "namespace": "shop", "uid": "u", "resourceVersion": "5",
            "creationTimestamp": format!("2026-01-0{}T00:00:00Z", 9 - number) });
        // The youngest of all has been reported, and goes on to hear of its objects.
        let status = if number == 0 {
            json!({ "startTime": "2026-01-10T00:00:00Z" })
        } else {
            json!({})
        };
        json!({ "metadata": metadata, "spec": { "nodeName": "e1", "volumes": volumes }, "status": status })
    };
    let pods: Vec<Value> = (0..5).map(pod).collect();
    let list = json!({ "metadata": { "resourceVersion": "7" }, "items": pods });
    let cluster = cluster(move |_| (StatusCode::OK, list.clone()));
    let node: NodeName = "e1".parse().unwrap();
    let _session = cluster.subscribe(&node);
    cluster.consistent_pods(&node).await.unwrap();
    let has_no_room = |number: usize| {
        let key = ObjectKey::new(Kind::Pod, "shop", format!("p{number}"));
        cluster.inner.index.read().has_no_room(&node, &key)
    };
    let waiting: Vec<usize> = (0..5).filter(|number| has_no_room(*number)).collect();
    assert_eq!(waiting, [1]);
}
