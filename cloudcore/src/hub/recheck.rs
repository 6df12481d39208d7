//! Whether a session's edge is still who it was: asked again whenever keys or bans change.
//!
//! The session never waits for the cluster here: beats are answered meanwhile.
//!
//! **Invariants:** only an answer ends a session, and it is asked for until there is one; a change during a look is
//! followed by another look.

use std::{sync::Arc, time::Duration};

use protocol::tls::PeerIdentity;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{Instrument, warn};

use crate::enroll::{Authority, AuthorityError, Rejected};

/// When keys that could not be read are read again, at the earliest and with the spread: all sessions look at once.
const AFTER: Duration = Duration::from_secs(2);
const SPREAD_MS: u64 = 3000;

type Answer = Result<Result<(), Rejected>, AuthorityError>;

/// The looks of one session.
#[derive(Default)]
pub(super) struct Rechecks {
    working: JoinSet<Answer>,
    /// When to look, if no look is under way.
    due: Option<Instant>,
}

impl Rechecks {
    /// Keys or bans changed.
    pub(super) fn changed(&mut self) {
        self.due = Some(Instant::now());
    }

    /// Looks when there is a reason; returns what the edge is rejected for.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(super) async fn rejected(&mut self, authority: &Arc<Authority>, peer: &PeerIdentity) -> Rejected {
        loop {
            if self.working.is_empty() {
                at(self.due).await;
                self.due = None;
                // As good as always.
                if authority.check(peer).is_ok() {
                    continue;
                }
                let (authority, peer) = (Arc::clone(authority), peer.clone());
                let look = async move { authority.admit(&peer).await };
                self.working.spawn(look.in_current_span());
            }
            match self.working.join_next().await {
                Some(Ok(Ok(Err(rejected)))) => return rejected,
                Some(Ok(Err(error))) => self.again(&error),
                Some(Err(error)) => self.again(&error),
                Some(Ok(Ok(Ok(())))) | None => {}
            }
        }
    }

    fn again(&mut self, error: &(dyn std::error::Error + 'static)) {
        warn!(
            error,
            "keys could not be checked; the session goes on until they can"
        );
        let spread = Duration::from_millis(rand::random_range(0..SPREAD_MS));
        self.due = Some(Instant::now() + AFTER + spread);
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}
