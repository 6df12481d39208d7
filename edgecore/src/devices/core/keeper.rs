//! What time does: values go stale, wishes end, cycles end, the clock is set.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Core, Release};
use crate::devices::twin::Event;

/// Between two looks at what was touched: what comes in between is told once.
const PACE: Duration = Duration::from_millis(20);
/// The link and the clock are looked at so often.
const LOOK: Duration = Duration::from_secs(1);
/// A clock that moves further than this was set, and did not drift.
const JUMP: i64 = 5_000;
/// The log says how the clock stands so exactly.
const DRIFT: i64 = 1_000;

/// What the keeper remembers from one look to the next.
struct Watch {
    away: bool,
    anchor: Option<i64>,
    logged: Option<i64>,
    looked: Instant,
}

impl Core {
    /// Lets time pass until `stop`.
    pub(super) async fn keep(&self, stop: &CancellationToken) {
        let mut watch = Watch {
            away: self.book.lock().is_away(),
            anchor: self.anchor(),
            logged: None,
            looked: Instant::now(),
        };
        while !stop.is_cancelled() {
            self.look(&mut watch);
            self.step(Release::Due);
            let until = self.until_due();
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.touched.notified() => {}
                () = sleep(until) => {}
            }
            sleep(PACE).await;
        }
    }

    /// Does what is due.
    pub(super) fn step(&self, release: Release) {
        let names = self.book.lock().names_to_see(self.mono(), release);
        let mut wishes = false;
        for name in names {
            // One at a time: reports need not wait for all of them.
            let mut book = self.book.lock();
            let Ok(now) = self.moment(&book) else {
                book.touch_all();
                return;
            };
            wishes |= book.step(&name, Event::Tick, now, release);
        }
        if wishes {
            self.changed.send_modify(|count| *count += 1);
        }
        let wants_log = self.book.lock().wants_log(self.mono());
        if wants_log {
            self.rewrite_log();
        }
    }

    fn until_due(&self) -> Duration {
        let due = self.book.lock().next_due();
        let left = due.map_or(i64::MAX, |due| due.saturating_sub(self.mono()));
        Duration::from_millis(left.max(0).unsigned_abs()).min(LOOK)
    }

    fn look(&self, watch: &mut Watch) {
        if watch.looked.elapsed() < LOOK {
            return;
        }
        watch.looked = Instant::now();
        let away = self.book.lock().is_away();
        if away != watch.away {
            watch.away = away;
            // Cycles hold nothing back while nobody hears it, and flash must have all there is.
            self.book.lock().touch_all();
            self.wanted.notify_one();
        }
        let Some(anchor) = self.anchor() else { return };
        if let Some(before) = watch.anchor.replace(anchor) {
            self.clock_moved(before, anchor);
        }
        if watch.logged.is_none_or(|logged| (anchor - logged).abs() > DRIFT) {
            watch.logged = Some(anchor);
            self.book.lock().log_anchor(anchor);
        }
    }

    /// Times that were taken before a start in the same boot, when the clock was not set yet.
    pub(super) fn correct_times(&self) {
        let before = self.book.lock().recalled_anchor();
        if let (Some(before), Some(anchor)) = (before, self.anchor()) {
            self.clock_moved(before, anchor);
        }
    }

    /// A clock that was set back changes nothing: times never move backwards.
    fn clock_moved(&self, before: i64, anchor: i64) {
        let by = anchor - before;
        if by < JUMP {
            return;
        }
        tracing::info!(
            by,
            "the clock was set; the times of values that were taken before are corrected"
        );
        let names: Vec<_> = self.book.lock().entries.keys().cloned().collect();
        for name in names {
            let mut book = self.book.lock();
            let Ok(now) = self.moment(&book) else { return };
            let event = Event::ClockSet { since: before, by };
            book.step(&name, event, now, Release::Due);
        }
    }
}
