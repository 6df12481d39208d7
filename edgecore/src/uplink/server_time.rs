//! The last time that the cloud told, kept for a start without a link.
//!
//! A device without a battery for its clock boots in 1970. Its pods' certificates and tokens should
//! not be judged by that while the link is down.

use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use protocol::clock::Clock;

use crate::store::{Batch, Db, Table};

/// The row of [`Table::Meta`].
const LAST: &str = "server-time";
/// Flash wears out: a link that comes and goes writes no more often than this.
const KEEP_EVERY: Duration = Duration::from_hours(24);

/// Tells the clock what servers told, in this run and the last.
#[derive(Debug)]
pub struct ServerTime {
    db: Db,
    clock: Clock,
    /// What this run has kept, in milliseconds since 1970.
    kept: Mutex<Option<u64>>,
}

impl ServerTime {
    /// Sets the clock to at least what was kept. What cannot be read is no reason not to start.
    pub async fn load(db: Db, clock: Clock) -> Self {
        match db.get(Table::Meta, LAST).await {
            Ok(bytes) => clock.saw_server_millis(bytes.as_ref().and_then(decode).unwrap_or_default()),
            Err(error) => tracing::warn!(%error, "the last server time was not read"),
        }
        Self {
            db,
            clock,
            kept: Mutex::default(),
        }
    }

    /// A server told the time; 0 says nothing. The first of a run is kept even if it is earlier
    /// than what was kept before: a server's clock may have been mended.
    pub async fn told(&self, millis: u64) {
        self.clock.saw_server_millis(millis);
        if millis == 0 || !self.is_worth_keeping(millis) {
            return;
        }
        let bytes = Bytes::copy_from_slice(&millis.to_be_bytes());
        match self.db.commit(Batch::new().put(Table::Meta, LAST, bytes)).await {
            Ok(()) => *self.kept.lock() = Some(millis),
            Err(error) => tracing::warn!(%error, "the server's time was not kept"),
        }
    }

    /// A server's certificate ended `by` so long ago by the clock, and no session can be made to hear better.
    /// If only what servers told makes it so, that is forgotten, here and on flash.
    pub async fn doubt(&self, by: Duration) {
        if !self.clock.doubt_servers(by) {
            return;
        }
        tracing::warn!(
            "cloudcore's certificate has ended by a time that a server told, and has not by this machine's: \
             the clock of a cloudcore was ahead; its time is forgotten"
        );
        // The first that is told from here on is kept, whatever comes of the deletion.
        *self.kept.lock() = None;
        if let Err(error) = self.db.commit(Batch::new().delete(Table::Meta, LAST)).await {
            tracing::warn!(%error, "the wrong time of a server is still in the store");
        }
    }

    fn is_worth_keeping(&self, millis: u64) -> bool {
        let since = |kept| Duration::from_millis(millis.saturating_sub(kept));
        self.kept.lock().is_none_or(|kept| since(kept) >= KEEP_EVERY)
    }
}

fn decode(bytes: &Bytes) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::clock::{build_time, millis};

    const HOUR: u64 = 3_600_000;

    fn next_year() -> u64 {
        millis(build_time()) + 365 * 24 * HOUR
    }

    /// What a device knows that boots in 1970 without a link.
    async fn after_a_boot(db: &Db) -> u64 {
        let clock = Clock::with_offset(-60 * 365 * 86_400);
        ServerTime::load(db.clone(), clock.clone()).await;
        clock.now_millis()
    }

    #[tokio::test]
    async fn a_clock_that_boots_behind_shows_the_last_time_that_was_told() {
        let db = Db::in_memory();
        let time = ServerTime::load(db.clone(), Clock::system()).await;
        time.told(0).await;
        assert!(after_a_boot(&db).await < next_year());
        time.told(next_year()).await;
        assert!(after_a_boot(&db).await >= next_year());
    }

    #[tokio::test]
    async fn the_time_is_written_once_a_day() {
        let db = Db::in_memory();
        let time = ServerTime::load(db.clone(), Clock::system()).await;
        let stored = async || db.get(Table::Meta, LAST).await.unwrap().unwrap();
        time.told(next_year()).await;
        let first = stored().await;
        time.told(next_year() + 23 * HOUR).await;
        assert_eq!(stored().await, first);
        time.told(next_year() + 25 * HOUR).await;
        assert_ne!(stored().await, first);
    }

    #[tokio::test]
    async fn a_time_that_is_doubted_is_forgotten_on_flash_too_unless_the_certificate_has_ended_anyway() {
        let db = Db::in_memory();
        let clock = Clock::system();
        let time = ServerTime::load(db.clone(), clock.clone()).await;
        let ahead = Duration::from_hours(180 * 24);
        let wrong = millis(clock.now() + ahead);
        time.told(wrong).await;
        time.doubt(2 * ahead).await;
        assert!(clock.now_millis() >= wrong && after_a_boot(&db).await >= wrong);
        time.doubt(ahead / 2).await;
        assert!(clock.now_millis() < wrong && after_a_boot(&db).await < wrong);
    }

    #[tokio::test]
    async fn a_mended_servers_time_replaces_what_an_earlier_run_kept() {
        let db = Db::in_memory();
        let before = ServerTime::load(db.clone(), Clock::system()).await;
        before.told(next_year() * 2).await;
        let time = ServerTime::load(db.clone(), Clock::system()).await;
        time.told(next_year()).await;
        assert!(after_a_boot(&db).await < next_year() + HOUR);
    }
}
