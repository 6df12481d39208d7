//! How long a node's certificate lives, and how much of that is left when it is made anew.

use std::time::Duration;

use thiserror::Error;

/// A device that is away for the last third of this still comes back by itself within 90 days of the
/// end. A shorter life buys little: a key is shut out by a ban, at once, and not by waiting.
const DEFAULT: Duration = Duration::from_hours(365 * 24);
/// A third of this is time for one renewal and a few more attempts.
const SHORTEST: Duration = Duration::from_mins(1);
/// The CA's own life: no certificate outlives it.
const LONGEST: Duration = Duration::from_hours(10 * 365 * 24);

/// How long a node's certificate lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLife(Duration);

/// The life is out of bounds.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a node's certificate lives from 1m to 3650d")]
pub struct UnfitLife;

impl NodeLife {
    /// From the first moment to the last.
    pub const fn whole(self) -> Duration {
        self.0
    }

    /// What is left at two thirds of it, when the edge asks for the next one.
    pub fn renew_before(self) -> Duration {
        self.0 / 3
    }
}

impl Default for NodeLife {
    fn default() -> Self {
        Self(DEFAULT)
    }
}

impl TryFrom<Duration> for NodeLife {
    type Error = UnfitLife;

    fn try_from(life: Duration) -> Result<Self, UnfitLife> {
        (SHORTEST..=LONGEST)
            .contains(&life)
            .then_some(Self(life))
            .ok_or(UnfitLife)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_that_leaves_no_time_to_renew_is_refused() {
        assert_eq!(NodeLife::try_from(Duration::from_secs(59)), Err(UnfitLife));
        assert_eq!(NodeLife::try_from(LONGEST * 2), Err(UnfitLife));
        let shortest = NodeLife::try_from(SHORTEST).unwrap();
        assert_eq!(shortest.renew_before(), Duration::from_secs(20));
        assert_eq!(NodeLife::try_from(DEFAULT), Ok(NodeLife::default()));
    }
}
