//! All chance of a world: one seed gives one history.

use std::time::Duration;

/// `SplitMix64`: small, fast, and the same on every machine.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `n - 1`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.roll() % (n.max(1) as u64)).unwrap_or(0)
    }

    /// From 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Whether something of this probability happens.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.fraction() < probability
    }

    /// A time between two, short ones more often than long ones.
    pub(crate) fn between(&mut self, least_ms: u64, most_ms: u64) -> Duration {
        let (least, most) = (Duration::from_millis(least_ms), Duration::from_millis(most_ms));
        let share = self.fraction();
        least + most.saturating_sub(least).mul_f64(share * share)
    }

    /// The time to the next of events that happen so often on average.
    pub(crate) fn next_of(&mut self, mean: Duration) -> Duration {
        mean.mul_f64((-(1.0 - self.fraction()).ln()).min(8.0))
    }
}
