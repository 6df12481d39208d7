//! The last time that the cloud told, kept for a start without a link.
//!
//! A device without a battery for its clock boots in 1970. Its pods' certificates and tokens should
//! not be judged by that while the link is down.

use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use protocol::clock::Clock;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::store::{Batch, Db, StoreError, Table};

/// The row of [`Table::Meta`].
const LAST: &str = "server-time";
/// Flash wears out: a link that comes and goes writes no more often than this.
const KEEP_EVERY: Duration = Duration::from_hours(24);
/// A disk that did not take it is left alone for so long.
const AGAIN_AFTER: Duration = Duration::from_hours(1);

/// Tells the clock what servers told, in this run and the last.
#[derive(Debug)]
pub struct ServerTime {
    db: Db,
    clock: Clock,
    /// What this run has kept, in milliseconds since 1970.
    kept: Mutex<Option<u64>>,
    /// What is to be kept.
    wanted: watch::Sender<Option<Row>>,
}

/// What is to stand on flash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    Told(u64),
    /// What stands there is wrong.
    Nothing,
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
            wanted: watch::channel(None).0,
        }
    }

    /// A server told the time; 0 says nothing. The first of a run is kept even if it is earlier
    /// than what was kept before: a server's clock may have been mended.
    pub fn told(&self, millis: u64) {
        self.clock.saw_server_millis(millis);
        if millis != 0 && self.is_worth_keeping(millis) {
            self.wanted.send_replace(Some(Row::Told(millis)));
        }
    }

    /// A server's certificate ended `by` so long ago by the clock, and no session can be made to hear better.
    /// If only what servers told makes it so, that is forgotten, here and on flash.
    pub fn doubt(&self, by: Duration) {
        if !self.clock.doubt_servers(by) {
            return;
        }
        tracing::warn!(
            "cloudcore's certificate has ended by a time that a server told, and has not by this machine's: \
             the clock of a cloudcore was ahead; its time is forgotten"
        );
        // The first that is told from here on is kept, whatever comes of the deletion.
        *self.kept.lock() = None;
        self.wanted.send_replace(Some(Row::Nothing));
    }

    /// Writes what is to be kept, until `stop`. The link waits for none of it.
    pub(super) async fn keep(&self, stop: &CancellationToken) {
        let mut wanted = self.wanted.subscribe();
        loop {
            let kept = async {
                // The sender is this value's own: it does not close.
                let row = wanted.wait_for(Option::is_some).await.ok().and_then(|row| *row);
                let Some(row) = row else { return };
                if let Err(error) = self.write(row).await {
                    tracing::warn!(%error, "the server's time was not kept");
                    sleep(AGAIN_AFTER).await;
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = kept => {}
            }
        }
    }

    async fn write(&self, row: Row) -> Result<(), StoreError> {
        let batch = match row {
            Row::Told(millis) => {
                Batch::new().put(Table::Meta, LAST, Bytes::copy_from_slice(&millis.to_be_bytes()))
            }
            Row::Nothing => Batch::new().delete(Table::Meta, LAST),
        };
        self.db.commit(batch).await?;
        self.wanted.send_if_modified(|wanted| {
            // A newer time is told again when it is worth another write; anything else is still to be done.
            let is_done = match (row, *wanted) {
                (Row::Told(millis), Some(Row::Told(_))) => {
                    *self.kept.lock() = Some(millis);
                    true
                }
                (Row::Nothing, Some(Row::Nothing)) => true,
                (Row::Told(_) | Row::Nothing, Some(Row::Told(_) | Row::Nothing) | None) => false,
            };
            if is_done {
                *wanted = None;
            }
            is_done
        });
        Ok(())
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
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::store::Store;
    use protocol::clock::{build_time, millis};

    const HOUR: u64 = 3_600_000;

    fn next_year() -> u64 {
        millis(build_time()) + 365 * 24 * HOUR
    }

    /// Waits until all is kept that is to be.
    async fn settled(time: &ServerTime) {
        let mut wanted = time.wanted.subscribe();
        let never = CancellationToken::new();
        tokio::select! {
            () = time.keep(&never) => {}
            done = wanted.wait_for(Option::is_none) => assert!(done.is_ok()),
        }
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
        time.told(0);
        settled(&time).await;
        assert!(after_a_boot(&db).await < next_year());
        time.told(next_year());
        settled(&time).await;
        assert!(after_a_boot(&db).await >= next_year());
    }

    #[tokio::test]
    async fn the_time_is_written_once_a_day() {
        let db = Db::in_memory();
        let time = ServerTime::load(db.clone(), Clock::system()).await;
        let stored = async || db.get(Table::Meta, LAST).await.unwrap().unwrap();
        time.told(next_year());
        settled(&time).await;
        let first = stored().await;
        time.told(next_year() + 23 * HOUR);
        settled(&time).await;
        assert_eq!(stored().await, first);
        time.told(next_year() + 25 * HOUR);
        settled(&time).await;
        assert_ne!(stored().await, first);
    }

    #[tokio::test]
    async fn a_time_that_is_doubted_is_forgotten_on_flash_too_unless_the_certificate_has_ended_anyway() {
        let db = Db::in_memory();
        let clock = Clock::system();
        let time = ServerTime::load(db.clone(), clock.clone()).await;
        let ahead = Duration::from_hours(180 * 24);
        let wrong = millis(clock.now() + ahead);
        time.told(wrong);
        settled(&time).await;
        time.doubt(2 * ahead);
        settled(&time).await;
        assert!(clock.now_millis() >= wrong && after_a_boot(&db).await >= wrong);
        time.doubt(ahead / 2);
        settled(&time).await;
        assert!(clock.now_millis() < wrong && after_a_boot(&db).await < wrong);
    }

    #[tokio::test]
    async fn a_mended_servers_time_replaces_what_an_earlier_run_kept() {
        let db = Db::in_memory();
        let before = ServerTime::load(db.clone(), Clock::system()).await;
        before.told(next_year() * 2);
        settled(&before).await;
        let time = ServerTime::load(db.clone(), Clock::system()).await;
        time.told(next_year());
        settled(&time).await;
        assert!(after_a_boot(&db).await < next_year() + HOUR);
    }

    #[tokio::test]
    async fn a_time_that_is_told_after_a_wrong_one_was_doubted_is_kept() {
        let db = Db::in_memory();
        let clock = Clock::system();
        let time = ServerTime::load(db.clone(), clock.clone()).await;
        let ahead = Duration::from_hours(180 * 24);
        time.told(millis(clock.now() + ahead));
        settled(&time).await;
        time.doubt(ahead / 2);
        let right = millis(clock.now()) + HOUR;
        time.told(right);
        settled(&time).await;
        assert_eq!(*time.kept.lock(), Some(right));
    }

    /// Takes nothing, and counts how often it was asked to.
    struct Full(Arc<AtomicUsize>);

    impl Store for Full {
        fn get(&self, _table: Table, _key: &str) -> Result<Option<Bytes>, StoreError> {
            Ok(None)
        }

        fn scan(&self, _: Table, _: Option<&str>, _: usize) -> Result<Vec<(String, Bytes)>, StoreError> {
            Ok(Vec::new())
        }

        fn commit(&mut self, _batch: &Batch) -> Result<(), StoreError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Err(StoreError::Full {
                path: "/x".into(),
                free: 0,
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_is_full_is_asked_once_an_hour_and_not_at_every_beat() {
        const BEAT: Duration = Duration::from_secs(25);
        let attempts = Arc::new(AtomicUsize::new(0));
        let db = Db::start("full", Full(Arc::clone(&attempts))).unwrap();
        let time = ServerTime::load(db, Clock::system()).await;
        let stop = CancellationToken::new();
        let beats = async {
            let mut beat = 0;
            let mut until = async |count| {
                while attempts.load(Ordering::SeqCst) < count {
                    beat += 1;
                    time.told(next_year() + beat * 25_000);
                    sleep(BEAT).await;
                    // The store is a thread, which virtual time does not wait for.
                    std::thread::yield_now();
                }
                beat
            };
            let first = until(1).await;
            let second = until(2).await;
            stop.cancel();
            second - first
        };
        let (beats, ()) = tokio::join!(beats, time.keep(&stop));
        assert!(beats >= 3_600 / 25 - 1, "{beats}");
    }
}
