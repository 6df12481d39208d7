//! The ladder, rung by rung.

use super::*;
use crate::store::{
    Op, open_stores,
    sled_store::remove_matching,
    suite::{Scratch, killed},
};
use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::{collections::BTreeMap, fs::OpenOptions, io::ErrorKind, os::unix::fs::FileExt as _};

fn with_rows(root: &Path) {
    let mut opened = open(root, "meta").unwrap();
    for n in 0..50 {
        let batch = Batch::new().put(Table::Desired, format!("k{n}"), vec![n; 300]);
        opened.store.commit(&batch).unwrap();
    }
}

fn rows(opened: &Opened) -> usize {
    opened.store.scan(Table::Desired, None, 1000).unwrap().len()
}

fn rungs(opened: &Opened) -> Vec<Rung> {
    opened.incidents.iter().map(|incident| incident.rung).collect()
}

#[test]
fn a_half_written_snapshot_does_not_matter() {
    let root = Scratch::new();
    with_rows(root.path());
    fs::write(root.path().join("meta/snap.00000000FFFFFFFF.generating"), b"half").unwrap();
    let opened = open(root.path(), "meta").unwrap();
    assert_eq!((rows(&opened), opened.incidents.len()), (50, 0));
}

#[test]
fn a_damaged_snapshot_is_dropped_and_everything_replayed() {
    let root = Scratch::new();
    with_rows(root.path());
    fs::write(root.path().join("meta/snap.7FFFFFFFFFFFFFFF"), b"not a snapshot").unwrap();
    let opened = open(root.path(), "meta").unwrap();
    assert_eq!(rows(&opened), 50);
    assert_eq!(rungs(&opened), [Rung::Snapshots]);
}

#[test]
fn a_database_that_cannot_be_read_is_put_aside_and_gets_a_new_epoch() {
    let root = Scratch::new();
    with_rows(root.path());
    let before = open(root.path(), "meta").unwrap().epoch;
    fs::write(root.path().join("meta/conf"), b"garbage that is no configuration").unwrap();
    let opened = open(root.path(), "meta").unwrap();
    assert_eq!(rows(&opened), 0);
    assert_ne!(opened.epoch, before);
    assert_eq!(rungs(&opened), [Rung::Snapshots, Rung::Emptied]);
    assert!(root.path().join("meta.quarantined/db").exists());
    drop(opened);
    let again = open(root.path(), "meta").unwrap();
    assert!(again.incidents.is_empty());
}

#[test]
fn a_second_process_is_told_so_and_nothing_is_put_aside() {
    let root = Scratch::new();
    let _first = open_stores(root.path()).unwrap();
    assert!(matches!(open_stores(root.path()), Err(StoreError::InUse { .. })));
    assert!(!root.path().join("meta.quarantined").exists());
}

#[test]
fn a_missing_content_file_costs_its_key_only() {
    let root = Scratch::new();
    let mut opened = open(root.path(), "meta").unwrap();
    let batch = Batch::new()
        .put(Table::Desired, "big", vec![7; 9000])
        .put(Table::Desired, "small", "s");
    opened.store.commit(&batch).unwrap();
    drop(opened);
    fs::remove_dir_all(root.path().join("objects/meta")).unwrap();
    let opened = open(root.path(), "meta").unwrap();
    assert_eq!(rungs(&opened), [Rung::Rows]);
    assert!(
        opened.incidents[0].to_string().contains("desired/big"),
        "{:?}",
        opened.incidents
    );
    assert_eq!(opened.store.get(Table::Desired, "big").unwrap(), None);
    assert_eq!(opened.store.get(Table::Desired, "small").unwrap().unwrap(), "s");
}

#[test]
fn a_forbidden_directory_is_an_error_and_not_damage() {
    let error = StoreError::io("open", "/x")(ErrorKind::PermissionDenied.into());
    assert!(!is_damage(&error));
}

#[test]
fn only_the_newest_damaged_database_is_kept() {
    let root = Scratch::new();
    for garbage in ["first garbage", "second garbage"] {
        drop(open(root.path(), "meta").unwrap());
        fs::write(root.path().join("meta/conf"), garbage).unwrap();
        assert_eq!(
            rungs(&open(root.path(), "meta").unwrap()),
            [Rung::Snapshots, Rung::Emptied]
        );
    }
    let kept = fs::read_to_string(root.path().join("meta.quarantined/conf")).unwrap();
    assert_eq!(kept, "second garbage");
    let names = fs::read_dir(root.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let aside = names.filter(|name| name.to_string_lossy().contains("quarantined"));
    assert_eq!(aside.count(), 1);
}

#[test]
fn one_database_that_is_lost_does_not_take_the_other() {
    let root = Scratch::new();
    with_rows(root.path());
    drop(open(root.path(), "outbox").unwrap());
    fs::write(
        root.path().join("outbox/conf"),
        "garbage that is no configuration",
    )
    .unwrap();
    assert!(!open(root.path(), "outbox").unwrap().incidents.is_empty());
    let meta = open(root.path(), "meta").unwrap();
    assert_eq!((rows(&meta), rungs(&meta)), (50, vec![]));
}

#[test]
fn what_can_be_read_of_a_database_is_moved_into_a_new_one() {
    let root = Scratch::new();
    with_rows(root.path());
    let (place, mut incidents) = (Place::new(root.path(), "meta"), Vec::new());
    let before = open(root.path(), "meta").unwrap().epoch;
    let Attempt::Ready(store, _) = attempt(&place) else {
        panic!("it opens")
    };
    let error = StoreError::Stopped;
    let (store, findings) = salvage(&place, store, &error, &mut incidents).unwrap();
    drop(store);
    assert_eq!((findings.damage, findings.doubt), (vec![], None));
    assert_eq!(incidents[0].rung, Rung::Salvaged);
    assert!(
        incidents[0].detail.starts_with("51 rows were saved"),
        "{incidents:?}"
    );
    assert!(root.path().join("meta.quarantined/db").exists());
    let opened = open(root.path(), "meta").unwrap();
    assert_eq!((rows(&opened), opened.epoch), (50, before));
}

#[test]
fn a_store_that_went_back_in_time_says_so_and_gets_a_new_epoch() {
    let root = Scratch::new();
    with_rows(root.path());
    let yesterday = Scratch::new();
    let copy = |from: &Path, to: &Path| {
        for name in ["conf", "db"] {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    };
    copy(&root.path().join("meta"), yesterday.path());
    let mut opened = open(root.path(), "meta").unwrap();
    let before = opened.epoch;
    for n in 0..20 {
        let batch = Batch::new().put(Table::Desired, format!("k{n}"), "newer");
        opened.store.commit(&batch).unwrap();
    }
    drop(opened);
    remove_matching(&root.path().join("meta"), |name| name.starts_with("snap.")).unwrap();
    copy(yesterday.path(), &root.path().join("meta"));
    let opened = open(root.path(), "meta").unwrap();
    assert_eq!((rows(&opened), rungs(&opened)), (50, vec![Rung::Stale]));
    assert!(
        opened.incidents[0].detail.contains("20 batches"),
        "{:?}",
        opened.incidents
    );
    assert_ne!(opened.epoch, before);
    drop(opened);
    assert_eq!(rungs(&open(root.path(), "meta").unwrap()), []);
}

#[test]
fn a_database_far_larger_than_what_it_holds_is_written_anew() {
    let root = Scratch::new();
    with_rows(root.path());
    let before = open(root.path(), "meta").unwrap();
    let (held, epoch) = (
        before.store.scan(Table::Desired, None, 1000).unwrap(),
        before.epoch,
    );
    drop(before);
    let waste = usize::try_from(SLACK_BYTES).unwrap() + (1 << 20);
    fs::write(root.path().join("meta/waste"), vec![1; waste]).unwrap();
    // An earlier attempt was cut short.
    fs::create_dir(root.path().join("meta.new")).unwrap();
    fs::write(root.path().join("meta.new/db"), "half").unwrap();
    let mut opened = open(root.path(), "meta").unwrap();
    assert_eq!((rungs(&opened), opened.epoch), (vec![], epoch));
    assert!(Place::new(root.path(), "meta").disk_bytes() < SLACK_BYTES / 4);
    assert!(!root.path().join("meta.new").exists());
    opened
        .store
        .commit(&Batch::new().put(Table::Meta, "after", "x"))
        .unwrap();
    drop(opened);
    let again = open(root.path(), "meta").unwrap();
    assert_eq!(again.store.scan(Table::Desired, None, 1000).unwrap(), held);
}

#[test]
fn a_large_store_is_not_written_anew_at_each_start() {
    const MIB: u64 = 1 << 20;
    assert_eq!(allowed_bytes(0), 16 * MIB);
    assert_eq!(allowed_bytes(4 * MIB), 32 * MIB);
    assert_eq!(allowed_bytes(20 * MIB), 64 * MIB);
    assert_eq!(allowed_bytes(100 * MIB), 200 * MIB);
}

/// What a store with one flipped bit may show.
fn after_a_flip(root: &Path, held: &BTreeMap<String, Bytes>) -> (Vec<Rung>, usize) {
    let opened = open(root, "meta").unwrap_or_else(|error| panic!("it does not open: {error:?}"));
    let found: BTreeMap<_, _> = opened
        .store
        .scan(Table::Desired, None, 1000)
        .unwrap()
        .into_iter()
        .collect();
    let (rungs, mut missing) = (rungs(&opened), 0);
    for (key, value) in held {
        match found.get(key) {
            Some(found) if found == value => {}
            None => missing += 1,
            // An older one is allowed only when it was said that there may be some.
            Some(_) => assert!(
                rungs.iter().any(|rung| *rung != Rung::Snapshots),
                "{key} is old, silently"
            ),
        }
    }
    assert!(
        missing == 0 || rungs.iter().any(|rung| *rung != Rung::Snapshots),
        "{missing} rows are gone, silently"
    );
    assert!(
        found.keys().all(|key| held.contains_key(key)) || !rungs.is_empty(),
        "deleted rows are back, silently"
    );
    drop(opened);
    assert_eq!(
        self::rungs(&open(root, "meta").unwrap()),
        [],
        "it is repaired once"
    );
    (rungs, missing)
}

/// A store with a history, and what it holds.
fn with_history() -> (Scratch, BTreeMap<String, Bytes>) {
    let root = Scratch::new();
    let mut opened = open(root.path(), "meta").unwrap();
    for n in 0..400_usize {
        let value = vec![u8::try_from(n % 251).unwrap(); 50 + n * 37 % 2000];
        let mut batch = Batch::new().put(Table::Desired, format!("k{:03}", n * 7 % 90), value);
        batch.push(Table::Desired, format!("k{:03}", n * 11 % 100), Op::Delete);
        opened.store.commit(&batch).unwrap();
        if n == 200 {
            drop(opened);
            opened = open(root.path(), "meta").unwrap();
        }
    }
    let held = opened.store.scan(Table::Desired, None, 1000).unwrap();
    (root, held.into_iter().collect())
}

fn flip(log: &Path, bit: u64) {
    let log = OpenOptions::new().read(true).write(true).open(log).unwrap();
    let mut byte = [0];
    log.read_exact_at(&mut byte, bit / 8).unwrap();
    log.write_all_at(&[byte[0] ^ 1 << (bit % 8)], bit / 8).unwrap();
}

#[test]
fn a_flipped_bit_anywhere_in_the_log_is_never_a_wrong_value_in_silence() {
    const TRIALS: u64 = 120;
    // One whose log must be replayed from half way, and one whose snapshot is of the end.
    let (replayed, held) = with_history();
    let whole = killed(&replayed);
    drop(open(whole.path(), "meta").unwrap());
    let mut seen: BTreeMap<(Vec<Rung>, bool), usize> = BTreeMap::new();
    for seed in 0..TRIALS {
        let root = killed(if seed % 2 == 0 { &replayed } else { &whole });
        let log = root.path().join("meta/db");
        let bits = fs::metadata(&log).unwrap().len() * 8;
        let bit = StdRng::seed_from_u64(seed).random_range(0..bits);
        flip(&log, bit);
        let (rungs, missing) = std::panic::catch_unwind(|| after_a_flip(root.path(), &held))
            .unwrap_or_else(|_| panic!("seed {seed}: bit {bit} of {bits}"));
        *seen.entry((rungs, missing > 0)).or_default() += 1;
    }
    println!("(repairs, rows missing): trials: {seen:?}");
    assert!(seen.len() > 1, "no bit that was flipped did any harm");
}
