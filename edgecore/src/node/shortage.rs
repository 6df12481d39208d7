//! What a node is short of, and since when: the kubelet's `evictionHard`, `evictionSoft` and what belongs to them.
//!
//! Pure but for what [`History`] remembers. The Node's conditions and the eviction of pods follow the same policy,
//! so that no pod is evicted for a pressure that the Node does not show.
//!
//! ```text
//! enough ──below soft──► short ──for its grace period──► ripe ──► pods go
//!   ▲  └─────below hard─────────────────────────────────►  │
//!   └────── above the threshold and the minimum reclaim ───┘
//! ```
//!
//! **Invariants:** what could not be read is not short; a shortage that was ripe stays until the minimum to reclaim
//! is left too, and any other ends with the look at which its threshold is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::thresholds::{PerSignal, Signal, Threshold, Thresholds};
use super::{Disk, Load};

/// How long a pressure is shown after it was last seen: the kubelet's `evictionPressureTransitionPeriod`.
const TRANSITION: Duration = Duration::from_mins(5);

/// When the node is short of something, and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Below these a pod goes at once.
    pub hard: Thresholds,
    /// Below these the node is under pressure, and a pod goes when that lasts.
    pub soft: PerSignal<Option<Soft>>,
    /// How much more than a threshold must be left before an eviction has helped.
    pub reclaim: Thresholds,
    /// How many seconds a pod gets that goes for a soft threshold, at most.
    pub pod_grace_seconds: i64,
    /// How long a pressure is shown after it was last seen.
    pub transition: Duration,
}

/// A threshold that may be crossed for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Soft {
    /// How little may be left.
    pub threshold: Threshold,
    /// For how long.
    pub grace: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            hard: Thresholds::default(),
            soft: PerSignal::all(None),
            reclaim: Thresholds::all(Threshold::Off),
            pod_grace_seconds: 0,
            transition: TRANSITION,
        }
    }
}

/// Which of a signal's two thresholds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// That of [`Policy::hard`].
    Hard,
    /// That of [`Policy::soft`].
    Soft,
}

/// A threshold of the policy.
pub type Line = (Signal, Kind);

/// There is less left than there must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Of what.
    pub signal: Signal,
    /// By which threshold.
    pub kind: Kind,
    /// How much must be left.
    pub threshold: u64,
    /// How much is left.
    pub available: u64,
}

impl Shortage {
    /// Its threshold.
    pub const fn line(&self) -> Line {
        (self.signal, self.kind)
    }
}

impl Policy {
    /// What the node is short of, memory first. `strictly` says of which thresholds the minimum to reclaim must be
    /// left too.
    fn shortages(&self, memory: u64, load: &Load, strictly: impl Fn(Line) -> bool) -> Vec<Shortage> {
        let lines = Signal::ALL
            .into_iter()
            .flat_map(|signal| [(signal, Kind::Hard), (signal, Kind::Soft)]);
        lines
            .filter_map(|line| self.shortage(line, memory, load, strictly(line)))
            .collect()
    }

    /// Whether that is still not enough, after something was done about it: the minimum to reclaim counts.
    pub fn still(&self, shortage: &Shortage, memory: u64, load: &Load) -> Option<Shortage> {
        self.shortage(shortage.line(), memory, load, true)
    }

    fn shortage(&self, (signal, kind): Line, memory: u64, load: &Load, strictly: bool) -> Option<Shortage> {
        let (available, capacity) = seen(signal, memory, load)?;
        let threshold = match kind {
            Kind::Hard => self.hard.get(signal),
            Kind::Soft => self.soft.get(signal)?.threshold,
        };
        let threshold = threshold.of(capacity)?;
        let more = self.reclaim.get(signal).of(capacity).filter(|_| strictly);
        let is_short = available < threshold.saturating_add(more.unwrap_or(0));
        is_short.then_some(Shortage {
            signal,
            kind,
            threshold,
            available,
        })
    }

    fn grace(&self, (signal, kind): Line) -> Duration {
        match kind {
            Kind::Hard => Duration::ZERO,
            Kind::Soft => self.soft.get(signal).map_or(Duration::ZERO, |soft| soft.grace),
        }
    }
}

/// How much is left, and of how much.
fn seen(signal: Signal, memory: u64, load: &Load) -> Option<(u64, u64)> {
    let bytes = |disk: Disk| (disk.bytes_free, disk.bytes);
    let inodes = |disk: Disk| (disk.inodes_free, disk.inodes);
    match signal {
        Signal::Memory => Some((load.memory_available, memory)),
        Signal::Disk => load.disk.map(bytes),
        Signal::Inodes => load.disk.map(inodes),
        Signal::Images => load.images.map(bytes),
        Signal::ImageInodes => load.images.map(inodes),
        Signal::Pids => Some((load.pids_max.saturating_sub(load.pids_used), load.pids_max)),
    }
}

/// What the node was short of at the last look, and since when.
#[derive(Debug, Default)]
pub struct History {
    since: BTreeMap<Line, Instant>,
    ripe: BTreeSet<Line>,
}

impl History {
    /// What the node is short of now, memory first.
    pub fn look(&mut self, policy: &Policy, memory: u64, load: &Load, now: Instant) -> Vec<Shortage> {
        let found = policy.shortages(memory, load, |line| self.ripe.contains(&line));
        let last = std::mem::take(&mut self.since);
        self.since = found
            .iter()
            .map(Shortage::line)
            .map(|line| (line, last.get(&line).copied().unwrap_or(now)))
            .collect();
        let lasts = |(line, since): &(&Line, &Instant)| now.duration_since(**since) >= policy.grace(**line);
        self.ripe = self.since.iter().filter(lasts).map(|(line, _)| *line).collect();
        found
    }

    /// Whether something has to be done about it: the node was short of it for long enough at the last look.
    pub fn is_ripe(&self, shortage: &Shortage) -> bool {
        self.ripe.contains(&shortage.line())
    }
}

#[cfg(test)]
mod tests;
