//! Void revisions: each has a row of its own.

use super::*;

const OBJECTS: usize = 300;

fn service(n: usize) -> ObjectKey {
    ObjectKey::new(Kind::Service, "default", format!("s{n}"))
}

fn voided() -> Commit {
    let mut commit = commit(vec![config_map()], Vec::new());
    commit.fences.void = (0..OBJECTS).map(|n| (service(n), Revision(5000))).collect();
    commit
}

fn weight(batches: &[Batch]) -> usize {
    let ops = batches.iter().flat_map(Batch::ops);
    let sizes = ops.map(|(_, key, op)| {
        key.len()
            + match op {
                Op::Put(value) => value.len(),
                Op::Delete => 0,
            }
    });
    sizes.sum()
}

#[tokio::test]
async fn a_commit_after_a_restore_writes_only_the_void_revisions_that_changed() {
    let db = Db::in_memory();
    let (desired, _) = Desired::load(db.clone()).await.unwrap();
    let mut commit = voided();
    desired.apply(&commit).await.unwrap();
    commit.fences.void.remove(&service(7));
    let changes = desired.shared.void.lock().change(&commit.fences.void);
    assert_eq!((changes.puts.len(), changes.deletes.len()), (0, 1));
    let bytes = weight(&batches_of(&commit, changes));
    assert!(bytes < 1000, "{bytes}");
    desired.apply(&commit).await.unwrap();
    let (_, remembered) = Desired::load(db.clone()).await.unwrap();
    assert_eq!(remembered.fences, commit.fences);
    assert_eq!(
        db.scan(Table::Fence).await.unwrap().len(),
        OBJECTS,
        "the views and all but one"
    );
    commit.fences.void.clear();
    desired.apply(&commit).await.unwrap();
    assert_eq!(db.scan(Table::Fence).await.unwrap().len(), 1);
}

#[tokio::test]
async fn void_revisions_that_an_older_version_wrote_are_known_and_get_their_rows() {
    let db = Db::in_memory();
    let (mut commit, void) = (voided(), voided().fences.void);
    let pairs: Vec<_> = void.iter().collect();
    let mut row = serde_json::to_value(&commit.fences).unwrap();
    row["void"] = serde_json::to_value(pairs).unwrap();
    let old = Batch::new().put(Table::Fence, FENCES, row.to_string().into_bytes());
    db.commit(old).await.unwrap();
    let (desired, remembered) = Desired::load(db.clone()).await.unwrap();
    assert_eq!(remembered.fences.void, void);
    commit.fences.void.remove(&service(0));
    desired.apply(&commit).await.unwrap();
    let (_, remembered) = Desired::load(db.clone()).await.unwrap();
    assert_eq!(remembered.fences, commit.fences);
    let row = db.get(Table::Fence, FENCES).await.unwrap().unwrap();
    assert!(row.len() < 200, "the old row has shrunk to {}", row.len());
}

#[test]
fn a_commit_that_failed_half_way_leaves_no_row_for_ever() {
    let mut rows = VoidRows::default();
    let wanted = voided().fences.void;
    drop(rows.change(&wanted));
    // It failed: some of the rows may be there.
    let changes = rows.change(&BTreeMap::new());
    assert_eq!(changes.deletes.len(), OBJECTS);
    rows.written(&BTreeMap::new());
    assert_eq!(rows.change(&BTreeMap::new()).deletes.len(), 0);
}
