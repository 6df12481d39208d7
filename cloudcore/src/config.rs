//! What `cloudcore run` is told, parsed into types that cannot be wrong.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use crate::enroll::NodeLife;

/// Where edges dial: UDP for QUIC, TCP for enrolment.
pub const LINK_PORT: u16 = 10_000;
/// Health and metrics, read-only.
pub const OBSERVE_PORT: u16 = 10_001;

/// Everything a replica is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where edges are listened for.
    pub listen: SocketAddr,
    /// Where health and metrics are served.
    pub observe: SocketAddr,
    /// This replica's own address, as the API server reaches it.
    pub advertise: Option<IpAddr>,
    /// This replica's name: its pod's.
    pub replica: String,
    /// The namespace of the release.
    pub namespace: String,
    /// The limit that admission gives to every pod's not-ready and unreachable tolerations.
    pub default_toleration_seconds: i64,
    /// How long nodes' certificates live.
    pub node_life: NodeLife,
    /// How long tasks may take to end.
    pub grace: Duration,
}

/// A span of time as people write it: a whole number with `s`, `m`, `h` or `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// The text is not a span of time.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("\"{0}\" is not a span of time: write a whole number with s, m, h or d, for example 90m")]
pub struct BadSpan(String);

impl FromStr for Span {
    type Err = BadSpan;

    fn from_str(text: &str) -> Result<Self, BadSpan> {
        let bad = || BadSpan(text.to_owned());
        let unit = text.chars().last().ok_or_else(bad)?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(bad()),
        };
        let count: u64 = text.trim_end_matches(unit).parse().map_err(|_| bad())?;
        count
            .checked_mul(seconds)
            .map(|all| Self(Duration::from_secs(all)))
            .ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_a_number_with_a_unit() {
        assert_eq!("90m".parse(), Ok(Span(Duration::from_mins(90))));
        assert_eq!("2d".parse(), Ok(Span(Duration::from_hours(48))));
        for bad in [
            "",
            "5",
            "h",
            "-1h",
            "1.5h",
            "1w",
            "99999999999999999999s",
            "9999999999999999d",
        ] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }
}
