//! The store on a disk that becomes read-only.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use edgecore::store::{Rung, Thaw, open_stores_or_freeze};

use super::*;

/// How often a disk in use is tried again.
const TRIES: u32 = 400;
const PAUSE: Duration = Duration::from_millis(50);

impl Disk {
    /// What the kernel does to a file system that it does not trust. Threads of a store that was closed may still
    /// hold a file for a moment.
    fn remount(&self, how: &str) {
        let mut words = String::new();
        for _ in 0..TRIES {
            let mut mount = Command::new("mount");
            let mount = mount.args(["-o", &format!("remount,{how}")]).arg(&self.0);
            let output = mount.output().unwrap();
            if output.status.success() {
                return;
            }
            words = String::from_utf8_lossy(&output.stderr).into_owned();
            thread::sleep(PAUSE);
        }
        panic!("{words}");
    }

    /// Of what others took, so much is free again.
    fn give_back(&self, bytes: u64) {
        let others = File::options().write(true).open(self.0.join("others")).unwrap();
        others.set_len(others.metadata().unwrap().len() - bytes).unwrap();
    }

    /// A directory on a file system of its own, as /run is.
    fn scratch(&self, size: &str) -> PathBuf {
        let dir = self.0.join(format!("run-{size}"));
        fs::create_dir(&dir).unwrap();
        let mut mount = Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tombolo"]);
        assert!(mount.arg(&dir).status().unwrap().success());
        dir
    }
}

fn opened(disk: &Disk, scratch: &Path) -> Stores {
    let stores = open_stores_or_freeze(&disk.root(), &[scratch.to_owned()]).unwrap();
    assert_eq!(files(scratch), BTreeMap::new(), "no copy is left");
    stores
}

/// Every file below a directory, with what is in it.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

fn keys(db: &Db, table: Table) -> Vec<String> {
    let rows = wait(db.scan(table)).unwrap();
    rows.into_iter().map(|(key, _)| key).collect()
}

fn put(db: &Db, table: Table, key: &str) -> Result<(), StoreError> {
    wait(db.commit(Batch::new().put(table, key, vec![7; 30_000])))
}

fn delete(db: &Db, table: Table, key: &str) -> Result<(), StoreError> {
    wait(db.commit(Batch::new().delete(table, key)))
}

fn is_refused(answer: Result<(), StoreError>) {
    let error = answer.unwrap_err();
    assert!(error.wrote_nothing() && !error.breaks(), "{error:?}");
    assert!(error.to_string().contains("or replace it"), "{error}");
}

/// A node's store with a few rows, and its disk read-only since.
fn left(disk: &Disk) {
    let stores = open_stores(&disk.root()).unwrap();
    for key in ["a", "b", "c"] {
        put(&stores.meta, Table::Desired, key).unwrap();
    }
    put(&stores.outbox, Table::Outbox, "1").unwrap();
    drop(stores);
    disk.remount("ro");
}

/// The same, opened.
fn frozen(disk: &Disk) -> Stores {
    let scratch = disk.scratch("64m");
    left(disk);
    opened(disk, &scratch)
}

#[test]
fn a_read_only_disk_is_read_and_no_promise_is_made_on_it() {
    let name = "read_only::a_read_only_disk_is_read_and_no_promise_is_made_on_it";
    on_a_small_disk(name, |disk| {
        let scratch = disk.scratch("64m");
        let stores = opened(disk, &scratch);
        assert!(stores.frozen().is_none());
        drop(stores);
        left(disk);
        let before = files(&disk.root());
        for _ in 0..2 {
            let stores = opened(disk, &scratch);
            let trouble = stores.frozen().unwrap().to_string();
            assert!(
                trouble.contains("is read-only") && trouble.contains("dmesg"),
                "{trouble}"
            );
            assert_eq!(keys(&stores.meta, Table::Desired), ["a", "b", "c"]);
            assert_eq!(keys(&stores.outbox, Table::Outbox), ["1"]);

            // The cluster says it again; nobody else would.
            put(&stores.meta, Table::Desired, "d").unwrap();
            delete(&stores.meta, Table::Desired, "a").unwrap();
            assert_eq!(keys(&stores.meta, Table::Desired), ["b", "c", "d"]);
            is_refused(put(&stores.meta, Table::ImagePull, "x"));
            for table in [
                Table::Outbox,
                Table::Event,
                Table::PodState,
                Table::Device,
                Table::Mapper,
            ] {
                is_refused(put(&stores.outbox, table, "x"));
                is_refused(delete(&stores.outbox, table, "1"));
            }
            let half = Batch::new().put(Table::Meta, "x", "").put(Table::Outbox, "x", "");
            is_refused(wait(stores.outbox.commit(half)));
            assert_eq!(keys(&stores.outbox, Table::Outbox), ["1"]);
            assert_eq!(keys(&stores.outbox, Table::Meta), ["epoch"]);

            assert_eq!(wait(stores.thaw()).unwrap(), Thaw::ReadOnly);
            assert!(stores.frozen().is_some());
            let other = open_stores_or_freeze(&disk.root(), std::slice::from_ref(&scratch)).map(drop);
            assert!(matches!(other, Err(StoreError::InUse { .. })), "{other:?}");
            drop(stores);
        }
        assert!(files(&disk.root()) == before, "the disk is as it was");
    });
}

#[test]
fn a_disk_that_can_be_written_again_has_what_changed_meanwhile() {
    let name = "read_only::a_disk_that_can_be_written_again_has_what_changed_meanwhile";
    on_a_small_disk(name, |disk| {
        let stores = frozen(disk);
        put(&stores.meta, Table::Desired, "d").unwrap();
        delete(&stores.meta, Table::Desired, "a").unwrap();
        // More than one batch of the disk.
        let mut many = Batch::new();
        for number in 0..400 {
            many = many.put(Table::Absent, number.to_string(), vec![1; 1000]);
        }
        wait(stores.meta.commit(many)).unwrap();

        disk.remount("rw");
        fs::remove_file(disk.root().join("ballast")).unwrap_or_default();
        // No room to open it; and room to open it, but not for what changed.
        for free in [0, 4_500_000] {
            disk.fill();
            disk.give_back(free);
            let thaw = async {
                // Others are refused at the same time.
                let change = || stores.meta.commit(Batch::new().put(Table::ImagePull, "x", ""));
                tokio::join!(change(), change(), stores.thaw(), change(), change())
            };
            let (before, _, thawed, _, after) = wait(thaw);
            assert_eq!(thawed.unwrap(), Thaw::Failed);
            is_refused(before);
            is_refused(after);
            assert!(stores.frozen().is_some(), "there is no room for it");
            is_refused(put(&stores.outbox, Table::Outbox, "2"));
        }

        disk.make_room();
        assert_eq!(wait(stores.thaw()).unwrap(), Thaw::Done);
        assert!(stores.frozen().is_none());
        put(&stores.outbox, Table::Outbox, "2").unwrap();
        delete(&stores.outbox, Table::Outbox, "1").unwrap();
        put(&stores.meta, Table::ImagePull, "x").unwrap();
        for _ in 0..2 {
            assert_eq!(keys(&stores.meta, Table::Desired), ["b", "c", "d"]);
            assert_eq!(keys(&stores.meta, Table::Absent).len(), 400);
            assert_eq!(keys(&stores.outbox, Table::Outbox), ["2"]);
        }
        drop(stores);
        let stores = open_stores(&disk.root()).unwrap();
        assert_eq!(stores.incidents, []);
        assert_eq!(keys(&stores.meta, Table::Desired), ["b", "c", "d"]);
        assert_eq!(keys(&stores.meta, Table::Absent).len(), 400);
        assert_eq!(keys(&stores.meta, Table::ImagePull), ["x"]);
        assert_eq!(keys(&stores.outbox, Table::Outbox), ["2"]);
    });
}

#[test]
fn nobody_waits_for_a_disk_that_takes_long_to_open() {
    let name = "read_only::nobody_waits_for_a_disk_that_takes_long_to_open";
    on_a_small_disk(name, |disk| {
        let stores = frozen(disk);
        disk.remount("rw");
        // It is read until the other end is closed.
        let format = disk.root().join("format");
        assert!(Command::new("mkfifo").arg(&format).status().unwrap().success());
        thread::scope(|scope| {
            let thaw = scope.spawn(|| wait(stores.thaw()));
            let mut end = File::options().write(true).open(&format).unwrap();
            let (done, put_meanwhile) = mpsc::channel();
            let meta = &stores.meta;
            scope.spawn(move || done.send(put(meta, Table::Desired, "d")).unwrap());
            let taken = put_meanwhile.recv_timeout(TRIES * PAUSE);
            fs::remove_file(&format).unwrap();
            end.write_all(b"1").unwrap();
            drop(end);
            taken.expect("it is taken in meanwhile").unwrap();
            thaw.join().unwrap().unwrap();
        });
        assert!(stores.frozen().is_none());
        drop(stores);
        let stores = open_stores(&disk.root()).unwrap();
        assert_eq!(keys(&stores.meta, Table::Desired), ["a", "b", "c", "d"]);
    });
}

#[test]
fn what_was_taken_in_memory_never_goes_over_another_store() {
    let name = "read_only::what_was_taken_in_memory_never_goes_over_another_store";
    on_a_small_disk(name, |disk| {
        let stores = frozen(disk);
        delete(&stores.meta, Table::Desired, "a").unwrap();
        disk.remount("rw");
        // Somebody puts another card in.
        fs::remove_file(disk.root().join("lock")).unwrap();
        let other = open_stores(&disk.root()).unwrap();
        put(&other.meta, Table::Desired, "e").unwrap();
        drop(other);

        let error = wait(stores.thaw()).unwrap_err();
        assert!(
            matches!(error, StoreError::Moved { .. }) && error.breaks(),
            "{error}"
        );
        assert!(matches!(
            put(&stores.meta, Table::Desired, "f"),
            Err(StoreError::Stopped)
        ));
        drop(stores);
        let stores = open_stores(&disk.root()).unwrap();
        assert_eq!(keys(&stores.meta, Table::Desired), ["a", "b", "c", "e"]);
    });
}

#[test]
fn without_room_for_a_copy_nothing_is_touched_and_the_places_are_named() {
    let name = "read_only::without_room_for_a_copy_nothing_is_touched_and_the_places_are_named";
    on_a_small_disk(name, |disk| {
        let (small, large) = (disk.scratch("64k"), disk.scratch("64m"));
        left(disk);
        let before = files(&disk.root());
        // The disk itself is no place either.
        let places = [small.clone(), disk.root()];
        let error = open_stores_or_freeze(&disk.root(), &places)
            .map(drop)
            .unwrap_err();
        let told = error.to_string();
        assert!(error.is_full() && told.contains("make room"), "{told}");
        assert!(
            places
                .iter()
                .all(|place| told.contains(&*place.to_string_lossy())),
            "{told}"
        );
        assert!(files(&disk.root()) == before && files(&small).is_empty());

        let stores = open_stores_or_freeze(&disk.root(), &[small, large.clone()]).unwrap();
        assert_eq!(keys(&stores.meta, Table::Desired), ["a", "b", "c"]);
        assert!(files(&large).is_empty());
    });
}

#[test]
fn what_is_damaged_is_told_and_left_to_a_disk_that_can_be_written() {
    let name = "read_only::what_is_damaged_is_told_and_left_to_a_disk_that_can_be_written";
    on_a_small_disk(name, |disk| {
        let scratch = disk.scratch("64m");
        left(disk);
        disk.remount("rw");
        // All three rows have the same contents.
        fs::remove_dir_all(disk.root().join("objects/meta")).unwrap();
        disk.remount("ro");
        let before = files(&disk.root());
        let stores = opened(disk, &scratch);
        assert_eq!(stores.incidents.len(), 1, "{:?}", stores.incidents);
        assert!(keys(&stores.meta, Table::Desired).is_empty());
        assert!(files(&disk.root()) == before);
        put(&stores.meta, Table::Desired, "d").unwrap();
        disk.remount("rw");
        wait(stores.thaw()).unwrap();
        assert!(stores.frozen().is_none());
        drop(stores);
        // Whoever opens it next tells what was done.
        let stores = open_stores(&disk.root()).unwrap();
        assert_eq!(stores.incidents.len(), 1);
        assert_eq!(keys(&stores.meta, Table::Desired), ["d"]);
    });
}

#[test]
fn a_database_that_was_lost_is_gone_on_with_as_well() {
    let name = "read_only::a_database_that_was_lost_is_gone_on_with_as_well";
    on_a_small_disk(name, |disk| {
        let scratch = disk.scratch("64m");
        left(disk);
        disk.remount("rw");
        fs::write(disk.root().join("meta/conf"), "garbage that is no configuration").unwrap();
        disk.remount("ro");
        let stores = opened(disk, &scratch);
        let rungs: Vec<_> = stores.incidents.iter().map(|incident| incident.rung).collect();
        assert_eq!(rungs, [Rung::Snapshots, Rung::Emptied]);
        put(&stores.meta, Table::Desired, "d").unwrap();
        disk.remount("rw");
        // It is repaired once more there, and has another epoch than any before.
        assert_eq!(wait(stores.thaw()).unwrap(), Thaw::Done);
        assert!(stores.frozen().is_none());
        drop(stores);
        let stores = open_stores(&disk.root()).unwrap();
        assert_eq!(keys(&stores.meta, Table::Desired), ["d"]);
        assert_eq!(keys(&stores.outbox, Table::Outbox), ["1"]);
    });
}

#[test]
fn a_read_only_disk_without_a_store_is_no_empty_store() {
    let name = "read_only::a_read_only_disk_without_a_store_is_no_empty_store";
    on_a_small_disk(name, |disk| {
        let scratch = disk.scratch("64m");
        disk.remount("ro");
        let error = open_stores_or_freeze(&disk.root(), &[scratch])
            .map(drop)
            .unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "{error}");
    });
}

/// A disk with a real file system, which can be made to fail while it is written to.
fn failing(disk: &Disk) -> Disk {
    let (image, at) = (disk.0.join("image"), disk.0.join("failing"));
    File::create(&image).unwrap().set_len(40 << 20).unwrap();
    fs::create_dir(&at).unwrap();
    let script = "mkfs.ext4 -q \"$0\" && mount -o loop,errors=remount-ro \"$0\" \"$1\"";
    let mut shell = Command::new("sh");
    let made = shell.args(["-c", script]).args([&image, &at]).status().unwrap();
    assert!(
        made.success(),
        "it takes a loop device and e2fsprogs (modprobe loop; apt-get install e2fsprogs)"
    );
    Disk(at)
}

impl Disk {
    /// The kernel finds the file system damaged, and takes no more writes.
    fn fail(&self) {
        let script =
            "echo failing > \"/sys/fs/ext4/$(basename $(findmnt -no SOURCE \"$0\"))/trigger_fs_error\"";
        let told = Command::new("sh").args(["-c", script]).arg(&self.0).status();
        assert!(told.unwrap().success());
    }
}

#[test]
fn a_disk_that_fails_under_a_running_store_costs_nothing_that_was_kept() {
    let name = "read_only::a_disk_that_fails_under_a_running_store_costs_nothing_that_was_kept";
    on_a_small_disk(name, |disk| {
        let disk = failing(disk);
        let scratch = env::temp_dir().join(format!("tombolo-scratch-{}", std::process::id()));
        fs::create_dir(&scratch).unwrap();
        let mut acknowledged = Acknowledged::default();
        let stores = opened(&disk, &scratch);
        for len in [10, 3000, 30_000, 10] {
            acknowledged.commit(&stores.meta, len).unwrap();
        }
        put(&stores.outbox, Table::Outbox, "1").unwrap();
        disk.fail();
        for (db, table) in [(&stores.meta, Table::Desired), (&stores.outbox, Table::Outbox)] {
            assert!(
                put(db, table, "after").unwrap_err().breaks(),
                "the store is opened anew"
            );
        }
        drop(stores);
        for _ in 0..2 {
            let stores = opened(&disk, &scratch);
            assert!(stores.frozen().is_some());
            assert_eq!(stores.incidents, []);
            assert_eq!(keys(&stores.outbox, Table::Outbox), ["1"]);
            acknowledged.are_in(rows(&stores));
            put(&stores.meta, Table::Desired, "after").unwrap();
            wait(stores.thaw()).unwrap();
            assert!(stores.frozen().is_some());
        }
        fs::remove_dir(&scratch).unwrap();
    });
}
