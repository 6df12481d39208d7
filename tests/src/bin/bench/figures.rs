//! The figures, as a table for people and as JSON for comparisons over time.

use std::{
    fmt::{self, Display, Formatter},
    fs,
    time::Duration,
};

use anyhow::Result;
use serde::{Serialize, Serializer};

/// Below this a tenth says something.
const FEW: f64 = 10.0;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Unit {
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "bytes")]
    Bytes,
    #[serde(rename = "1/s")]
    PerSecond,
}

impl Unit {
    fn show(self, value: Option<f64>) -> String {
        match (self, value) {
            (_, None) => String::from("-"),
            (Self::Milliseconds, Some(value)) if value < FEW => format!("{value:.1} ms"),
            (Self::Milliseconds, Some(value)) => format!("{value:.0} ms"),
            (Self::PerSecond, Some(value)) => format!("{value:.0} /s"),
            (Self::Bytes, Some(value)) if value < 1e6 => format!("{:.1} kB", value / 1e3),
            (Self::Bytes, Some(value)) => format!("{:.1} MB", value / 1e6),
        }
    }
}

/// One figure, beside the stock kubelet's and the runtime's alone where these have one.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    #[serde(serialize_with = "whole")]
    pub(crate) ours: Option<f64>,
    #[serde(serialize_with = "whole")]
    pub(crate) kubelet: Option<f64>,
    #[serde(serialize_with = "whole")]
    pub(crate) floor: Option<f64>,
}

impl Figure {
    /// A figure that stands alone.
    pub(crate) const fn ours(name: &'static str, unit: Unit, value: f64) -> Self {
        Self {
            name,
            unit,
            ours: Some(value),
            kubelet: None,
            floor: None,
        }
    }
}

/// A duration as the figures give it.
pub(crate) fn milliseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

/// Smaller fractions of a millisecond are noise, and of a byte nonsense.
#[expect(
    clippy::cast_possible_truncation,
    reason = "milliseconds and bytes of real programs fit"
)]
#[expect(clippy::ref_option, reason = "serde hands the field over like this")]
fn whole<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) if *value < FEW => serializer.serialize_f64((value * 10.0).round() / 10.0),
        value => value.map(|value| value.round() as i64).serialize(serializer),
    }
}

/// The value below which `rank` percent of the samples lie; one of the samples, none interpolated.
pub(crate) fn percentile(samples: &[Duration], rank: usize) -> Option<Duration> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let position = (sorted.len() * rank).div_ceil(100).max(1);
    sorted.get(position - 1).copied()
}

/// Where the figures come from.
#[derive(Debug, Serialize)]
struct Machine {
    cpu: String,
    cores: usize,
    memory_bytes: u64,
    kernel: String,
}

impl Machine {
    fn look() -> Result<Self> {
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split_once(':'));
            value
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let memory = field(&fs::read_to_string("/proc/meminfo")?, "MemTotal");
        let kilobytes: u64 = memory.trim_end_matches("kB").trim().parse()?;
        Ok(Self {
            cpu: field(&fs::read_to_string("/proc/cpuinfo")?, "model name"),
            cores: std::thread::available_parallelism()?.get(),
            memory_bytes: kilobytes * 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
        })
    }
}

/// Everything that one run found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    pods: u16,
    settle_seconds: u64,
    figures: Vec<Figure>,
}

impl Report {
    pub(crate) fn new(pods: u16, settle: Duration, figures: Vec<Figure>) -> Result<Self> {
        Ok(Self {
            machine: Machine::look()?,
            pods,
            settle_seconds: settle.as_secs(),
            figures,
        })
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Machine {
            cpu,
            cores,
            memory_bytes,
            kernel,
        } = &self.machine;
        writeln!(
            f,
            "{cores} x {cpu}, {} MB, Linux {kernel}; {} starts on each node, memory read after {} s",
            memory_bytes / 1_000_000,
            self.pods,
            self.settle_seconds
        )?;
        writeln!(f, "\n  {:<24}{:>12}{:>12}{:>12}", "", "ours", "kubelet", "floor")?;
        for figure in &self.figures {
            let cell = |value| figure.unit.show(value);
            let (ours, kubelet, floor) = (cell(figure.ours), cell(figure.kubelet), cell(figure.floor));
            writeln!(f, "  {:<24}{ours:>12}{kubelet:>12}{floor:>12}", figure.name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    fn durations(values: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        values.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn a_percentile_is_one_of_the_samples() {
        let samples = durations((1..=20).rev());
        assert_eq!(percentile(&samples, 50), Some(Duration::from_millis(10)));
        assert_eq!(percentile(&samples, 90), Some(Duration::from_millis(18)));
        assert_eq!(percentile(&durations([7]), 90), Some(Duration::from_millis(7)));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn what_has_no_figure_is_null() {
        let figure = Figure::ours("edgecore_binary", Unit::Bytes, 15.4);
        let json = serde_json::to_value(figure).unwrap();
        let expected = serde_json::json!({
            "name": "edgecore_binary", "unit": "bytes", "ours": 15, "kubelet": null, "floor": null,
        });
        assert_eq!(json, expected);
    }
}
