//! When an endpoint that failed is tried again: 1 to 30 s, doubled, with jitter, so that what failed
//! together does not come back together.

use std::time::Duration;

/// The shortest wait.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(30);

/// How often in a row an endpoint failed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// It works.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// It failed once more: how long to wait.
    pub(crate) fn failed(&mut self) -> Duration {
        let wait = Self::wait(self.failures, rand::random::<f64>());
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// Between half of the step and the whole, never less than the shortest.
    fn wait(failures: u32, dice: f64) -> Duration {
        let step = SHORTEST.saturating_mul(1 << failures.min(5)).min(LONGEST);
        (step / 2 + (step / 2).mul_f64(dice)).max(SHORTEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_from_one_second_to_thirty() {
        let most: Vec<_> = (0..7)
            .map(|failures| Backoff::wait(failures, 1.0).as_secs())
            .collect();
        assert_eq!(most, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(Backoff::wait(0, 0.0), SHORTEST);
        assert_eq!(Backoff::wait(9, 0.0), LONGEST / 2);
    }
}
