//! State that outlives restarts and is told to its readers.

mod unread;
mod void;

use super::*;
use crate::pods::seams::PodSource as _;
use crate::pods::spec::{Lookup, Objects as _};
use protocol::desired::Replica;
use protocol::object::{Revision, canonical};

fn pod(revision: u32) -> Object {
    let json = format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"namespace":"default","name":"a","uid":"u1","resourceVersion":"{revision}"}},
        "spec":{{"containers":[{{"name":"c","image":"i"}}],"volumes":[{{"name":"v","configMap":{{"name":"page"}}}}]}}}}"#
    );
    canonical(Kind::Pod, json.as_bytes()).unwrap()
}

fn config_map() -> Object {
    let json = br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"default","name":"page","uid":"u2","resourceVersion":"3"},"data":{"k":"v"}}"#;
    canonical(Kind::ConfigMap, json).unwrap()
}

/// A commit as a replica would hand it out, without the way there.
fn commit(puts: Vec<Object>, removes: Vec<ObjectKey>) -> Commit {
    let mut replica = Replica::load(Vec::new(), Fences::default());
    replica.connected("cluster", 0).unwrap();
    let mut commit = replica.poll_commit().expect("the cluster's id is to be stored");
    commit.fences.views.insert(Kind::Pod, Revision(9));
    Commit {
        puts,
        removes,
        ..commit
    }
}

#[tokio::test]
async fn what_was_committed_is_held_again_after_a_restart() {
    let db = Db::in_memory();
    let (desired, remembered) = Desired::load(db.clone()).await.unwrap();
    assert!(remembered.held.is_empty());
    desired
        .apply(&commit(vec![config_map(), pod(4)], Vec::new()))
        .await
        .unwrap();

    let (again, remembered) = Desired::load(db).await.unwrap();
    assert_eq!(again.pods().len(), 1);
    assert!(!again.pods_synced(), "only the cluster confirms");
    assert!(matches!(again.config_map("default", "page"), Lookup::Found(_)));
    assert!(matches!(again.config_map("default", "other"), Lookup::Unknown));
    assert_eq!(remembered.fences.cluster_id, "cluster");
    let pod = remembered
        .held
        .iter()
        .find(|held| held.key.kind == Kind::Pod)
        .unwrap();
    assert!(
        pod.references
            .contains(&ObjectKey::new(Kind::ConfigMap, "default", "page"))
    );
}

#[tokio::test]
async fn a_change_is_counted_and_a_removal_is_forgotten() {
    let (desired, _) = Desired::load(Db::in_memory()).await.unwrap();
    let mut pods = desired.pods_changed();
    desired.apply(&commit(vec![pod(4)], Vec::new())).await.unwrap();
    assert!(pods.has_changed().unwrap());
    pods.mark_unchanged();
    desired
        .apply(&commit(Vec::new(), vec![pod(4).key]))
        .await
        .unwrap();
    assert!(pods.has_changed().unwrap());
    assert!(desired.pods().is_empty());
}

#[tokio::test]
async fn a_pod_that_had_ended_is_still_known_to_have_ended_after_a_new_version_and_a_restart() {
    let db = Db::in_memory();
    let (desired, _) = Desired::load(db.clone()).await.unwrap();
    let seeded = Object {
        seed_status: Some(Body::compress(br#"{"phase":"Failed"}"#)),
        ..pod(4)
    };
    desired.apply(&commit(vec![seeded], Vec::new())).await.unwrap();
    desired.apply(&commit(vec![pod(5)], Vec::new())).await.unwrap();
    let (again, _) = Desired::load(db).await.unwrap();
    let status = again.pods()[0].pod.status.clone().unwrap();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
}

#[tokio::test]
async fn what_others_say_of_a_pod_is_taken_from_its_latest_version() {
    let version = |revision: u32, conditions: &str| {
        let json = format!(
            r#"{{"metadata":{{"namespace":"default","name":"a","uid":"u1","resourceVersion":"{revision}"}},
            "spec":{{"readinessGates":[{{"conditionType":"gate"}}],"containers":[{{"name":"c","image":"i"}}]}},
            "status":{{"phase":"Running","conditions":[{{"type":"Ready","status":"False"}}{conditions}]}}}}"#
        );
        canonical(Kind::Pod, json.as_bytes()).unwrap()
    };
    let gate = |status: &str| format!(r#",{{"type":"gate","status":"{status}"}}"#);
    let db = Db::in_memory();
    let (desired, _) = Desired::load(db.clone()).await.unwrap();
    let said = |desired: &Desired| {
        let status = desired.pods()[0].pod.status.clone().unwrap();
        assert_eq!(status.phase.as_deref(), Some("Running"));
        let conditions = status.conditions.unwrap().into_iter();
        conditions
            .map(|c| format!("{}={}", c.type_, c.status))
            .collect::<Vec<_>>()
    };
    let first = version(4, "");
    desired.apply(&commit(vec![first], Vec::new())).await.unwrap();
    assert_eq!(said(&desired), ["Ready=False"]);
    for (revision, now) in [(5, "True"), (6, "False")] {
        let seedless = Object {
            seed_status: None,
            ..version(revision, &gate(now))
        };
        desired.apply(&commit(vec![seedless], Vec::new())).await.unwrap();
        let both = ["Ready=False".to_owned(), format!("gate={now}")];
        assert_eq!(said(&desired), both);
        let (again, _) = Desired::load(db.clone()).await.unwrap();
        assert_eq!(said(&again), both, "after a restart too");
    }
    let over = Object {
        seed_status: None,
        ..version(7, "")
    };
    desired.apply(&commit(vec![over], Vec::new())).await.unwrap();
    assert_eq!(said(&desired), ["Ready=False"]);
}

#[test]
fn a_commit_over_the_stores_limit_is_split_with_pods_behind_what_they_name() {
    let named = |kind, n: usize| Object {
        key: ObjectKey::new(kind, "default", format!("n{n}")),
        ..config_map()
    };
    let mut puts: Vec<_> = (0..300).map(|n| named(Kind::Pod, n)).collect();
    puts.extend((0..300).map(|n| named(Kind::ConfigMap, n)));
    let commit = commit(puts, vec![ObjectKey::new(Kind::Pod, "default", "old")]);
    let batches = batches_of(&commit, VoidChanges::default());
    assert!(batches.len() > 1 && batches.iter().all(|batch| batch.len() <= MAX_OPS));
    let ops: Vec<_> = batches.iter().flat_map(Batch::ops).collect();
    let is_pod = |key: &str| key.starts_with(&codec::store_key(&ObjectKey::new(Kind::Pod, "", ""))[..1]);
    let first_pod = ops.iter().position(|(_, key, _)| is_pod(key)).unwrap();
    assert!(
        ops[first_pod..ops.len() - 1]
            .iter()
            .all(|(_, key, _)| is_pod(key))
    );
    assert_eq!(ops.last().unwrap().0, Table::Fence);
}
