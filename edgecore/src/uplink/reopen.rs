//! When a flow whose stream has ended gets the next one, and what is said of it.
//!
//! The other end may refuse a stream for a reason that lasts. So the pauses grow, and a reason is logged once, until
//! a stream does what it is for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::backoff::{Backoff, Pace};

/// How long the pauses are.
const PACE: Pace = Pace {
    first: Duration::from_secs(1),
    longest: Duration::from_mins(5),
    sure: 0.75,
};
/// A stream that lasted for so long was not refused.
const LASTING: Duration = PACE.longest;

/// Flows whose last stream ended before it did what it is for: when, and why. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Troubles(Arc<Mutex<BTreeMap<&'static str, (Instant, String)>>>);

impl Troubles {
    /// One line each. A flow that had nothing to carry since is in no trouble any more.
    pub(super) fn told(&self) -> Vec<String> {
        let troubles = self.0.lock();
        let fresh = troubles.iter().filter(|(_, (at, _))| at.elapsed() < 2 * LASTING);
        fresh
            .map(|(flow, (_, why))| format!("the {flow} stream is opened again and again: {why}"))
            .collect()
    }

    fn tell(&self, flow: &'static str, why: String) {
        self.0.lock().insert(flow, (Instant::now(), why));
    }

    fn end(&self, flow: &str) {
        self.0.lock().remove(flow);
    }
}

/// The streams of one flow, one after the other, in one session.
pub(super) struct Reopen<'a> {
    flow: &'static str,
    troubles: &'a Troubles,
    backoff: Backoff,
    opened: Instant,
    works: AtomicBool,
    said: String,
}

impl<'a> Reopen<'a> {
    pub(super) fn of(flow: &'static str, troubles: &'a Troubles) -> Self {
        Self {
            flow,
            troubles,
            backoff: Backoff::default(),
            opened: Instant::now(),
            works: AtomicBool::new(false),
            said: String::new(),
        }
    }

    /// A stream is open.
    pub(super) fn opened(&mut self) {
        self.opened = Instant::now();
        self.works.store(false, Ordering::Relaxed);
    }

    /// It does what it is for.
    pub(super) fn works(&self) {
        if !self.works.swap(true, Ordering::Relaxed) {
            self.troubles.end(self.flow);
        }
    }

    /// It has ended, and why. Waits until the next is to be opened.
    pub(super) async fn pause(&mut self, why: String, over: &CancellationToken) {
        if over.is_cancelled() {
            return;
        }
        if self.works.load(Ordering::Relaxed) || self.opened.elapsed() >= LASTING {
            self.backoff.reset();
            self.said.clear();
        }
        let pause = self.backoff.pause(PACE, rand::random());
        if self.said == why {
            tracing::debug!(flow = self.flow, why, ?pause, "a stream has ended again");
        } else {
            tracing::warn!(
                flow = self.flow,
                why,
                "a stream has ended; it is opened again, later each time"
            );
            self.said.clone_from(&why);
        }
        self.troubles.tell(self.flow, why);
        tokio::select! {
            () = over.cancelled() => {}
            () = sleep(pause) => {}
        }
    }
}

impl Drop for Reopen<'_> {
    /// Of the next session nothing is known yet.
    fn drop(&mut self) {
        self.troubles.end(self.flow);
    }
}
