//! Rows that cannot be read, and pods that could not be stored.

use super::*;
use crate::pods::seams::UnreadPod;

fn unread(uid: Option<&str>) -> UnreadPod {
    UnreadPod {
        namespace: "default".to_owned(),
        name: "a".to_owned(),
        uid: uid.map(str::to_owned),
    }
}

/// A pod whose body is of an encoding that only a newer version knows, as it lies in the store.
fn of_a_newer_version() -> Bytes {
    use prost::Message as _;
    use protocol::wire::Upsert;
    let mut upsert = Upsert::decode(codec::encode_object(&pod(4))).unwrap();
    upsert.body.as_mut().unwrap().encoding = 9;
    upsert.encode_to_vec().into()
}

fn not_a_pod() -> Object {
    Object {
        body: Body::compress(b"[]"),
        ..pod(4)
    }
}

async fn holding(bytes: Bytes) -> (Db, Desired, Remembered) {
    let db = Db::in_memory();
    let row = Batch::new().put(Table::Desired, codec::store_key(&pod(4).key), bytes);
    db.commit(row).await.unwrap();
    let (desired, remembered) = Desired::load(db.clone()).await.unwrap();
    (db, desired, remembered)
}

#[tokio::test]
async fn a_pod_that_cannot_be_read_is_known_as_such_and_asked_for_again() {
    for (bytes, uid) in [
        (of_a_newer_version(), Some("u1")),
        (codec::encode_object(&not_a_pod()), Some("u1")),
        (Bytes::from_static(b"\xff\xff"), None),
    ] {
        let (db, desired, remembered) = holding(bytes).await;
        assert!(desired.pods().is_empty());
        assert_eq!(desired.unread(), [unread(uid)]);
        let [held] = remembered.held.as_slice() else {
            panic!("{:?}", remembered.held)
        };
        assert_eq!(held.key, pod(4).key);
        assert_ne!(
            held.version.digest,
            pod(4).version.digest,
            "it differs, so it comes again"
        );

        desired.apply(&commit(vec![pod(5)], Vec::new())).await.unwrap();
        assert_eq!((desired.pods().len(), desired.unread().len()), (1, 0));
        let (again, _) = Desired::load(db).await.unwrap();
        assert_eq!((again.pods().len(), again.unread().len()), (1, 0));
    }
}

#[tokio::test]
async fn one_that_is_removed_is_known_no_more_and_leaves_no_row() {
    let (db, desired, _) = holding(of_a_newer_version()).await;
    desired
        .apply(&commit(Vec::new(), vec![pod(4).key]))
        .await
        .unwrap();
    assert!(desired.unread().is_empty());
    assert!(db.scan(Table::Desired).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_newer_version_that_cannot_be_read_leaves_the_older_one_of_the_same_pod() {
    let (desired, _) = Desired::load(Db::in_memory()).await.unwrap();
    desired.apply(&commit(vec![pod(4)], Vec::new())).await.unwrap();
    desired
        .apply(&commit(vec![not_a_pod()], Vec::new()))
        .await
        .unwrap();
    assert_eq!((desired.pods().len(), desired.unread().len()), (1, 0));
    let mut another = not_a_pod();
    another.version.uid = "u2".to_owned();
    desired.apply(&commit(vec![another], Vec::new())).await.unwrap();
    assert!(desired.pods().is_empty(), "the pod is another one now");
    assert_eq!(desired.unread(), [unread(Some("u2"))]);
}

#[tokio::test]
async fn a_pod_that_could_not_be_stored_is_told_and_no_orphan() {
    let (desired, _) = Desired::load(Db::in_memory()).await.unwrap();
    let mut changed = desired.pods_changed();
    let key = pod(4).key;
    desired.note_untaken([(&key, "u1")].into_iter());
    assert!(changed.has_changed().unwrap());
    changed.mark_unchanged();
    desired.note_untaken([(&key, "u1")].into_iter());
    assert!(!changed.has_changed().unwrap());
    assert_eq!(desired.unread(), [unread(Some("u1"))]);
    desired.apply(&commit(vec![pod(4)], Vec::new())).await.unwrap();
    assert!(desired.unread().is_empty());
}
