//! The one clock of a program.
//!
//! It is made in `main` and given to everything that tells time, rustls included. Devices boot
//! in 1970 or last month, so [`Clock::now`] is never before the time of the build nor before the
//! last time a server told. A clock that is ahead cannot be seen here; certificates tell it.
//!
//! **Invariant:** `now` is at least the build time, and never falls behind a server's time once told, unless
//! a certificate has shown that the server was wrong.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use rustls::{pki_types::UnixTime, time_provider::TimeProvider};
use thiserror::Error;
use tokio::time::Instant;

/// Signed seconds that tests add to the system's clock.
pub const OFFSET_VARIABLE: &str = "TOMBOLO_TEST_CLOCK_OFFSET";

/// Tells the time. Clones share what servers told.
#[derive(Clone)]
pub struct Clock(Arc<Shared>);

struct Shared {
    offset_seconds: i64,
    floor: Mutex<Floor>,
}

/// A time that was true at `since` and moves on with the machine's own pace.
#[derive(Clone, Copy)]
struct Floor {
    at: SystemTime,
    since: Instant,
}

/// The test offset is not a number.
#[derive(Debug, Error)]
#[error("{OFFSET_VARIABLE} is \"{0}\"; give signed whole seconds")]
pub struct BadOffset(String);

impl Clock {
    /// The system's clock, moved by [`OFFSET_VARIABLE`] where it is set.
    pub fn from_env() -> Result<Self, BadOffset> {
        match std::env::var(OFFSET_VARIABLE) {
            Ok(text) => text.parse().map(Self::with_offset).map_err(|_| BadOffset(text)),
            Err(_) => Ok(Self::system()),
        }
    }

    /// The system's clock.
    pub fn system() -> Self {
        Self::with_offset(0)
    }

    /// The system's clock, moved by some seconds.
    pub fn with_offset(offset_seconds: i64) -> Self {
        let floor = Floor {
            at: build_time(),
            since: Instant::now(),
        };
        Self(Arc::new(Shared {
            offset_seconds,
            floor: Mutex::new(floor),
        }))
    }

    /// The time: the latest of the system's, the build's and the last server's.
    pub fn now(&self) -> SystemTime {
        let floor = *self.0.floor.lock();
        self.raw().max(floor.at + floor.since.elapsed())
    }

    /// What the machine's clock shows, right or wrong: for those who judge it.
    pub fn machine_time(&self) -> SystemTime {
        self.raw()
    }

    /// Milliseconds since 1970.
    pub fn now_millis(&self) -> u64 {
        millis(self.now())
    }

    /// Takes note of the time that a server told; an earlier one changes nothing.
    pub fn saw_server_time(&self, told: SystemTime) {
        if told > self.now() {
            *self.0.floor.lock() = Floor {
                at: told,
                since: Instant::now(),
            };
        }
    }

    /// As [`saw_server_time`](Self::saw_server_time), in milliseconds since 1970; 0 says nothing.
    pub fn saw_server_millis(&self, told: u64) {
        if let Some(told) = UNIX_EPOCH.checked_add(Duration::from_millis(told.min(FAR_FUTURE_MILLIS))) {
            self.saw_server_time(told);
        }
    }

    /// A certificate that the CA has signed ended `by` so long ago. If it has not by the machine's own clock,
    /// a server once told a time that is ahead: what servers told is forgotten. Whether it was.
    pub fn doubt_servers(&self, by: Duration) -> bool {
        let raw = self.raw();
        let mut floor = self.0.floor.lock();
        let now = floor.at + floor.since.elapsed();
        let blames_servers = now
            .duration_since(raw)
            .is_ok_and(|ahead| ahead >= by && ahead > Duration::ZERO);
        // A machine that has lost its time has nothing better than what servers told.
        if !blames_servers || raw < build_time() {
            return false;
        }
        *floor = Floor {
            at: build_time(),
            since: Instant::now(),
        };
        true
    }

    fn raw(&self) -> SystemTime {
        // The one place that reads the system's clock.
        let system = SystemTime::now();
        let by = Duration::from_secs(self.0.offset_seconds.unsigned_abs());
        let moved = if self.0.offset_seconds < 0 {
            system.checked_sub(by)
        } else {
            system.checked_add(by)
        };
        moved.unwrap_or(UNIX_EPOCH)
    }
}

/// The year 2200: no honest server tells more.
const FAR_FUTURE_MILLIS: u64 = 7_258_118_400_000;

/// Milliseconds since 1970 of `time`; 0 before that.
pub fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// When this program was built (or `SOURCE_DATE_EPOCH` at that time).
pub fn build_time() -> SystemTime {
    let seconds = env!("TOMBOLO_BUILD_TIME").parse().unwrap_or(0);
    UNIX_EPOCH + Duration::from_secs(seconds)
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock")
            .field("offset_seconds", &self.0.offset_seconds)
            .finish_non_exhaustive()
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let since = self.now().duration_since(UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: u64 = 365 * 24 * 3600;

    #[test]
    fn a_clock_that_is_behind_shows_at_least_the_build_time() {
        let clock = Clock::with_offset(-40 * i64::try_from(YEAR).unwrap());
        assert!(clock.now() >= build_time());
    }

    #[test]
    fn a_servers_time_raises_the_clock_and_never_lowers_it() {
        let clock = Clock::with_offset(-40 * i64::try_from(YEAR).unwrap());
        let told = build_time() + Duration::from_secs(YEAR);
        clock.saw_server_time(told);
        assert!(clock.now() >= told);
        clock.saw_server_time(UNIX_EPOCH);
        assert!(clock.now() >= told);
        clock.saw_server_millis(u64::MAX);
        assert!(clock.now() < told + Duration::from_secs(300 * YEAR));
    }

    #[test]
    fn a_servers_time_that_certificates_belie_is_forgotten_where_the_machine_has_its_own() {
        let day = Duration::from_hours(24);
        let clock = Clock::system();
        let own = clock.now();
        clock.saw_server_time(own + 180 * day);
        assert!(
            !clock.doubt_servers(181 * day),
            "it has ended by the machine's clock too"
        );
        assert!(clock.now() >= own + 180 * day);
        assert!(clock.doubt_servers(100 * day));
        assert!(clock.now() < own + day);
        assert!(!clock.doubt_servers(Duration::ZERO), "nothing was told any more");

        let lost = Clock::with_offset(-40 * i64::try_from(YEAR).unwrap());
        lost.saw_server_time(own + 180 * day);
        assert!(!lost.doubt_servers(100 * day));
        assert!(lost.now() >= own + 180 * day);
    }

    #[test]
    fn a_clock_ahead_is_shown_as_it_is() {
        let ahead = Clock::with_offset(i64::try_from(YEAR).unwrap());
        assert!(ahead.now() > Clock::system().now() + Duration::from_secs(YEAR - 60));
    }
}
