//! An upgrade is taken back: what becomes of a store that a newer program wrote to.
//!
//! The newer program is this one with one table more: it writes through the same code, by keys on disk.

use super::{
    Batch, INLINE_LIMIT, Op, Opened, Rung, SledStore, Store as _, StoreError, Table,
    envelope::{raw_key, seal, unseal, wrap},
    open, open_stores,
    suite::{Scratch, killed, tree},
    tail::Tail,
};
use bytes::Bytes;
use std::{fs, path::Path};

const SMALL: &[u8] = b"jobs\0small";
const LARGE: &[u8] = b"jobs\0large";
/// Before, between and behind the tables that are known here.
const OTHERS: [&[u8]; 4] = [b"a\0", b"meta2\0k", b"zones\0\xff\xfe", b"no table at all"];

fn large() -> Vec<u8> {
    vec![7; INLINE_LIMIT + 1]
}

/// Names and values, as they stand in the store.
type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// What a newer program leaves, beside what this one knows.
fn by_a_newer_program() -> (Scratch, Rows) {
    let root = Scratch::new();
    let mut newer = open(root.path(), "meta").unwrap();
    let mut batch = Batch::new().put(Table::Desired, "known", "1");
    batch.push_foreign(SMALL.to_vec(), Op::Put(Bytes::from_static(b"job")));
    batch.push_foreign(LARGE.to_vec(), Op::Put(large().into()));
    for raw in OTHERS {
        batch.push_foreign(raw.to_vec(), Op::Put(Bytes::from_static(b"other")));
    }
    newer.store.commit(&batch).unwrap();
    let rows = [SMALL, LARGE].into_iter().chain(OTHERS);
    let rows = rows.map(|raw| (raw.to_vec(), newer.store.row(raw).unwrap()));
    let rows = rows.collect();
    (root, rows)
}

fn assert_kept(opened: &Opened, rows: &[(Vec<u8>, Vec<u8>)]) {
    for (raw, sealed) in rows {
        assert_eq!(
            opened.store.row(raw).as_ref(),
            Some(sealed),
            "{}",
            raw.escape_ascii()
        );
    }
}

/// The newer program finds its rows, and their content files.
fn assert_read_by_the_newer(root: &Path, rows: &[(Vec<u8>, Vec<u8>)]) {
    let newer = open(root, "meta").unwrap();
    assert_kept(&newer, rows);
    let hash = unseal(LARGE, &newer.store.row(LARGE).unwrap())
        .unwrap()
        .names()
        .unwrap();
    let hex = hash.to_hex();
    let file = root.join("objects/meta").join(&hex[..2]).join(hex.as_str());
    assert_eq!(fs::read(file).unwrap(), large());
}

fn with_large(n: u32) -> Batch {
    Batch::new().put(Table::Desired, "k", n.to_le_bytes().repeat(INLINE_LIMIT))
}

#[test]
fn rows_of_tables_that_are_not_known_are_kept_and_their_files_are_not_swept() {
    let (root, rows) = by_a_newer_program();
    for round in 0..3 {
        let mut older = open(root.path(), "meta").unwrap();
        assert_eq!(older.incidents, []);
        assert_kept(&older, &rows);
        assert_eq!(older.store.get(Table::Desired, "known").unwrap().unwrap(), "1");
        // Many enough to be swept while it runs.
        for n in 0..300 * u32::from(round == 1) {
            older.store.commit(&with_large(n)).unwrap();
        }
        older.store.commit(&with_large(1000)).unwrap();
    }
    assert_read_by_the_newer(root.path(), &rows);
}

#[test]
fn rows_of_tables_that_are_not_known_are_kept_by_an_agent_that_was_killed() {
    let (root, rows) = by_a_newer_program();
    let mut older = open(root.path(), "meta").unwrap();
    older.store.commit(&with_large(1)).unwrap();
    let root = killed(&root);
    assert_kept(&open(root.path(), "meta").unwrap(), &rows);
    assert_read_by_the_newer(root.path(), &rows);
}

#[test]
fn a_database_that_is_written_anew_has_the_rows_of_tables_that_are_not_known() {
    let (root, rows) = by_a_newer_program();
    drop(open(root.path(), "meta").unwrap());
    fs::write(root.path().join("meta/waste"), vec![1; 18 << 20]).unwrap();
    drop(open(root.path(), "meta").unwrap());
    assert!(!root.path().join("meta/waste").exists(), "it was written anew");
    assert_read_by_the_newer(root.path(), &rows);
}

#[test]
fn what_is_saved_of_a_damaged_database_has_the_rows_of_tables_that_are_not_known() {
    let (root, rows) = by_a_newer_program();
    let opened = open(root.path(), "meta").unwrap();
    let saved = opened.store.salvage();
    for (raw, sealed) in rows {
        assert_eq!(saved.get(&raw), Some(&sealed), "{}", raw.escape_ascii());
    }
    // The epoch, "known", and these: nothing else, and not the ledger.
    assert_eq!(saved.len(), 2 + 2 + OTHERS.len());
}

#[test]
fn a_damaged_row_of_a_table_that_is_not_known_is_dropped_and_told_as_any_other() {
    let (root, rows) = by_a_newer_program();
    let mut newer = open(root.path(), "meta").unwrap();
    let mut sealed = seal(b"jobs\0bad", &super::envelope::Content::Inline("x".into()));
    *sealed.last_mut().unwrap() ^= 1;
    newer.store.put_row(b"jobs\0bad", &sealed);
    drop(newer);
    let older = open(root.path(), "meta").unwrap();
    assert_eq!(older.incidents[0].rung, Rung::Rows);
    assert!(older.incidents[0].detail.contains("jobs/bad: digest mismatch"));
    assert_eq!(older.store.row(b"jobs\0bad"), None);
    assert_kept(&older, &rows);
}

/// A row of a later version that names a content file.
fn later(store: &mut SledStore, raw: &[u8]) -> Vec<u8> {
    store.commit(&with_large(77)).unwrap();
    let named = unseal(&raw_key(Table::Desired, "k"), &store.row(b"desired\0k").unwrap()).unwrap();
    let sealed = wrap(raw, [2, 9, 0, 0, 0, 0], named.names().unwrap().as_bytes());
    store.put_row(raw, &sealed);
    store.commit(&Batch::new().delete(Table::Desired, "k")).unwrap();
    sealed
}

fn content_files(root: &Path) -> usize {
    let files = tree(&root.join("objects/meta"));
    files.values().filter(|(content, _)| !content.is_empty()).count()
}

#[test]
fn a_row_of_a_later_version_in_a_table_that_is_not_known_is_kept_with_its_file() {
    let root = Scratch::new();
    let sealed = later(&mut open(root.path(), "meta").unwrap().store, b"jobs\0later");
    for _ in 0..2 {
        let older = open(root.path(), "meta").unwrap();
        assert_eq!(older.incidents, []);
        assert_eq!(older.store.row(b"jobs\0later"), Some(sealed.clone()));
        assert_eq!(content_files(root.path()), 1);
    }
}

/// The error names what to run, and the store was neither put aside nor begun anew.
fn assert_refused(root: &Path, error: &StoreError) {
    let text = error.to_string();
    assert!(matches!(error, StoreError::Newer { .. }), "{error:?}");
    assert!(text.contains("run that one again, or a newer one"), "{text}");
    let names = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let names: Vec<_> = names.filter_map(|name| name.into_string().ok()).collect();
    assert!(
        names.iter().all(|name| !name.contains("quarantined")),
        "{names:?}"
    );
    assert!(names.iter().all(|name| !name.contains("untold")), "{names:?}");
}

#[test]
fn a_row_of_a_later_version_that_is_needed_is_kept_and_the_store_not_opened() {
    let root = Scratch::new();
    let sealed = later(&mut open(root.path(), "meta").unwrap().store, b"desired\0later");
    assert_refused(root.path(), &open_stores(root.path()).unwrap_err());
    assert!(
        SledStore::is_settled(&root.path().join("meta")),
        "a next try copies nothing"
    );
    let error = open_stores(root.path()).unwrap_err();
    assert_refused(root.path(), &error);
    assert!(error.to_string().contains("desired/later"), "{error}");
    assert_eq!(content_files(root.path()), 1);
    let store = SledStore::open_unread(&root.path().join("meta"), &root.path().join("objects/meta")).unwrap();
    assert_eq!(store.row(b"desired\0later"), Some(sealed));
}

#[test]
fn a_store_of_a_later_format_is_not_touched() {
    let (root, _) = by_a_newer_program();
    drop(open_stores(root.path()).unwrap());
    fs::write(root.path().join("format"), "2\n").unwrap();
    let root = killed(&root);
    let before = tree(root.path());
    for error in [
        open_stores(root.path()).unwrap_err(),
        open(root.path(), "meta").unwrap_err(),
        super::look_at(root.path()).unwrap_err(),
    ] {
        assert_refused(root.path(), &error);
    }
    let (mut now, mut before) = (tree(root.path()), before);
    // Taken first, and it holds nothing.
    now.remove(&root.path().join("lock"));
    before.remove(&root.path().join("lock"));
    assert_eq!(now, before);
}

/// What the engine writes about itself, with its checksum.
fn conf(version: &str) -> Vec<u8> {
    let text = format!("segment_size: 524288\nuse_compression: false\nversion: {version}\n");
    let mut crc = flate2::Crc::new();
    crc.update(text.as_bytes());
    [text.as_bytes(), &crc.sum().to_le_bytes()].concat()
}

#[test]
fn a_database_of_another_version_of_the_engine_is_not_taken_for_a_damaged_one() {
    let (root, rows) = by_a_newer_program();
    let root = killed(&root);
    let path = root.path().join("meta/conf");
    assert_eq!(fs::read(&path).unwrap(), conf("0.34"));
    fs::write(&path, conf("0.35")).unwrap();
    let before = tree(&root.path().join("meta"));
    assert_refused(root.path(), &open_stores(root.path()).unwrap_err());
    assert_eq!(tree(&root.path().join("meta")), before);
    fs::write(&path, conf("0.34")).unwrap();
    assert_read_by_the_newer(root.path(), &rows);

    let mut damaged = conf("0.35");
    damaged[0] ^= 1;
    fs::write(&path, damaged).unwrap();
    let incidents = open(root.path(), "meta").unwrap().incidents;
    assert_eq!(
        incidents.last().map(|incident| incident.rung),
        Some(Rung::Emptied)
    );
}

#[test]
fn the_log_of_small_commits_hands_over_what_a_newer_program_said() {
    let root = Scratch::new();
    let path = root.path().join("outbox.tail");
    let stores = || open(root.path(), "outbox").unwrap();
    {
        let mut newer = Tail::open(&path, stores().store, None).unwrap();
        let mut batch = Batch::new().put(Table::Device, "a", "1");
        batch.push_foreign(SMALL.to_vec(), Op::Put(Bytes::from_static(b"job")));
        batch.push_foreign(LARGE.to_vec(), Op::Put(large().into()));
        newer.commit(&batch).unwrap();
        let mut batch = Batch::new().put(Table::Device, "a", "2");
        batch.push_foreign(SMALL.to_vec(), Op::Put(Bytes::from_static(b"job 2")));
        batch.push_foreign(b"jobs\0gone".to_vec(), Op::Delete);
        newer.commit(&batch).unwrap();
    }
    assert!(fs::metadata(&path).unwrap().len() > 0, "it is in the log alone");
    let older = stores();
    assert_eq!(older.store.get(Table::Device, "a").unwrap().unwrap(), "2");
    let job = seal(SMALL, &super::envelope::Content::Inline("job 2".into()));
    assert_eq!(older.store.row(SMALL), Some(job.clone()));
    drop(older);
    let newer = stores();
    assert_eq!((newer.incidents, newer.store.row(SMALL)), (vec![], Some(job)));
    let large = unseal(LARGE, &newer.store.row(LARGE).unwrap()).unwrap();
    assert_eq!(large.names(), Some(blake3::hash(&self::large())));
}

#[test]
fn incidents_are_told_until_the_cluster_has_them() {
    let (root, _) = by_a_newer_program();
    drop(open_stores(root.path()).unwrap());
    let root = killed(&root);
    fs::remove_dir_all(root.path().join("objects/meta")).unwrap();
    // The start fails further on, after the database was repaired.
    let tail = root.path().join("outbox.tail");
    fs::remove_file(&tail).unwrap();
    fs::create_dir(&tail).unwrap();
    assert!(open_stores(root.path()).is_err());
    fs::remove_dir(&tail).unwrap();
    let rungs = |root: &Scratch| {
        // The writers of stores that were dropped may still be closing them.
        let root = killed(root);
        let incidents = open_stores(root.path()).unwrap().incidents;
        incidents.iter().map(|incident| incident.rung).collect::<Vec<_>>()
    };
    assert_eq!(rungs(&root), [Rung::Rows]);
    let stores = open_stores(root.path()).unwrap();
    assert_eq!(stores.incidents.len(), 1, "{:?}", stores.incidents);
    assert_eq!(rungs(&root), [Rung::Rows], "nobody has told it");
    stores.told().unwrap();
    assert_eq!(rungs(&root), []);
}
