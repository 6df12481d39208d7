//! The task that renews a session's Lease, and what it tells the session.
//!
//! **Invariant:** nobody's session outlives the task: the node would be taken for lost while its edge believes that it
//! is connected.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tracing::{debug, warn};

use super::{
    liveness::Liveness,
    seams::{Lease, Leases},
};
use crate::cluster::{LeaseError, RENEW_EVERY};

/// What the task has to say.
#[derive(Debug)]
pub(super) enum Note {
    /// Another session has the Lease; the task ends.
    Superseded(String),
    /// The API server does not answer, or refuses.
    Degraded,
    /// The task ended without a word: a bug in it.
    BrokeOff,
}

/// What the task says next.
///
/// # Cancel safety
///
/// No note is lost when dropped.
pub(super) async fn next(notes: &mut mpsc::Receiver<Note>) -> Note {
    notes.recv().await.unwrap_or(Note::BrokeOff)
}

/// Renews the Lease while the edge deserves it; ends when another session has it.
pub(super) async fn renew(
    mut lease: Box<dyn Lease>,
    leases: Arc<dyn Leases>,
    liveness: Arc<Mutex<Liveness>>,
    note: mpsc::Sender<Note>,
) {
    let mut ticks = interval_at(Instant::now() + RENEW_EVERY, RENEW_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut degraded = false;
    loop {
        ticks.tick().await;
        if !liveness.lock().deserves_lease(Instant::now()) {
            debug!("the edge's pod loop stands still: its lease is not renewed");
            continue;
        }
        match lease.renew().await {
            Ok(()) => {}
            Err(LeaseError::Superseded { by, .. }) => {
                // Fails when the session is over already.
                let _ = note.send(Note::Superseded(by)).await;
                return;
            }
            Err(error) => warn!(
                error = &error as &dyn std::error::Error,
                "the lease was not renewed"
            ),
        }
        let reachable = leases.reachable();
        if !reachable && !degraded {
            let _ = note.send(Note::Degraded).await;
        }
        degraded = !reachable;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protocol::{
        name::NodeName,
        transport::{BoxFuture, Transport},
    };
    use tokio::{task::JoinSet, time::timeout};

    use super::*;

    /// Leases with a bug.
    struct Buggy;

    impl Leases for Buggy {
        fn take<'a>(
            &'a self,
            _: &'a NodeName,
            _: &'a str,
        ) -> BoxFuture<'a, Result<Box<dyn Lease>, LeaseError>> {
            Box::pin(async { Ok(Box::new(Self) as Box<dyn Lease>) })
        }

        fn reachable(&self) -> bool {
            true
        }
    }

    impl Lease for Buggy {
        fn renew(&mut self) -> BoxFuture<'_, Result<(), LeaseError>> {
            Box::pin(async { panic!("a bug") })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_session_hears_that_nobody_renews_its_lease_any_more() {
        let liveness = Arc::new(Mutex::new(Liveness::new(Transport::Quic, Instant::now())));
        let (note, mut notes) = mpsc::channel(4);
        let mut renewing = JoinSet::new();
        renewing.spawn(renew(Box::new(Buggy), Arc::new(Buggy), liveness, note));
        let patience = Duration::from_mins(5);
        let heard = timeout(patience, next(&mut notes)).await.unwrap();
        assert!(matches!(heard, Note::BrokeOff), "{heard:?}");
    }
}
