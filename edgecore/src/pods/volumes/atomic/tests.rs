//! Names, modes, owners and any history of payloads, on a real disk.

use std::os::unix::fs::{MetadataExt as _, symlink};

use nix::mount::MsFlags;
use proptest::prelude::*;

use super::super::mounts;
use super::super::testing::{Scratch, is_root};
use super::*;

fn payload(files: &[(&str, &str)]) -> Payload {
    let file = |text: &str| PayloadFile {
        bytes: text.as_bytes().to_vec(),
        mode: 0o644,
        uid: None,
    };
    files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), file(text)))
        .collect()
}

/// What a container sees: every visible path and its text.
fn seen(volume: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    collect(volume, "", &mut files);
    files
}

fn collect(dir: &Path, prefix: &str, files: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if prefix.is_empty() && name.starts_with("..") {
            continue;
        }
        let path = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}/{name}")
        };
        if std::fs::metadata(entry.path()).unwrap().is_dir() {
            collect(&entry.path(), &path, files);
        } else {
            files.insert(path, std::fs::read_to_string(entry.path()).unwrap());
        }
    }
}

fn texts(payload: &Payload) -> BTreeMap<String, String> {
    let text = |file: &PayloadFile| String::from_utf8(file.bytes.clone()).unwrap();
    payload
        .iter()
        .map(|(path, file)| (path.clone(), text(file)))
        .collect()
}

fn machinery(volume: &Path) -> usize {
    let names = std::fs::read_dir(volume)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.as_bytes().starts_with(b"..")).count()
}

#[test]
fn names_that_could_leave_the_volume_are_refused_before_the_disk_is_touched() {
    let scratch = Scratch::new("atomic-names");
    let too_long = "x".repeat(256);
    let too_deep = "a/".repeat(2100) + "b";
    for bad in [
        "",
        "/",
        ".",
        "..",
        "../x",
        "../../etc/x",
        "a/../b",
        "a/..",
        "/etc/x",
        "..data",
        "..x/y",
        "a\0b",
        &too_long,
        &too_deep,
    ] {
        let error = write(scratch.path(), &payload(&[("good", "1"), (bad, "2")]), None).unwrap_err();
        assert!(matches!(error, WriteError::Path { .. }), "{bad:?}: {error}");
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "{bad:?}");
    }
    assert!(write(scratch.path(), &payload(&[("a", "1"), ("a/b", "2")]), None).is_err());
    for good in ["a", ".hidden", "a/b/c", "a//b", "./a", "a..b", "a/..b"] {
        validate(good).unwrap();
    }
}

#[test]
fn equal_content_writes_nothing_and_other_content_replaces_all_at_once() {
    let scratch = Scratch::new("atomic-change");
    let first = payload(&[("a", "1"), ("dir/b", "2")]);
    assert!(write(scratch.path(), &first, None).unwrap());
    let stamp = std::fs::read_link(scratch.path().join("..data")).unwrap();
    assert!(!write(scratch.path(), &first, None).unwrap());
    assert_eq!(std::fs::read_link(scratch.path().join("..data")).unwrap(), stamp);

    let second = payload(&[("a", "1"), ("c", "3")]);
    assert!(write(scratch.path(), &second, None).unwrap());
    assert_eq!(seen(scratch.path()), texts(&second));
    assert_eq!(machinery(scratch.path()), 2);
    assert!(!scratch.path().join(stamp).exists());
    assert!(std::fs::symlink_metadata(scratch.path().join("dir")).is_err());
}

#[test]
fn a_write_for_which_there_is_no_room_leaves_nothing_and_takes_nothing_from_the_container() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new("atomic-full");
    mounts::ensure_tmpfs(scratch.path(), MsFlags::empty(), "size=128k").unwrap();
    let (small, large) = (payload(&[("a", "1")]), "x".repeat(1 << 20));
    write(scratch.path(), &small, None).unwrap();
    for _ in 0..3 {
        write(scratch.path(), &payload(&[("b", "2"), ("c", &large)]), None).unwrap_err();
        assert_eq!(machinery(scratch.path()), 2);
        assert_eq!(seen(scratch.path()), texts(&small));
    }
}

#[test]
fn what_a_write_that_was_cut_short_left_makes_room_for_the_next() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new("atomic-room");
    mounts::ensure_tmpfs(scratch.path(), MsFlags::empty(), "size=128k").unwrap();
    write(scratch.path(), &payload(&[("a", "1")]), None).unwrap();
    let left = scratch.path().join("..2026_01_01_00_00_00.7");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("a"), "x".repeat(80 << 10)).unwrap();
    let next = payload(&[("a", &"y".repeat(60 << 10))]);
    write(scratch.path(), &next, None).unwrap();
    assert_eq!(seen(scratch.path()), texts(&next));
    assert_eq!(machinery(scratch.path()), 2);
}

#[test]
fn a_changed_mode_is_a_change() {
    let scratch = Scratch::new("atomic-mode");
    let mut files = payload(&[("a", "1")]);
    write(scratch.path(), &files, None).unwrap();
    files.get_mut("a").unwrap().mode = 0o400;
    assert!(write(scratch.path(), &files, None).unwrap());
    assert_eq!(
        std::fs::metadata(scratch.path().join("a")).unwrap().mode() & 0o777,
        0o400
    );
}

#[test]
fn files_belong_to_the_group_of_the_pod() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new("atomic-group");
    let mut files = payload(&[("d/a", "1")]);
    files.get_mut("d/a").unwrap().mode = 0o600;
    files.get_mut("d/a").unwrap().uid = Some(1234);
    write(scratch.path(), &files, Some(2000)).unwrap();
    assert!(!write(scratch.path(), &files, Some(2000)).unwrap());
    let file = std::fs::metadata(scratch.path().join("d/a")).unwrap();
    assert_eq!(
        (file.uid(), file.gid(), file.mode() & 0o7777),
        (1234, 2000, 0o640)
    );
    let dir = std::fs::metadata(scratch.path().join("d")).unwrap();
    assert_eq!((dir.gid(), dir.mode() & 0o7777), (2000, 0o2755));
}

#[test]
fn what_a_pod_put_in_the_way_is_replaced_and_never_followed() {
    let scratch = Scratch::new("atomic-attack");
    let outside = scratch.path().join("outside");
    let volume = scratch.path().join("volume");
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::create_dir_all(&volume).unwrap();
    std::fs::write(outside.join("a"), "precious").unwrap();
    symlink(&outside, volume.join("..data")).unwrap();
    symlink(outside.join("a"), volume.join("..data_tmp")).unwrap();
    symlink(outside.join("a"), volume.join("a")).unwrap();
    symlink(&outside, volume.join("..2020_01_01.1")).unwrap();

    let files = payload(&[("a", "1")]);
    write(&volume, &files, None).unwrap();

    assert_eq!(seen(&volume), texts(&files));
    assert_eq!(std::fs::read_to_string(outside.join("a")).unwrap(), "precious");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn a_volume_that_is_a_link_is_not_written_to() {
    let scratch = Scratch::new("atomic-volume-link");
    let outside = scratch.path().join("outside");
    std::fs::create_dir_all(&outside).unwrap();
    symlink(&outside, scratch.path().join("volume")).unwrap();
    assert!(write(&scratch.path().join("volume"), &payload(&[("a", "1")]), None).is_err());
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

fn some_payload() -> impl Strategy<Value = Payload> {
    let path = prop::sample::select(vec!["a", "b", ".c", "d/a", "d/b", "e/f/g", "e/h", "i"]);
    let file = ("[xyz]{0,3}", prop::sample::select(vec![0o644_u32, 0o600, 0o440]));
    prop::collection::btree_map(path, file, 0..6).prop_map(|files| {
        let file = |(text, mode): (String, u32)| PayloadFile {
            bytes: text.into_bytes(),
            mode,
            uid: None,
        };
        files
            .into_iter()
            .map(|(path, content)| (path.to_owned(), file(content)))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn after_any_history_a_container_sees_exactly_the_last_payload(history in prop::collection::vec(some_payload(), 1..6)) {
        let scratch = Scratch::new("atomic-history");
        let mut before: Option<Payload> = None;
        for next in &history {
            let changed = write(scratch.path(), next, None).unwrap();
            prop_assert_eq!(changed, before.as_ref() != Some(next));
            prop_assert_eq!(seen(scratch.path()), texts(next));
            prop_assert_eq!(machinery(scratch.path()), 2);
            before = Some(next.clone());
        }
    }

    #[test]
    fn a_valid_path_never_climbs(path in "[a./]{0,12}") {
        if let Ok(elements) = validate(&path) {
            prop_assert!(!elements.contains(&"..") && !elements[0].starts_with("..") && !path.starts_with('/'));
        }
    }
}
