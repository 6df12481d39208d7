//! The store on a disk that becomes read-only.

use std::path::Path;
use std::time::Duration;

use edgecore::store::{Rung, open_stores_or_copy};

use super::*;

/// How often a disk in use is tried again.
const TRIES: u32 = 400;
const PAUSE: Duration = Duration::from_millis(50);

impl Disk {
    /// What the kernel does to a file system that it does not trust. Threads of a store that was closed may
    /// still hold a file for a moment.
    fn remount(&self, how: &str) {
        let mut words = String::new();
        for _ in 0..TRIES {
            let mut mount = Command::new("mount");
            let output = mount
                .args(["-o", &format!("remount,{how}")])
                .arg(&self.0)
                .output();
            let output = output.unwrap();
            if output.status.success() {
                return;
            }
            words = String::from_utf8_lossy(&output.stderr).into_owned();
            thread::sleep(PAUSE);
        }
        panic!("{words}");
    }
}

/// A place outside of the disk, as /run is, which is gone when the test is.
struct Run(PathBuf);

impl Run {
    fn beside(disk: &Disk) -> Self {
        Self(disk.0.with_extension("run"))
    }

    fn refuge(&self) -> PathBuf {
        self.0.join("store")
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn opened(disk: &Disk, refuge: &Path) -> Stores {
    open_stores_or_copy(&disk.root(), refuge).unwrap()
}

fn is_told(stores: &Stores) -> bool {
    let mut rungs = stores.incidents.iter().map(|incident| incident.rung);
    rungs.any(|rung| rung == Rung::ReadOnly)
}

fn said(stores: &Stores) -> Vec<String> {
    let rows = wait(stores.outbox.scan(Table::Outbox)).unwrap();
    rows.into_iter().map(|(key, _)| key).collect()
}

fn say(stores: &Stores, batch: Batch) {
    wait(stores.outbox.commit(batch)).unwrap();
}

#[test]
fn on_a_read_only_disk_the_store_goes_on_in_memory_and_comes_back() {
    on_a_small_disk(
        "read_only::on_a_read_only_disk_the_store_goes_on_in_memory_and_comes_back",
        |disk| {
            let run = Run::beside(disk);
            let refuge = run.refuge();
            let stores = opened(disk, &refuge);
            let mut acknowledged = Acknowledged::default();
            for len in [10, 2000, 30_000] {
                acknowledged.commit(&stores.meta, len).unwrap();
            }
            say(&stores, Batch::new().put(Table::Outbox, "1", "x"));
            assert!(!is_told(&stores) && !refuge.exists());
            drop(stores);

            disk.remount("ro");
            let stores = opened(disk, &refuge);
            assert!(is_told(&stores), "{:?}", stores.incidents);
            assert_eq!(said(&stores), ["1"]);
            acknowledged.are_in(rows(&stores));
            for len in [20, 3000, 40_000] {
                acknowledged.commit(&stores.meta, len).unwrap();
            }
            say(
                &stores,
                Batch::new()
                    .put(Table::Outbox, "2", "x")
                    .delete(Table::Outbox, "1"),
            );
            drop(stores);

            // The agent starts once more, as read-only as before: nothing is lost.
            let stores = opened(disk, &refuge);
            assert!(is_told(&stores));
            assert_eq!(said(&stores), ["2"]);
            acknowledged.are_in(rows(&stores));
            acknowledged.commit(&stores.meta, 50_000).unwrap();
            let gone = acknowledged.0.pop_first().unwrap().0;
            wait(
                stores
                    .meta
                    .commit(Batch::new().delete(Table::Desired, gone.clone())),
            )
            .unwrap();
            drop(stores);

            disk.remount("rw");
            for _ in 0..2 {
                let stores = opened(disk, &refuge);
                assert!(!is_told(&stores) && !refuge.exists());
                assert_eq!(said(&stores), ["2"]);
                let rows = rows(&stores);
                assert!(
                    rows.iter().all(|(key, _)| *key != gone),
                    "what was deleted stays so"
                );
                acknowledged.are_in(rows);
            }
        },
    );
}

#[test]
fn a_copy_waits_in_memory_until_its_disk_has_room_for_it() {
    on_a_small_disk(
        "read_only::a_copy_waits_in_memory_until_its_disk_has_room_for_it",
        |disk| {
            let run = Run::beside(disk);
            let refuge = run.refuge();
            let mut acknowledged = Acknowledged::default();
            let stores = opened(disk, &refuge);
            acknowledged.commit(&stores.meta, 10).unwrap();
            drop(stores);
            disk.remount("ro");
            let stores = opened(disk, &refuge);
            // More than the ballast's room.
            (0..12).for_each(|_| acknowledged.commit(&stores.meta, 1_000_000).unwrap());
            drop(stores);

            disk.remount("rw");
            disk.fill();
            let stores = opened(disk, &refuge);
            assert!(is_told(&stores) && refuge.exists());
            acknowledged.are_in(rows(&stores));
            acknowledged.commit(&stores.meta, 10).unwrap();
            drop(stores);

            disk.make_room();
            let stores = opened(disk, &refuge);
            assert!(!is_told(&stores) && !refuge.exists());
            acknowledged.are_in(rows(&stores));
        },
    );
}

#[test]
fn where_the_copy_has_no_room_the_read_only_disk_is_named() {
    on_a_small_disk(
        "read_only::where_the_copy_has_no_room_the_read_only_disk_is_named",
        |disk| {
            let run = Run::beside(disk);
            let refuge = run.refuge();
            drop(opened(disk, &refuge));
            // Nobody has so much memory to give: the file is long, and takes nothing.
            let log = File::options()
                .write(true)
                .open(disk.root().join("outbox.tail"))
                .unwrap();
            log.set_len(80 << 20).unwrap();
            drop(log);
            disk.remount("ro");
            let error = open_stores_or_copy(&disk.root(), &refuge).map(drop).unwrap_err();
            assert!(error.to_string().contains("whose disk is read-only"), "{error}");
            assert!(!refuge.exists());
        },
    );
}
