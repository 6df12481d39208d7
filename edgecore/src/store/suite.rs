//! What every store must do, run against each of them; and what only a disk can show.

use super::{Batch, INLINE_LIMIT, MAX_OPS, MemoryStore, Op, SledStore, Store, StoreError, Table};
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// A directory that is gone when the test is.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "tombolo-store-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn sled(root: &Scratch) -> SledStore {
    let (store, findings) = SledStore::open(&root.path().join("meta"), &root.path().join("objects")).unwrap();
    assert_eq!((findings.damage, findings.doubt), (vec![], None));
    store
}

fn on_both(check: impl Fn(&mut dyn Store)) {
    check(&mut MemoryStore::new());
    check(&mut sled(&Scratch::new()));
}

#[test]
fn a_committed_value_is_read_back_and_a_deleted_one_is_gone() {
    on_both(|store| {
        store
            .commit(
                &Batch::new()
                    .put(Table::Meta, "a", "1")
                    .put(Table::Token, "a", "2"),
            )
            .unwrap();
        assert_eq!(store.get(Table::Meta, "a").unwrap().unwrap(), "1");
        assert_eq!(store.get(Table::Token, "a").unwrap().unwrap(), "2");
        store
            .commit(
                &Batch::new()
                    .delete(Table::Meta, "a")
                    .delete(Table::Meta, "never was"),
            )
            .unwrap();
        assert_eq!(store.get(Table::Meta, "a").unwrap(), None);
        assert_eq!(store.get(Table::Token, "a").unwrap().unwrap(), "2");
    });
}

#[test]
fn a_scan_stays_in_its_table_and_pages_in_order() {
    on_both(|store| {
        let mut batch = Batch::new()
            .put(Table::Absent, "zz", "other")
            .put(Table::Fence, "a", "other");
        for n in (0..10).rev() {
            batch = batch.put(Table::Desired, format!("k{n}"), vec![n]);
        }
        store.commit(&batch).unwrap();
        let first = store.scan(Table::Desired, None, 4).unwrap();
        let rest = store.scan(Table::Desired, Some(&first[3].0), 100).unwrap();
        let keys: Vec<_> = first.iter().chain(&rest).map(|(key, _)| key.clone()).collect();
        assert_eq!(keys, (0..10).map(|n| format!("k{n}")).collect::<Vec<_>>());
    });
}

#[test]
fn the_last_change_of_a_key_in_a_batch_wins() {
    on_both(|store| {
        let batch = Batch::new()
            .put(Table::Meta, "a", "1")
            .delete(Table::Meta, "a")
            .put(Table::Meta, "a", "2");
        store
            .commit(&batch.put(Table::Meta, "b", "1").delete(Table::Meta, "b"))
            .unwrap();
        assert_eq!(store.get(Table::Meta, "a").unwrap().unwrap(), "2");
        assert_eq!(store.get(Table::Meta, "b").unwrap(), None);
    });
}

#[test]
fn a_batch_at_the_limit_is_taken_and_one_above_it_is_refused_whole() {
    on_both(|store| {
        let mut batch = Batch::new();
        (0..MAX_OPS).for_each(|n| batch.push(Table::Event, format!("{n:04}"), Op::Put(vec![1; 4096].into())));
        store.commit(&batch).unwrap();
        assert_eq!(store.scan(Table::Event, None, 1000).unwrap().len(), MAX_OPS);
        assert_eq!(store.get(Table::Event, "0511").unwrap().unwrap().len(), 4096);

        batch.push(Table::Meta, "one more".into(), Op::Delete);
        assert!(matches!(
            store.commit(&batch),
            Err(StoreError::TooManyOps { ops: 513 })
        ));
        store
            .commit(&Batch::new().put(Table::Meta, "still", "alive"))
            .unwrap();
    });
}

#[test]
fn values_of_every_size_come_back_and_an_enormous_one_is_refused() {
    on_both(|store| {
        for len in [0, 1, INLINE_LIMIT, INLINE_LIMIT + 1, 1_500_000] {
            let value: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
            store
                .commit(&Batch::new().put(Table::Desired, "v", value.clone()))
                .unwrap();
            assert_eq!(store.get(Table::Desired, "v").unwrap().unwrap(), value);
        }
        let enormous = Batch::new().put(Table::Desired, "v", vec![0; super::MAX_VALUE + 1]);
        assert!(matches!(
            store.commit(&enormous),
            Err(StoreError::TooLarge { .. })
        ));
        let long = Batch::new().put(Table::Desired, "k".repeat(super::MAX_KEY + 1), "v");
        assert!(matches!(store.commit(&long), Err(StoreError::TooLarge { .. })));
    });
}

#[test]
fn a_content_file_lives_as_long_as_a_key_names_it() {
    let root = Scratch::new();
    let mut store = sled(&root);
    let files = || walk(&root.path().join("objects"));
    let big = vec![5; 10_000];
    store
        .commit(
            &Batch::new()
                .put(Table::Desired, "a", big.clone())
                .put(Table::Desired, "b", big),
        )
        .unwrap();
    assert_eq!(files(), 1, "equal values share a file");
    store.commit(&Batch::new().delete(Table::Desired, "a")).unwrap();
    drop(store);
    let mut store = sled(&root);
    assert_eq!(
        (files(), store.get(Table::Desired, "b").unwrap().unwrap().len()),
        (1, 10_000)
    );
    store.commit(&Batch::new().delete(Table::Desired, "b")).unwrap();
    drop(store);
    drop(sled(&root));
    assert_eq!(files(), 0, "an opened store has swept");
}

#[test]
fn many_replaced_content_files_are_swept_while_running() {
    let root = Scratch::new();
    let mut store = sled(&root);
    for n in 0..300_u32 {
        let value = n.to_le_bytes().repeat(1100);
        store
            .commit(&Batch::new().put(Table::Desired, "a", value))
            .unwrap();
    }
    assert!(walk(&root.path().join("objects")) < 100);
    assert_eq!(
        store.get(Table::Desired, "a").unwrap().unwrap()[..4],
        299_u32.to_le_bytes()
    );
}

fn walk(dir: &Path) -> usize {
    let folders = fs::read_dir(dir).unwrap().map(|folder| folder.unwrap().path());
    folders.map(|folder| fs::read_dir(folder).unwrap().count()).sum()
}

/// Every file below a directory, with its content and when it was written.
pub(super) fn tree(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let (path, data) = (entry.path(), entry.metadata().unwrap());
        if data.is_dir() {
            files.extend(tree(&path));
            files.insert(path, (Vec::new(), data.modified().unwrap()));
        } else {
            files.insert(path.clone(), (fs::read(path).unwrap(), data.modified().unwrap()));
        }
    }
    files
}

/// What a process that is killed leaves: the files as they are now. (A power cut is simulated elsewhere.)
pub(super) fn killed(root: &Scratch) -> Scratch {
    let copy = Scratch::new();
    let status = std::process::Command::new("cp")
        .arg("-a")
        .arg(root.path().join("."))
        .arg(copy.path())
        .status();
    assert!(status.unwrap().success());
    copy
}

#[test]
fn whatever_was_acknowledged_is_there_after_a_kill_at_any_commit() {
    let root = Scratch::new();
    let mut store = sled(&root);
    let mut model = BTreeMap::new();
    for n in 0..24_usize {
        let (key, value) = (format!("k{}", n % 7), vec![u8::try_from(n).unwrap(); 1 + n * 400]);
        store
            .commit(&Batch::new().put(Table::Desired, key.clone(), value.clone()))
            .unwrap();
        model.insert(key, value);
        let after = killed(&root);
        let rows = sled(&after).scan(Table::Desired, None, 100).unwrap();
        let rows: BTreeMap<_, _> = rows
            .into_iter()
            .map(|(key, value)| (key, value.to_vec()))
            .collect();
        assert_eq!(rows, model, "killed after commit {n}");
    }
}

fn change() -> impl Strategy<Value = (u8, u8, Option<u16>)> {
    (0..3_u8, 0..12_u8, proptest::option::weighted(0.8, 0..9000_u16))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn both_stores_agree_after_any_history(batches in proptest::collection::vec(proptest::collection::vec(change(), 1..6), 1..12), reopen_at in 0..12_usize) {
        let root = Scratch::new();
        let (mut on_disk, mut model) = (sled(&root), MemoryStore::new());
        for (n, changes) in batches.into_iter().enumerate() {
            if n == reopen_at {
                drop(on_disk);
                on_disk = sled(&root);
            }
            let mut batch = Batch::new();
            for (table, key, len) in changes {
                let op = len.map_or(Op::Delete, |len| Op::Put(vec![key; len.into()].into()));
                batch.push(Table::ALL[usize::from(table)], format!("k{key}"), op);
            }
            on_disk.commit(&batch).unwrap();
            model.commit(&batch).unwrap();
        }
        for table in Table::ALL {
            prop_assert_eq!(on_disk.scan(table, None, 100).unwrap(), model.scan(table, None, 100).unwrap());
        }
    }
}
