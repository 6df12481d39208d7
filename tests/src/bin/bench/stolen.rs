//! What the machine beneath this one took of its processors meanwhile.
//!
//! On a virtual machine a processor is away now and then, for milliseconds; no program that waits for it
//! can be faster. Latencies of some milliseconds mean little without this figure.

use anyhow::{Context, Result};

/// The column of `/proc/stat` that counts what was stolen, and where the columns of real time end.
const STEAL: usize = 7;

/// The processors' time so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stolen {
    steal: u64,
    all: u64,
}

impl Stolen {
    pub(crate) fn now() -> Result<Self> {
        Self::read(&std::fs::read_to_string("/proc/stat")?)
    }

    fn read(stat: &str) -> Result<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
        let ticks = line.context("/proc/stat has no line for all processors")?;
        // What guests used is part of `user` already.
        let ticks = ticks.split_whitespace().take(STEAL + 1);
        let ticks: Vec<u64> = ticks.map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self {
            steal: *ticks.get(STEAL).context("/proc/stat does not count steal")?,
            all: ticks.iter().sum(),
        })
    }

    /// The share since `before`, in words.
    #[expect(clippy::cast_precision_loss, reason = "ticks of some minutes")]
    pub(crate) fn since(self, before: Self) -> String {
        let (steal, all) = (self.steal - before.steal, (self.all - before.all).max(1));
        format!(
            "the machine beneath took {:.1} % of the processors",
            100.0 * steal as f64 / all as f64
        )
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn the_share_is_of_all_time_and_guests_count_once() {
        let before = Stolen::read("cpu  10 0 10 70 0 0 0 10 5 0\ncpu0 1 1 1 1").unwrap();
        let after = Stolen::read("cpu  20 0 20 150 0 0 0 20 50 0\n").unwrap();
        assert!(
            after.since(before).contains("took 9.1 %"),
            "{}",
            after.since(before)
        );
        assert!(Stolen::read("cpu  1 2 3").is_err());
    }
}
