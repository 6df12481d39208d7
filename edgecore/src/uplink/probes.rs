//! When a session over WebSocket asks whether QUIC works again.
//!
//! Pure: the dice are the caller's.

use std::time::Duration;

/// About when the first one goes: what blocked UDP may have been a passing thing.
const FIRST: Duration = Duration::from_mins(2);
/// How often at least.
const LONGEST: Duration = Duration::from_hours(24);

/// Counts the probes of one session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Probes {
    made: u32,
}

impl Probes {
    /// Those of a session that begins where so many probes have shown nothing good.
    pub(super) const fn after(made: u32) -> Self {
        Self { made }
    }

    /// How long to wait for the next. `dice` is a fresh random number from 0 to 1.
    pub(super) fn pause(&mut self, dice: f64) -> Duration {
        let about = FIRST.saturating_mul(1 << self.made.min(16)).min(LONGEST);
        self.made = self.made.saturating_add(1);
        about.mul_f64(0.75 + 0.5 * dice.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_grow_rare() {
        let mut probes = Probes::default();
        let minutes: Vec<_> = (0..12).map(|_| probes.pause(0.5).as_secs() / 60).collect();
        assert_eq!(minutes, [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1440, 1440]);
        assert_eq!(Probes::default().pause(0.0), FIRST.mul_f64(0.75));
    }
}
