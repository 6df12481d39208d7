//! Cuts the power at points of a recording, opens what is left, and judges it.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use edgecore::store::{Batch, Opened, Store as _, Table, open};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::index::sample;

use crate::disk::{Disk, Model};
use crate::trace::Event;
use crate::workload::{DATABASES, Rows, history};

/// Of so many points one is written to and opened once more.
const REOPENED: usize = 4;

/// What one committing process did, and what it was to leave behind.
#[derive(Clone)]
pub(crate) struct Recording {
    pub(crate) seed: u64,
    pub(crate) events: Vec<Event>,
    /// For each database, its rows after each batch.
    pub(crate) states: BTreeMap<&'static str, Vec<Rows>>,
}

/// What had been acknowledged when the power went.
#[derive(Clone, Default)]
struct Acknowledged {
    batches: BTreeMap<String, usize>,
    epoch: Option<u64>,
}

/// How the points of one model went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) points: usize,
    /// Databases in which acknowledged batches were not there; each point has two.
    pub(crate) lost: usize,
    /// Databases whose rows are those of no batch.
    pub(crate) torn: usize,
    /// Databases that could not be opened, or were of no use then.
    pub(crate) unopened: usize,
    /// What the ladder had to do, by its kind.
    pub(crate) repairs: BTreeMap<String, usize>,
    /// The first failures, with how to see each again.
    pub(crate) failures: Vec<String>,
}

impl Tally {
    pub(crate) const fn failed(&self) -> usize {
        self.lost + self.torn + self.unopened
    }

    fn add(&mut self, other: Self) {
        self.points += other.points;
        self.lost += other.lost;
        self.torn += other.torn;
        self.unopened += other.unopened;
        for (kind, count) in other.repairs {
            *self.repairs.entry(kind).or_default() += count;
        }
        self.failures.extend(other.failures);
        self.failures.truncate(5);
    }
}

impl Recording {
    pub(crate) fn new(seed: u64, events: Vec<Event>) -> Self {
        let states = DATABASES.map(|name| (name, history(seed, name))).into();
        Self { seed, events, states }
    }

    /// Cuts the power at `count` points, drawn by the seed, on all cores.
    pub(crate) fn cut_at_random(&self, model: Model, count: usize, scratch: &Path) -> Tally {
        let mut rng = StdRng::seed_from_u64(self.seed ^ model as u64);
        let mut points = sample(&mut rng, self.events.len(), count.min(self.events.len())).into_vec();
        points.sort_unstable();
        self.cut(model, &points, scratch)
    }

    /// Cuts the power at these points; each stands before the event of its number.
    pub(crate) fn cut(&self, model: Model, points: &[usize], scratch: &Path) -> Tally {
        let cores = thread::available_parallelism().map_or(2, Into::into);
        let share = points.len().div_ceil(cores).max(1);
        thread::scope(|scope| {
            let workers: Vec<_> = points
                .chunks(share)
                .enumerate()
                .map(|(n, points)| {
                    let image = scratch.join(format!("{model:?}-{n}"));
                    scope.spawn(move || self.walk(model, points, &image))
                })
                .collect();
            let mut all = Tally::default();
            for worker in workers {
                all.add(worker.join().unwrap());
            }
            all
        })
    }

    fn walk(&self, model: Model, points: &[usize], image: &Path) -> Tally {
        let (mut disk, mut told) = (Disk::new(model), Acknowledged::default());
        let (mut tally, mut at) = (Tally::default(), 0);
        for &point in points {
            for event in &self.events[at..point] {
                disk.apply(event);
                told.hear(event);
            }
            at = point;
            // A directory of its own: threads of the engine may still look after the last one.
            let image = PathBuf::from(format!("{}-{point}", image.display()));
            disk.cut(self.seed ^ (point as u64) << 20, &image);
            if let Some(keep) = env::var_os("POWERCUT_IMAGE") {
                disk.cut(self.seed ^ (point as u64) << 20, Path::new(&keep));
            }
            tally.points += 1;
            for name in DATABASES {
                let before = tally.failed();
                let words = self.judge(&image, name, &told, &mut tally);
                if tally.failed() > before && tally.failures.len() < 5 {
                    let again = format!("POWERCUT_SEED={} POWERCUT_POINT={model:?}:{point}", self.seed);
                    tally.failures.push(format!("{again}: {name}: {words}"));
                }
            }
            fs::remove_dir_all(&image).unwrap();
        }
        tally
    }

    fn judge(&self, image: &Path, name: &str, told: &Acknowledged, tally: &mut Tally) -> String {
        let mut opened = match open(image, name) {
            Ok(opened) => opened,
            Err(error) => {
                tally.unopened += 1;
                return format!("{error:?}");
            }
        };
        for incident in &opened.incidents {
            *tally.repairs.entry(format!("{:?}", incident.rung)).or_default() += 1;
        }
        let acknowledged = told.batches.get(name).copied().unwrap_or_default();
        let found = rows(&opened);
        let states = &self.states[name];
        let is = |n: usize| states.get(n) == Some(&found);
        let same_epoch = name != "meta" || told.epoch.is_none_or(|epoch| epoch == opened.epoch);
        if !is(acknowledged) && !is(acknowledged + 1) || !same_epoch {
            let state = states.iter().position(|rows| *rows == found);
            *if state.is_some() {
                &mut tally.lost
            } else {
                &mut tally.torn
            } += 1;
            return format!(
                "acknowledged batch {acknowledged}, found {state:?}, incidents {:?}",
                opened.incidents
            );
        }
        let after = Batch::new().put(Table::Meta, "after", vec![1; 100]);
        if !tally.points.is_multiple_of(REOPENED) {
            return String::new();
        }
        let kept = opened.store.commit(&after).is_ok() && {
            drop(opened);
            open(image, name).is_ok_and(|again| rows(&again).len() == found.len() + 1)
        };
        tally.unopened += usize::from(!kept);
        format!("what is committed after that is there: {kept}")
    }
}

impl Acknowledged {
    fn hear(&mut self, event: &Event) {
        let Event::Said(line) = event else { return };
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["ack", name, number] => {
                self.batches.insert(name.to_owned(), number.parse().unwrap());
            }
            ["epoch", _, epoch] => self.epoch = epoch.parse().ok(),
            _ => {}
        }
    }
}

/// Everything that a database holds, without what the store keeps for itself.
fn rows(opened: &Opened) -> Rows {
    let mut rows = Rows::new();
    for table in Table::ALL {
        for (key, value) in opened.store.scan(table, None, usize::MAX).unwrap() {
            if key != "epoch" {
                rows.insert((table, key), value.to_vec());
            }
        }
    }
    rows
}
