//! What a short log must keep, whatever happens to its end.

mod damage;

use std::fs;

use proptest::prelude::*;

use super::super::{MemoryStore, suite::Scratch};
use super::*;

/// A database that outlives the log in front of it, as one on disk does.
#[derive(Clone, Default)]
struct Kept(Arc<parking_lot::Mutex<MemoryStore>>);

impl Store for Kept {
    fn get(&self, table: Table, key: &str) -> Result<Option<Bytes>, StoreError> {
        self.0.lock().get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<(String, Bytes)>, StoreError> {
        self.0.lock().scan(table, after, most)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.0.lock().commit(batch)
    }
}

fn tail(root: &Scratch, kept: &Kept) -> Tail<Kept> {
    Tail::open(&root.path().join("outbox.tail"), kept.clone(), None).unwrap()
}

fn one(key: &str, value: &str) -> Batch {
    Batch::new().put(Table::Device, key, value.to_owned())
}

fn rows(store: &impl Store) -> Vec<(String, Bytes)> {
    store.scan(Table::Device, None, 1000).unwrap()
}

#[test]
fn what_was_committed_is_there_after_a_kill_and_a_torn_end_costs_that_end_alone() {
    let root = Scratch::new();
    let path = root.path().join("outbox.tail");
    let long = "x".repeat(3000);
    let mut ends = vec![0];
    {
        let mut open = tail(&root, &Kept::default());
        for number in 0..8 {
            open.commit(&one(&format!("k{}", number % 5), &format!("{long}{number}")))
                .unwrap();
            ends.push(usize::try_from(open.len).unwrap());
        }
    }
    let whole = fs::read(&path).unwrap();
    for cut in 0..=whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let kept = Kept::default();
        let open = tail(&root, &kept);
        let complete = ends.iter().filter(|end| **end <= cut).count() - 1;
        let mut model = MemoryStore::new();
        for number in 0..complete {
            model
                .commit(&one(&format!("k{}", number % 5), &format!("{long}{number}")))
                .unwrap();
        }
        assert_eq!(rows(&open), rows(&model), "cut at {cut}");
        assert_eq!(rows(&kept), rows(&model), "it is in the database once it is open");
        assert_eq!(fs::read(&path).unwrap().len(), 0);
    }
}

#[test]
fn frames_of_an_earlier_life_of_the_file_are_not_taken_for_new_ones() {
    let root = Scratch::new();
    let path = root.path().join("outbox.tail");
    let kept = Kept::default();
    let mut open = tail(&root, &kept);
    for number in 0..4 {
        open.commit(&one("k", &format!("old {number}"))).unwrap();
    }
    let old = fs::read(&path).unwrap();
    open.fold().unwrap();
    open.commit(&one("k", "new 4")).unwrap();
    drop(open);
    // The power went before the shortening was on the disk, and after the new frame was.
    let mut mixed = fs::read(&path).unwrap();
    mixed.extend(&old[mixed.len()..]);
    fs::write(&path, mixed).unwrap();
    let open = tail(&root, &kept);
    assert_eq!(open.get(Table::Device, "k").unwrap().unwrap(), "new 4");
}

#[test]
fn a_batch_that_goes_past_the_log_leaves_no_frame_behind_it_for_a_power_cut_to_bring_back() {
    let (root, kept) = (Scratch::new(), Kept::default());
    let mut open = tail(&root, &kept);
    assert_eq!(open.lasting, 0);
    open.commit(&one("k", "old")).unwrap();
    assert!(open.lasting > 0);
    let new = "x".repeat(MOST_OF_BATCH + 1);
    open.commit(&one("k", &new)).unwrap();
    assert_eq!(rows(&kept).len(), 1, "it went past the log");
    assert_eq!(open.lasting, 0, "the shortening is on the disk as well");
    drop(open);
    assert_eq!(tail(&root, &kept).get(Table::Device, "k").unwrap().unwrap(), new);
}

#[test]
fn rounds_that_are_alike_cost_a_fraction_of_what_they_say() {
    let root = Scratch::new();
    let mut open = tail(&root, &Kept::default());
    let mut said = 0;
    for round in 0..50 {
        let mut batch = Batch::new();
        for device in 0..50 {
            let value = format!(
                r#"{{"twins":[{{"propertyName":"p0","reported":{{"value":"{round}","metadata":{{"timestamp":"17{round:011}","version":"{}","type":"string","quality":"good"}}}}}}],"state":"online"}}"#,
                round * 100 + device
            );
            said += value.len() as u64;
            batch.push(
                Table::Outbox,
                format!("{:020}", round * 50 + device),
                Op::Put(value.into()),
            );
            if round > 0 {
                batch.push(
                    Table::Outbox,
                    format!("{:020}", (round - 1) * 50 + device),
                    Op::Delete,
                );
            }
        }
        open.commit(&batch).unwrap();
    }
    assert!(open.len * 8 < said, "{} bytes for {said}", open.len);
    assert_eq!(open.pending.len(), 50, "what came and went is not held");
}

/// A database with a state of its own, to which something happens before each batch.
struct Before<T>(Kept, T, fn(&mut T) -> Result<(), StoreError>);

impl<T: Send> Store for Before<T> {
    fn get(&self, table: Table, key: &str) -> Result<Option<Bytes>, StoreError> {
        self.0.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<(String, Bytes)>, StoreError> {
        self.0.scan(table, after, most)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        (self.2)(&mut self.1)?;
        self.0.commit(batch)
    }
}

/// A database that takes so many batches more.
fn nearly_full(kept: &Kept, batches: usize) -> Before<usize> {
    Before(kept.clone(), batches, |left| {
        *left = left.checked_sub(1).ok_or(StoreError::Full {
            path: PathBuf::new(),
            free: 0,
        })?;
        Ok(())
    })
}

#[test]
fn a_full_disk_costs_nothing_that_was_committed_and_the_log_goes_on() {
    let (root, kept) = (Scratch::new(), Kept::default());
    let path = root.path().join("outbox.tail");
    tail(&root, &kept).commit(&one("a", "1")).unwrap();
    let mut open = Tail::open(&path, nearly_full(&kept, 0), None).unwrap();
    assert_eq!(open.get(Table::Device, "a").unwrap().unwrap(), "1");
    open.commit(&one("b", "2")).unwrap();
    drop(open);
    assert_eq!(rows(&tail(&root, &kept)).len(), 2);
    assert_eq!(rows(&kept).len(), 2);
}

#[test]
fn what_a_full_disk_let_half_through_can_still_be_deleted() {
    let (root, kept) = (Scratch::new(), Kept::default());
    let path = root.path().join("outbox.tail");
    let mut open = Tail::open(&path, nearly_full(&kept, 2), None).unwrap();
    for key in ["a", "b"] {
        open.commit(&one(key, &"x".repeat(200 * 1024))).unwrap();
    }
    // Two batches are due, and there is room for one.
    assert!(open.fold().unwrap_err().is_full());
    assert_eq!(rows(&kept).len(), 1);
    open.store.1 = usize::MAX;
    open.commit(&Batch::new().delete(Table::Device, "a")).unwrap();
    open.fold().unwrap();
    assert_eq!(rows(&kept).len(), 1);
    assert!(kept.get(Table::Device, "a").unwrap().is_none());
}

#[test]
fn each_batch_of_a_fold_is_a_step_of_its_own_for_whoever_watches() {
    let root = Scratch::new();
    let noted = (Pulse::default(), Vec::new());
    let kept = Before(Kept::default(), noted, |(pulse, steps)| {
        steps.push(pulse.step());
        Ok(())
    });
    let mut open = Tail::open(&root.path().join("outbox.tail"), kept, None).unwrap();
    open.store.1.1.clear();
    open.store.1.0 = open.pulse();
    open.pulse().turn();
    for key in ["a", "b", "c"] {
        open.commit(&one(key, &"x".repeat(200 * 1024))).unwrap();
    }
    let frames = open.pulse().step();
    open.commit(&one("k", &"x".repeat(MOST_OF_BATCH + 1))).unwrap();
    let mut steps = open.store.1.1.clone();
    assert_eq!(steps.len(), 4, "three that fold, and the large one");
    steps.push(frames);
    steps.sort_unstable();
    steps.dedup();
    assert_eq!(steps.len(), 5, "{steps:?}");
}

const JOB: &[u8] = b"jobs\0one";

/// What a newer program commits: something of ours, and something that is not known here.
fn newer(value: &str) -> Batch {
    let mut batch = one("k", value);
    batch.push_foreign(JOB.to_vec(), Op::Put(value.to_owned().into()));
    batch
}

fn job(kept: &Kept) -> Option<Bytes> {
    kept.0.lock().foreign(JOB).cloned()
}

#[test]
fn changes_of_tables_that_are_not_known_go_into_the_database_as_they_are() {
    let (root, kept) = (Scratch::new(), Kept::default());
    tail(&root, &kept).commit(&newer("1")).unwrap();
    assert_eq!(job(&kept), None);
    let mut open = tail(&root, &kept);
    assert_eq!(job(&kept).unwrap(), "1");
    open.commit(&newer("2")).unwrap();
    open.commit(&one("k", "3")).unwrap();
    drop(open);
    let mut open = tail(&root, &kept);
    assert_eq!(job(&kept).unwrap(), "2");
    assert_eq!(open.get(Table::Device, "k").unwrap().unwrap(), "3");
    let mut gone = Batch::new();
    gone.push_foreign(JOB.to_vec(), Op::Delete);
    open.commit(&gone).unwrap();
    drop(open);
    drop(tail(&root, &kept));
    assert_eq!(job(&kept), None);
}

#[test]
fn changes_of_tables_that_are_not_known_wait_for_room_like_all_others() {
    let (root, kept) = (Scratch::new(), Kept::default());
    let path = root.path().join("outbox.tail");
    tail(&root, &kept).commit(&newer("1")).unwrap();
    let mut open = Tail::open(&path, nearly_full(&kept, 0), None).unwrap();
    open.commit(&one("k", "2")).unwrap();
    drop(open);
    assert_eq!(job(&kept), None);
    let mut open = Tail::open(&path, nearly_full(&kept, 0), None).unwrap();
    open.store.1 = usize::MAX;
    open.fold().unwrap();
    assert_eq!(job(&kept).unwrap(), "1");
    assert_eq!(rows(&kept), [("k".to_owned(), Bytes::from_static(b"2"))]);
}

/// Frames that are whole, and that this program cannot have written.
fn frames_of_a_newer_program(number: u64) -> [(&'static str, Vec<u8>); 4] {
    let packed = |raw: &[u8]| zstd::bulk::compress(raw, LEVEL).unwrap();
    let mut merge = frame::encode(&Batch::new().delete(Table::Device, "k"));
    *merge.last_mut().unwrap() = 2;
    let kind = |kind, packed: &[u8]| frame::write(number, kind, packed).unwrap();
    [
        ("a kind of frame", kind(7, &packed(b""))),
        ("a kind of change", kind(PLAIN, &packed(&merge))),
        ("another packing", kind(PLAIN, b"not zstd at all")),
        ("a larger one", kind(PLAIN, &packed(&vec![0; 5 * MOST_OF_BATCH]))),
    ]
}

#[test]
fn at_a_whole_frame_that_cannot_be_understood_the_store_is_not_opened_and_nothing_is_cut() {
    let root = Scratch::new();
    let path = root.path().join("outbox.tail");
    let mut open = tail(&root, &Kept::default());
    open.commit(&one("k", "1")).unwrap();
    let (number, known) = (open.next, fs::read(&path).unwrap());
    drop(open);
    for (what, frame) in frames_of_a_newer_program(number) {
        let whole = [&known[..], &frame].concat();
        fs::write(&path, &whole).unwrap();
        let kept = Kept::default();
        for _ in 0..2 {
            let Err(error) = Tail::open(&path, kept.clone(), None) else {
                panic!("{what} was opened");
            };
            assert!(matches!(error, StoreError::Newer { .. }), "{what}: {error:?}");
            assert!(error.to_string().contains("run that one again"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), whole, "{what}");
        }
        // One that is not whole was never acknowledged, whatever it is.
        let mut torn = whole.clone();
        *torn.last_mut().unwrap() ^= 1;
        fs::write(&path, torn).unwrap();
        assert_eq!(tail(&root, &kept).get(Table::Device, "k").unwrap().unwrap(), "1");
    }
}

fn change() -> impl Strategy<Value = (u8, u8, Option<u16>)> {
    (0..2_u8, 0..12_u8, proptest::option::weighted(0.7, 0..3000_u16))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn with_a_log_in_front_it_is_the_same_store(
        batches in proptest::collection::vec((proptest::collection::vec(change(), 1..6), 0..6_u8), 1..20),
        page in 1..5_usize,
    ) {
        let (root, kept) = (Scratch::new(), Kept::default());
        let (mut open, mut model) = (tail(&root, &kept), MemoryStore::new());
        for (changes, then) in batches {
            let mut batch = Batch::new();
            for (table, key, len) in changes {
                let op = len.map_or(Op::Delete, |len| Op::Put(vec![key; len.into()].into()));
                batch.push([Table::Device, Table::Outbox][usize::from(table)], format!("k{key}"), op);
            }
            open.commit(&batch).unwrap();
            model.commit(&batch).unwrap();
            match then {
                0 => open.fold().unwrap(),
                1 => { drop(open); open = tail(&root, &kept); }
                _ => {}
            }
            for table in [Table::Device, Table::Outbox] {
                let (mut after, mut all) = (None::<String>, Vec::new());
                loop {
                    let rows = open.scan(table, after.as_deref(), page).unwrap();
                    let Some((last, _)) = rows.last() else { break };
                    after = Some(last.clone());
                    all.extend(rows);
                }
                prop_assert_eq!(all, model.scan(table, None, 1000).unwrap());
            }
            prop_assert_eq!(open.get(Table::Device, "k1").unwrap(), model.get(Table::Device, "k1").unwrap());
        }
    }
}
