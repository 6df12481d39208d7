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

/// The smallest receive budget: a thousand edges' sessions.
const LEAST_BUDGET: u64 = 16 << 20;

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
    /// What edges may have sent that was not read, all together, in bytes.
    pub receive_budget: u64,
}

/// A number of bytes as Kubernetes writes it: a whole number with `Ki`, `Mi` or `Gi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// The text is not a usable size.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadSize {
    /// It does not read.
    #[error("\"{0}\" is not a size: write a whole number with Ki, Mi or Gi, for example 256Mi")]
    Unreadable(String),
    /// It is too small to be of use.
    #[error("{0} is too little: at least 16Mi, which a thousand edges need")]
    TooLittle(String),
}

impl FromStr for Size {
    type Err = BadSize;

    fn from_str(text: &str) -> Result<Self, BadSize> {
        let units = [("Ki", 10), ("Mi", 20), ("Gi", 30)];
        let split = units
            .iter()
            .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
        let bytes = split.and_then(|(number, shift)| number.parse::<u64>().ok()?.checked_mul(1 << shift));
        match bytes {
            None => Err(BadSize::Unreadable(text.to_owned())),
            Some(bytes) if bytes < LEAST_BUDGET => Err(BadSize::TooLittle(text.to_owned())),
            Some(bytes) => Ok(Self(bytes)),
        }
    }
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
    fn a_size_is_a_number_with_a_unit_and_not_too_little() {
        assert_eq!("256Mi".parse(), Ok(Size(256 << 20)));
        assert_eq!("1Gi".parse(), Ok(Size(1 << 30)));
        for bad in ["", "256", "Mi", "-1Mi", "1.5Gi", "256MB", "99999999999999Gi"] {
            assert_eq!(bad.parse::<Size>(), Err(BadSize::Unreadable(bad.to_owned())));
        }
        assert_eq!("15Mi".parse::<Size>(), Err(BadSize::TooLittle("15Mi".to_owned())));
    }

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
