//! How many bytes go at once: what the link carries in 20 ms.
//!
//! Pure: how long it took is the caller's to know.

use std::time::Duration;

use super::{MAX_CHUNK, MIN_CHUNK};

/// What one chunk may make others wait.
const SPAN: Duration = Duration::from_millis(20);
/// Less than this says nothing of the link.
const TELLING: usize = 512;

/// What the last chunks say of the link's rate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// In nanoseconds a byte, smoothed; nothing before the first chunk.
    cost: Option<u128>,
}

impl Pace {
    /// The socket took `bytes` in so long.
    pub const fn took(&mut self, bytes: usize, span: Duration) {
        if bytes < TELLING {
            return;
        }
        let now = span.as_nanos() / bytes as u128;
        self.cost = Some(match self.cost {
            Some(before) => (before * 3 + now) / 4,
            None => now,
        });
    }

    /// What may go at once.
    pub fn chunk(&self) -> usize {
        let in_span = SPAN.as_nanos() / self.cost.unwrap_or(0).max(1);
        usize::try_from(in_span).map_or(MAX_CHUNK, |bytes| bytes.clamp(MIN_CHUNK, MAX_CHUNK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_link_gets_small_chunks_and_a_wide_one_large_ones() {
        let mut pace = Pace::default();
        assert_eq!(pace.chunk(), MAX_CHUNK);
        // 1 Mbit/s.
        for _ in 0..40 {
            pace.took(12_500, Duration::from_millis(100));
        }
        assert_eq!(pace.chunk(), 2_500);
        for _ in 0..40 {
            pace.took(pace.chunk(), Duration::from_micros(10));
        }
        assert_eq!(pace.chunk(), MAX_CHUNK);
        pace.took(100, Duration::from_secs(10));
        assert_eq!(pace.chunk(), MAX_CHUNK);
        pace.took(1024, Duration::from_secs(100));
        assert_eq!(pace.chunk(), MIN_CHUNK);
    }
}
