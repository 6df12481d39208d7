//! Logs in a directory, and a runtime that only counts what it is told.

use std::io::Read as _;

use super::*;
use crate::pods::volumes::testing::Scratch;
use crate::runtime::fake::FakeRuntime;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn the_oldest_go_the_rest_are_compressed_and_leftovers_are_removed() {
    let there = [
        "0.log.20260103-000000",
        "0.log.20260101-000000.gz",
        "0.log.20260102-000000.gz",
        "0.log.20260102-000000",
        "0.log.20260103-000000.gz.tmp",
        "0.log.20251231-000000.gz",
    ];
    let plan = Tidy::plan(names(&there), 5);
    let removed = [
        "0.log.20260102-000000",
        "0.log.20260103-000000.gz.tmp",
        "0.log.20251231-000000.gz",
    ];
    assert_eq!(plan.remove, removed);
    assert_eq!(plan.compress, ["0.log.20260103-000000"]);
}

struct Place {
    dir: Scratch,
    rotation: Rotation,
    runtime: Arc<FakeRuntime>,
}

impl Place {
    fn new() -> Self {
        let dir = Scratch::new("logs");
        let runtime = Arc::new(FakeRuntime::default());
        let rotation = Rotation {
            runtime: runtime.clone(),
            log_dir: dir.path().to_owned(),
            limits: Limits { size: 10, files: 3 },
            clock: Clock::system(),
        };
        Self {
            dir,
            rotation,
            runtime,
        }
    }

    fn log(&self, content: &str) -> PathBuf {
        let log = self.dir.path().join("0.log");
        fs::write(&log, content).unwrap();
        log
    }

    fn files(&self) -> Vec<String> {
        let files = fs::read_dir(self.dir.path()).unwrap();
        let mut files: Vec<_> = files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort_unstable();
        files
    }
}

#[tokio::test]
async fn a_short_log_is_left_alone() {
    let place = Place::new();
    let log = place.log("short");
    place.rotation.shorten("c1", &log).await.unwrap();
    assert_eq!(place.files(), ["0.log"]);
    assert_eq!(place.runtime.count("ReopenContainerLog"), 0);
}

#[tokio::test]
async fn a_long_log_is_renamed_and_the_one_before_it_is_compressed() {
    let place = Place::new();
    let before = place.dir.path().join("0.log.20260101-000000");
    fs::write(&before, "before").unwrap();
    fs::set_permissions(before, fs::Permissions::from_mode(0o640)).unwrap();
    let log = place.log("longer than ten bytes");
    place.rotation.shorten("c1", &log).await.unwrap();
    assert_eq!(place.runtime.count("ReopenContainerLog"), 1);
    let files = place.files();
    assert_eq!(files.len(), 2, "{files:?}");
    let compressed = File::open(place.dir.path().join("0.log.20260101-000000.gz")).unwrap();
    let mode = compressed.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640, "who may read it stays");
    let mut content = String::new();
    flate2::read::GzDecoder::new(compressed)
        .read_to_string(&mut content)
        .unwrap();
    assert_eq!(content, "before");
    let rotated = files.iter().find(|name| !name.ends_with(COMPRESSED)).unwrap();
    let rotated = fs::read_to_string(place.dir.path().join(rotated)).unwrap();
    assert_eq!(rotated, "longer than ten bytes");
}

#[tokio::test]
async fn a_rotated_log_that_cannot_be_compressed_stays_as_it_is_and_stops_no_rotation() {
    let place = Place::new();
    // It can be opened, and not read.
    fs::create_dir(place.dir.path().join("0.log.20260101-000000")).unwrap();
    let log = place.log("longer than ten bytes");
    place.rotation.shorten("c1", &log).await.unwrap();
    assert_eq!(place.runtime.count("ReopenContainerLog"), 1);
    let files = place.files();
    assert_eq!(files.len(), 2, "{files:?}");
    assert_eq!(files[0], "0.log.20260101-000000");
}

#[tokio::test]
async fn a_rotated_log_that_cannot_be_removed_stops_no_rotation_and_is_told_once() {
    let place = Place::new();
    let resists = place.dir.path().join("0.log.20250101-000000");
    fs::create_dir(&resists).unwrap();
    for name in ["0.log.20250102-000000", "0.log.20250103-000000"] {
        fs::write(place.dir.path().join(name), name).unwrap();
    }
    let mut told = Resisting::default();
    for is_new in [true, false] {
        let log = place.log("longer than ten bytes");
        let left = place.rotation.shorten("c1", &log).await.unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].0, resists);
        assert_eq!(told.is_new(&left[0].0), is_new);
    }
    assert_eq!(place.runtime.count("ReopenContainerLog"), 2);
    let files = place.files();
    assert!(
        !files.iter().any(|name| name.starts_with("0.log.20250102")),
        "{files:?}"
    );
    fs::remove_dir(&resists).unwrap();
    assert!(told.is_new(Path::new("/another")));
    assert!(told.is_new(&resists), "it was forgotten with the file");
}

#[tokio::test]
async fn a_clock_that_steps_back_neither_replaces_what_was_rotated_nor_makes_the_newest_the_oldest() {
    let mut place = Place::new();
    for name in ["0.log.20990101-000000", "0.log.20990101-000059.gz", "0.log.x"] {
        fs::write(place.dir.path().join(name), name).unwrap();
    }
    let log = place.log("longer than ten bytes");
    place.rotation.limits.files = 9;
    place.rotation.shorten("c1", &log).await.unwrap();
    let rotated = place.dir.path().join("0.log.20990101-000100");
    assert_eq!(fs::read_to_string(rotated).unwrap(), "longer than ten bytes");
    let now: DateTime = "2026-01-01T00:00:00".parse().unwrap();
    let last = ["0.log.99991231-235959".to_owned()];
    assert_eq!(next_stamp(now, &last), now, "there is none after it");
}

#[tokio::test]
async fn a_log_that_is_missing_is_opened_anew_and_said_to_be_missing_if_it_still_is() {
    let place = Place::new();
    let log = place.dir.path().join("0.log");
    let error = place.rotation.shorten("c1", &log).await.unwrap_err();
    assert_eq!(place.runtime.calls(), ["ReopenContainerLog c1"]);
    assert_eq!(error.to_string(), log.display().to_string());
}

#[tokio::test]
async fn a_log_that_the_runtime_goes_on_writing_keeps_its_name() {
    let place = Place::new();
    let log = place.log("longer than ten bytes");
    place.runtime.fail_next("ReopenContainerLog", "no");
    place.rotation.shorten("c1", &log).await.unwrap_err();
    assert_eq!(place.files(), ["0.log"]);
}

#[test]
fn what_was_rotated_goes_with_the_log() {
    let place = Place::new();
    let log = place.log("");
    for name in [
        "0.log.20260101-000000",
        "0.log.20260101-000000.gz",
        "00.log",
        "1.log",
    ] {
        fs::write(place.dir.path().join(name), "").unwrap();
    }
    remove(&log);
    assert_eq!(place.files(), ["00.log", "1.log"]);
}

#[test]
fn of_the_logs_of_instances_only_the_newest_and_what_was_rotated_out_of_it_is_kept() {
    let place = Place::new();
    remove_older(&place.dir.path().join("nowhere"));
    let older = ["2.log", "9.log", "9.log.20260101-000000.gz"];
    let kept = ["10.log", "10.log.20260102-000000", "11", "x.log"];
    for name in older.iter().chain(&kept) {
        fs::write(place.dir.path().join(name), "").unwrap();
    }
    remove_older(place.dir.path());
    assert_eq!(place.files(), kept);
}

#[test]
fn the_next_instance_counts_on_from_the_highest_log() {
    let place = Place::new();
    let dir = place.dir.path();
    assert_eq!(next_attempt(&dir.join("nowhere")), 0);
    for name in ["x", "+9.log", ".log", "9.logs", "99999999999.log", "0.log"] {
        fs::write(dir.join(name), "").unwrap();
    }
    fs::create_dir(dir.join("7.log")).unwrap();
    assert_eq!(next_attempt(dir), 1);
    fs::write(dir.join("3.log.20260101-000000.gz"), "").unwrap();
    assert_eq!(next_attempt(dir), 4);
}
