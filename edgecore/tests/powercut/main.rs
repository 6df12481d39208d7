//! Cuts the power at a thousand points of a committing process, and opens what is left of the disk.
//!
//! strace records every file operation of a process that commits through the real store; [`disk`]
//! knows which of them had reached the platter at any point, and rebuilds what a power cut there could have
//! left; [`replay`] opens that with the real store. What was acknowledged must be there, whole; the batch in
//! flight wholly or not at all; and the store must open, and keep what it is given next.
//!
//! ```text
//! SEEDS=10 cargo test -p edgecore --test powercut                        ten recordings, ten times the points
//! POWERCUT_SEED=7 cargo test -p edgecore --test powercut                 one seed again
//! POWERCUT_SEED=7 POWERCUT_POINT=B:812 cargo test -p edgecore --test powercut -- at_any_point
//! ```
//!
//! With a point, `POWERCUT_IMAGE=dir` leaves the disk there as it was cut.
//!
//! Two recordings of one seed differ a little, for two databases are written at a time: of a run that failed
//! the recording is kept, and `POWERCUT_TRACE` names it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod disk;
mod replay;
mod trace;
mod workload;

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use disk::Model;
use replay::Recording;
use trace::Event;

/// Points for each model and seed; there are three models.
const POINTS: usize = 340;
/// Points at which a broken recipe is tried.
const BROKEN_POINTS: usize = 20;

/// Whether a sync of this file, of its data only or of all, is left out.
type LeftOut = fn(&Path, bool) -> bool;

/// A directory that is gone when the test is.
struct Scratch(PathBuf);

impl Scratch {
    /// In memory where there is such a place: what a sync does there is not looked at.
    fn new(name: &str) -> Self {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() {
            memory.to_owned()
        } else {
            env::temp_dir()
        };
        let path = base.join(format!("tombolo-powercut-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A recording of `seed`; its trace lies below `scratch`.
fn record(seed: u64, scratch: &Scratch) -> (Recording, PathBuf) {
    let root = scratch.0.join("root");
    let trace = env::var_os("POWERCUT_TRACE").map_or_else(
        || {
            fs::create_dir_all(&root).unwrap();
            let mut committing = Command::new(env::current_exe().unwrap());
            committing
                .args(["--exact", "the_committing_process", "--ignored", "--nocapture"])
                .env("POWERCUT_ROOT", &root)
                .env("POWERCUT_SEED", seed.to_string());
            trace::record(&committing, &scratch.0)
        },
        PathBuf::from,
    );
    let events = trace::read(&fs::read_to_string(&trace).unwrap());
    (Recording::new(seed, events), trace)
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// One fixed seed, so that every run has something in common, and fresh ones.
fn seeds() -> Vec<u64> {
    if let Some(seed) = number("POWERCUT_SEED") {
        return vec![seed];
    }
    let more = number("SEEDS").unwrap_or(1).max(1);
    (0..more)
        .map(|n| if n == 0 { 1 } else { rand::random_range(2..1 << 20) })
        .collect()
}

#[test]
fn whatever_was_acknowledged_is_there_after_a_power_cut_at_any_point() {
    let mut failed = Vec::new();
    for seed in seeds() {
        let scratch = Scratch::new("whole");
        let (recording, trace) = record(seed, &scratch);
        println!("seed {seed}: {} operations", recording.events.len());
        let mut bad = false;
        for model in Model::ALL {
            let tally = match env::var("POWERCUT_POINT").ok() {
                None => recording.cut_at_random(model, POINTS, &scratch.0),
                Some(point) => match point.split_once(':') {
                    Some((of, at)) if of == format!("{model:?}") => {
                        recording.cut(model, &[at.parse().unwrap()], &scratch.0)
                    }
                    _ => continue,
                },
            };
            println!("  model {model:?}: {tally:?}");
            bad |= tally.failed() > 0;
            failed.extend(tally.failures);
        }
        if bad {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("powercut-{seed}.trace"));
            fs::copy(trace, &kept).unwrap();
            failed.push(format!("POWERCUT_TRACE={}", kept.display()));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// A recording as a store would have made it that leaves out some syncs: nothing else of it depends on them.
fn without_syncs(whole: &Recording, left_out: impl Fn(&Path, bool) -> bool) -> Recording {
    let mut recording = whole.clone();
    let mut open = HashMap::new();
    recording.events.retain(|event| {
        if let Event::Open { fd, path, .. } = event {
            open.insert(*fd, path.clone());
        } else if let Event::Duplicate { fd, to } = event {
            open.insert(*to, open[fd].clone());
        } else if let Event::SyncEnds { fd, data_only, .. } = event {
            return !left_out(&open[fd], *data_only);
        }
        true
    });
    recording
}

#[test]
fn a_store_that_leaves_out_any_of_its_syncs_is_found_out() {
    let scratch = Scratch::new("broken");
    let seed = seeds()[0];
    let recipes: [(&str, Model, LeftOut); 3] = [
        ("no fdatasync of the log", Model::A, |_, data_only| data_only),
        ("no fsync of content files", Model::B, |path, _| {
            path.extension().is_some_and(|ext| ext == "tmp")
        }),
        ("no fsync of their directories", Model::A, |path, _| {
            path.starts_with("objects/meta") || path.starts_with("objects/outbox")
        }),
    ];
    let (recording, _) = record(seed, &scratch);
    for (name, model, left_out) in recipes {
        let tally = without_syncs(&recording, left_out).cut_at_random(model, BROKEN_POINTS, &scratch.0);
        println!("{name}: {tally:?}");
        assert!(tally.failed() > 0, "{name} was not noticed: {tally:?}");
    }
}

#[test]
#[ignore = "the process that is recorded; the others start it"]
fn the_committing_process() {
    let root = env::var_os("POWERCUT_ROOT")
        .map(PathBuf::from)
        .expect("started by another test");
    workload::commit_everything(&root, number("POWERCUT_SEED").unwrap());
}
