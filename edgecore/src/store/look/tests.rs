//! A look sees everything and changes nothing.

use super::*;
use crate::store::{
    Batch, INLINE_LIMIT, open, open_stores,
    suite::{Scratch, killed, tree},
};

/// A node's store as a killed agent leaves it, with a large value, and something in the log of small commits.
async fn left() -> Scratch {
    let root = Scratch::new();
    let stores = open_stores(root.path()).unwrap();
    let held = Batch::new().put(Table::Desired, "small", "1").put(
        Table::Desired,
        "large",
        vec![7; INLINE_LIMIT + 1],
    );
    stores.meta.commit(held).await.unwrap();
    let said = Batch::new().put(Table::Outbox, "report", "2");
    stores.outbox.commit(said).await.unwrap();
    killed(&root)
}

/// Looks, and makes sure that nobody can tell.
fn looked(root: &Scratch) -> Look {
    let (tmp, before) = (Scratch::new(), tree(root.path()));
    let seen = look_in(root.path(), tmp.path()).unwrap().unwrap();
    assert_eq!(tree(root.path()), before);
    assert!(tree(tmp.path()).is_empty(), "the copy is gone");
    seen
}

async fn keys(db: &Db, table: Table) -> Vec<String> {
    let rows = db.scan(table).await.unwrap();
    rows.into_iter().map(|(key, _)| key).collect()
}

#[tokio::test]
async fn what_a_killed_agent_left_is_seen_whole() {
    let root = left().await;
    for _ in 0..2 {
        let seen = looked(&root);
        assert_eq!(seen.troubles, Vec::<String>::new());
        assert_eq!(keys(&seen.meta, Table::Desired).await, ["large", "small"]);
        let large = seen.meta.get(Table::Desired, "large").await.unwrap().unwrap();
        assert_eq!(large.len(), INLINE_LIMIT + 1);
        assert_eq!(keys(&seen.outbox, Table::Outbox).await, ["report"]);
    }
}

#[tokio::test]
async fn a_copy_of_a_look_that_was_cut_short_goes_with_the_next() {
    let (root, tmp) = (left().await, Scratch::new());
    let mine = format!("{COPY}{}-1", std::process::id());
    // No process has so high a number.
    let others = [
        mine.as_str(),
        "tombolo-look-4294967295-1",
        "tombolo-look-",
        "others",
    ];
    for name in others {
        fs::create_dir(tmp.path().join(name)).unwrap();
    }
    look_in(root.path(), tmp.path()).unwrap();
    let stays = |name: &&str| tmp.path().join(name).exists();
    let left: Vec<_> = others.into_iter().filter(stays).collect();
    assert_eq!(left, [mine.as_str(), "tombolo-look-", "others"]);
}

#[tokio::test]
async fn what_is_damaged_is_said_and_left_for_the_agent_to_repair_and_tell() {
    let root = left().await;
    fs::remove_dir_all(root.path().join("objects/meta")).unwrap();
    let seen = looked(&root);
    assert_eq!(keys(&seen.meta, Table::Desired).await, ["small"]);
    let text = seen.troubles.join("\n");
    for part in [
        "the store meta is damaged",
        "repairs it when it is started",
        "desired/large",
    ] {
        assert!(text.contains(part), "{part} not in {text}");
    }
    let told = open_stores(root.path()).unwrap().incidents;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].rung, Rung::Rows);
}

#[tokio::test]
async fn a_database_that_cannot_be_read_is_not_put_aside() {
    let root = left().await;
    fs::write(root.path().join("meta/conf"), b"garbage that is no configuration").unwrap();
    let seen = looked(&root);
    assert_eq!(keys(&seen.meta, Table::Desired).await, Vec::<String>::new());
    assert_eq!(keys(&seen.outbox, Table::Outbox).await, ["report"]);
    let text = seen.troubles.join("\n");
    assert!(text.contains("begins anew"), "{text}");
    let told = open_stores(root.path()).unwrap().incidents;
    assert_eq!(told.last().map(|incident| incident.rung), Some(Rung::Emptied));
}

#[tokio::test]
async fn damage_in_the_middle_of_the_log_is_said_and_costs_what_it_hit() {
    let root = Scratch::new();
    let stores = open_stores(root.path()).unwrap();
    let log = tail_of(root.path(), SAYS);
    let mut ends = Vec::new();
    for key in ["a", "b", "c"] {
        let said = Batch::new().put(Table::Outbox, key, key);
        stores.outbox.commit(said).await.unwrap();
        ends.push(fs::metadata(&log).unwrap().len());
    }
    let root = killed(&root);
    let log = tail_of(root.path(), SAYS);
    let mut bytes = fs::read(&log).unwrap();
    bytes[usize::try_from(ends[1]).unwrap() - 1] ^= 1;
    fs::write(&log, bytes).unwrap();

    let seen = looked(&root);
    assert_eq!(keys(&seen.outbox, Table::Outbox).await, ["a", "c"]);
    let text = seen.troubles.join("\n");
    assert!(text.contains("the store outbox is damaged"), "{text}");

    let stores = open_stores(root.path()).unwrap();
    assert_eq!(keys(&stores.outbox, Table::Outbox).await, ["a", "c"]);
    let rungs: Vec<_> = stores.incidents.iter().map(|incident| incident.rung).collect();
    assert_eq!(rungs, [Rung::Log]);
}

#[tokio::test]
async fn what_was_repaired_and_not_told_yet_is_said() {
    let root = left().await;
    fs::remove_dir_all(root.path().join("objects/meta")).unwrap();
    drop(open(root.path(), "meta").unwrap());
    let root = killed(&root);
    let text = looked(&root).troubles.join("\n");
    assert!(
        text.starts_with("the store meta: damaged rows were dropped"),
        "{text}"
    );
}

#[tokio::test]
async fn a_store_in_use_is_not_looked_at_and_where_there_is_none_none_is_made() {
    let root = Scratch::new();
    assert!(look_at(root.path()).unwrap().is_none());
    assert!(tree(root.path()).is_empty());
    let stores = open_stores(root.path()).unwrap();
    assert!(matches!(look_at(root.path()), Err(StoreError::InUse { .. })));
    drop(stores);
}

#[tokio::test]
async fn a_store_without_a_place_for_the_copy_says_so() {
    let root = left().await;
    let error = look_in(root.path(), Path::new("/nowhere")).unwrap_err();
    assert!(error.to_string().contains("/nowhere"), "{error}");
}
