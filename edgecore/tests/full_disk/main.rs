//! The store on a disk that others fill, or that becomes read-only.
//!
//! Each test runs once more, as a process in a mount namespace of its own, where a small file system is
//! mounted over an empty directory. Both are gone when that process ends, however it ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod read_only;

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use edgecore::store::{Batch, Db, StoreError, Stores, Table, open_stores};

/// The small disk: the ballast is a sixth of it.
const DISK: &str = "size=48m";
/// Where the disk is mounted, in the process that has it.
const MOUNTED: &str = "FULL_DISK";

/// Runs `test` on the small disk, in a process of its own that runs the test of this name alone.
fn on_a_small_disk(name: &str, test: impl FnOnce(&Disk)) {
    if let Some(dir) = env::var_os(MOUNTED) {
        return test(&Disk(dir.into()));
    }
    let dir = env::temp_dir().join(format!("tombolo-{name}-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let script = format!("mount -t tmpfs -o {DISK} tombolo \"${MOUNTED}\" && exec \"$@\"");
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(MOUNTED, &dir)
        .output()
        .unwrap_or_else(|error| panic!("unshare cannot be run ({error}); run: apt-get install util-linux"));
    fs::remove_dir(&dir).unwrap();
    let words = [output.stdout, output.stderr].concat();
    let words = String::from_utf8_lossy(&words);
    assert!(output.status.success(), "failed (mounting takes root): {words}");
    println!("{words}");
}

struct Disk(PathBuf);

impl Disk {
    fn root(&self) -> PathBuf {
        self.0.join("state")
    }

    fn ballast(&self) -> bool {
        self.root().join("ballast").exists()
    }

    /// Somebody else takes so much.
    fn take(&self, bytes: usize) {
        fs::write(self.0.join("others"), vec![0; bytes]).unwrap();
    }

    /// Somebody else takes everything that is left.
    fn fill(&self) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.0.join("others"))
            .unwrap();
        for len in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![0; len]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("others")).unwrap();
    }
}

/// Commits that were acknowledged.
#[derive(Default)]
struct Acknowledged(BTreeMap<String, Vec<u8>>);

impl Acknowledged {
    /// Commits one more row, and remembers it when it was acknowledged.
    fn commit(&mut self, db: &Db, len: usize) -> Result<(), StoreError> {
        let key = format!("k{:05}", self.0.len());
        let value = vec![u8::try_from(self.0.len() % 251).unwrap(); len];
        wait(db.commit(Batch::new().put(Table::Desired, key.clone(), value.clone())))?;
        self.0.insert(key, value);
        Ok(())
    }

    /// Commits until the disk is full.
    fn commit_until_full(&mut self, db: &Db) -> StoreError {
        for n in 0..100_000 {
            if let Err(error) = self.commit(db, if n % 4 == 0 { 30_000 } else { 900 }) {
                return error;
            }
        }
        panic!("the disk never filled");
    }

    /// Everything acknowledged is there; a batch whose commit failed may be.
    fn are_in(&self, rows: Vec<(String, bytes::Bytes)>) {
        let rows: BTreeMap<_, _> = rows
            .into_iter()
            .map(|(key, value)| (key, value.to_vec()))
            .collect();
        for (key, value) in &self.0 {
            assert_eq!(rows.get(key), Some(value), "{key} is not what was acknowledged");
        }
        assert!(rows.len() <= self.0.len() + 1);
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

fn rows(stores: &Stores) -> Vec<(String, bytes::Bytes)> {
    wait(stores.meta.scan(Table::Desired)).unwrap()
}

fn names_the_remedy(error: &StoreError) {
    assert!(error.is_full() && !error.breaks(), "{error:?}");
    assert!(error.to_string().contains("make room there"), "{error}");
}

#[test]
fn a_full_disk_refuses_commits_and_the_store_lives_on() {
    on_a_small_disk("a_full_disk_refuses_commits_and_the_store_lives_on", |disk| {
        let stores = open_stores(&disk.root()).unwrap();
        let mut acknowledged = Acknowledged::default();
        acknowledged.commit(&stores.meta, 100).unwrap();
        assert!(disk.ballast(), "there is room for the ballast");

        disk.take(20 << 20);
        names_the_remedy(&acknowledged.commit_until_full(&stores.meta));
        acknowledged.are_in(rows(&stores));
        disk.fill();
        for _ in 0..3 {
            names_the_remedy(&acknowledged.commit(&stores.meta, 10).unwrap_err());
            names_the_remedy(
                &wait(stores.outbox.commit(Batch::new().put(Table::Meta, "a", "b"))).unwrap_err(),
            );
        }
        acknowledged.are_in(rows(&stores));

        disk.make_room();
        let drop_most = acknowledged.0.keys().take(400).cloned().collect::<Vec<_>>();
        let before = acknowledged.0.len();
        for key in drop_most {
            // A delete needs room too, and there is some again.
            wait(
                stores
                    .meta
                    .commit(Batch::new().delete(Table::Desired, key.clone())),
            )
            .unwrap();
            acknowledged.0.remove(&key);
        }
        assert!(acknowledged.0.len() < before);
        acknowledged.are_in(rows(&stores));
    });
}

#[test]
fn a_store_opens_on_a_full_disk_with_the_room_of_its_ballast() {
    on_a_small_disk(
        "a_store_opens_on_a_full_disk_with_the_room_of_its_ballast",
        |disk| {
            let mut acknowledged = Acknowledged::default();
            let stores = open_stores(&disk.root()).unwrap();
            (0..200).for_each(|_| acknowledged.commit(&stores.meta, 2000).unwrap());
            drop(stores);

            disk.fill();
            assert!(disk.ballast());
            let stores = open_stores(&disk.root()).unwrap();
            assert!(!disk.ballast() && stores.incidents.is_empty());
            acknowledged.are_in(rows(&stores));
            names_the_remedy(&acknowledged.commit_until_full(&stores.meta));
            drop(stores);

            // Without a ballast nothing helps but room.
            disk.fill();
            names_the_remedy(&open_stores(&disk.root()).map(drop).unwrap_err());
            assert!(!disk.root().join("meta.quarantined").exists());
            disk.make_room();
            let stores = open_stores(&disk.root()).unwrap();
            assert_eq!(stores.incidents, []);
            acknowledged.are_in(rows(&stores));
            acknowledged.commit(&stores.meta, 100).unwrap();
            assert!(disk.ballast(), "it is made again");
        },
    );
}

#[test]
fn a_disk_that_fills_in_the_middle_of_a_commit_loses_nothing() {
    on_a_small_disk(
        "a_disk_that_fills_in_the_middle_of_a_commit_loses_nothing",
        |disk| {
            let stores = open_stores(&disk.root()).unwrap();
            let (mut acknowledged, mut refused) = (Acknowledged::default(), 0);
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        disk.fill();
                        disk.make_room();
                    }
                });
                for n in 0..400 {
                    match acknowledged.commit(&stores.meta, 200 + n * 7 % 3000) {
                        Ok(()) => {}
                        Err(error) => {
                            names_the_remedy(&error);
                            refused += 1;
                        }
                    }
                }
                over.store(true, Ordering::Relaxed);
            });
            println!("{} acknowledged, {refused} refused", acknowledged.0.len());
            acknowledged.commit(&stores.meta, 10).unwrap();
            acknowledged.are_in(rows(&stores));
            drop(stores);
            let stores = open_stores(&disk.root()).unwrap();
            acknowledged.are_in(rows(&stores));
        },
    );
}
