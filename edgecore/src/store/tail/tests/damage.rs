//! What a bad disk does to a short log costs what it hit, and is told.

use super::*;
use crate::store::Rung;

/// The file after `count` commits of one row each, and where each of them ends.
fn written(root: &Scratch, count: usize, value: impl Fn(usize) -> String) -> (Vec<u8>, Vec<usize>) {
    let (mut open, mut ends) = (tail(root, &Kept::default()), vec![0]);
    for number in 0..count {
        open.commit(&one(&format!("k{number}"), &value(number))).unwrap();
        ends.push(usize::try_from(open.len).unwrap());
    }
    (fs::read(log(root)).unwrap(), ends)
}

fn log(root: &Scratch) -> PathBuf {
    root.path().join("outbox.tail")
}

fn kept_aside(root: &Scratch) -> PathBuf {
    root.path().join("outbox.tail.quarantined")
}

fn keys(store: &impl Store) -> Vec<String> {
    rows(store).into_iter().map(|(key, _)| key).collect()
}

#[test]
fn any_flipped_bit_costs_its_commit_alone_and_is_told() {
    let root = Scratch::new();
    let (whole, ends) = written(&root, 4, |number| number.to_string());
    for at in 0..ends[3] {
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        fs::write(log(&root), &flipped).unwrap();
        let hit = ends.iter().filter(|end| **end <= at).count() - 1;
        let kept = Kept::default();
        let open = tail(&root, &kept);
        let expected: Vec<_> = (0..4).filter(|number| *number != hit).collect();
        let expected: Vec<_> = expected.iter().map(|number| format!("k{number}")).collect();
        assert_eq!(keys(&open), expected, "byte {at}");
        assert_eq!(keys(&kept), expected, "it is in the database once it is open");
        let told = open.found().unwrap();
        assert_eq!((told.rung, told.database.as_str()), (Rung::Log, "outbox"));
        assert!(told.detail.contains("; 1 commits or more are missing"), "{told}");
        assert_eq!(untold::load(&untold::path(&log(&root))), [told]);
        untold::clear(&untold::path(&log(&root))).unwrap();
        assert_eq!(
            fs::read(kept_aside(&root)).unwrap(),
            flipped,
            "it is kept to look at"
        );
        drop(open);
        let again = tail(&root, &kept);
        assert_eq!(
            (again.found(), keys(&again)),
            (None, expected),
            "it is repaired once"
        );
    }
}

#[test]
fn a_stretch_of_zeros_costs_what_lay_there_and_no_more() {
    let root = Scratch::new();
    let (mut whole, ends) = written(&root, 9, |number| "x".repeat(number));
    whole[ends[2] + 7..=ends[4]].fill(0);
    whole[ends[6]..ends[7]].fill(0);
    fs::write(log(&root), &whole).unwrap();
    let open = tail(&root, &Kept::default());
    assert_eq!(keys(&open), ["k0", "k1", "k5", "k7", "k8"]);
    let told = open.found().unwrap().detail;
    for part in [
        format!("in 2 places, the first at byte {}", ends[2]),
        "; 4 commits or more are missing".to_owned(),
        "kept as outbox.tail.quarantined".to_owned(),
    ] {
        assert!(told.contains(&part), "{part} not in {told}");
    }
}

#[test]
fn a_torn_end_is_no_damage() {
    let root = Scratch::new();
    let (whole, ends) = written(&root, 3, |number| number.to_string());
    fs::write(log(&root), &whole[..ends[3] - 1]).unwrap();
    let open = tail(&root, &Kept::default());
    assert_eq!((keys(&open).len(), open.found()), (2, None));
    assert!(!kept_aside(&root).exists());
}

#[test]
fn behind_a_torn_end_frames_whose_numbers_do_not_go_on_are_of_an_earlier_life() {
    let root = Scratch::new();
    let (whole, _) = written(&root, 2, |number| number.to_string());
    let next = u64::from_le_bytes(whole[4..12].try_into().unwrap()) + 2;
    let old = zstd::bulk::compress(&frame::encode(&one("old", "x")), LEVEL).unwrap();
    for number in [next - 1, next, next + 2, next + (1 << 24)] {
        let torn = vec![7; frame::HEAD + 1];
        let old = frame::write(number, PLAIN, &old).unwrap();
        fs::write(log(&root), [&whole[..], &torn, &old].concat()).unwrap();
        let open = tail(&root, &Kept::default());
        assert_eq!((keys(&open).len(), open.found()), (2, None), "{number}");
    }
}

#[test]
fn without_their_dictionary_frames_are_told_as_missing_and_the_store_opens() {
    let root = Scratch::new();
    let (mut whole, ends) = written(&root, 5, |number| format!("{number}").repeat(WORTH));
    whole[ends[1] - 1] ^= 1;
    fs::write(log(&root), &whole).unwrap();
    let kept = Kept::default();
    let mut open = tail(&root, &kept);
    assert_eq!(keys(&open), Vec::<String>::new());
    let told = open.found().unwrap().detail;
    assert!(told.contains("; 5 commits or more are missing"), "{told}");
    assert_eq!(fs::read(kept_aside(&root)).unwrap(), whole);
    open.commit(&one("k", "after")).unwrap();
    drop(open);
    assert_eq!(keys(&tail(&root, &kept)), ["k"]);
}

#[test]
fn on_a_full_disk_a_damaged_log_goes_on_until_there_is_room_to_put_it_aside() {
    let root = Scratch::new();
    let (mut whole, ends) = written(&root, 3, |number| number.to_string());
    whole[ends[1]] ^= 1;
    fs::write(log(&root), &whole).unwrap();
    let kept = Kept::default();
    let mut open = Tail::open(&log(&root), nearly_full(&kept, 0), None).unwrap();
    let told = open.found().unwrap();
    open.commit(&one("k", "after")).unwrap();
    drop(open);
    let mut open = Tail::open(&log(&root), nearly_full(&kept, 0), None).unwrap();
    assert_eq!(open.found(), Some(told.clone()), "the same words again");
    assert_eq!(untold::load(&untold::path(&log(&root))), [told]);
    assert!(!kept_aside(&root).exists());
    open.store.1 = usize::MAX;
    open.fold().unwrap();
    assert!(kept_aside(&root).exists());
    open.commit(&one("l", "last")).unwrap();
    drop(open);
    let open = tail(&root, &kept);
    assert_eq!((keys(&open).len(), open.found()), (4, None));
}

#[test]
fn at_a_later_kind_of_frame_behind_damage_the_store_is_not_opened_and_nothing_is_moved() {
    let root = Scratch::new();
    let (mut whole, ends) = written(&root, 3, |number| number.to_string());
    let number = u64::from_le_bytes(whole[4..12].try_into().unwrap());
    whole[ends[1]] ^= 1;
    whole.extend(frame::write(number + 3, 7, b"whatever").unwrap());
    fs::write(log(&root), &whole).unwrap();
    let Err(error) = Tail::open(&log(&root), Kept::default(), None) else {
        panic!("it was opened");
    };
    assert!(matches!(error, StoreError::Newer { .. }), "{error:?}");
    assert_eq!(fs::read(log(&root)).unwrap(), whole);
    assert!(!kept_aside(&root).exists());
}
