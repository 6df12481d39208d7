//! The certificate of one session: made anew while the session goes on.
//!
//! The session never waits for the cluster here: beats are answered meanwhile.
//!
//! **Invariant:** at most one renewal of a session is under way, and one in [`EVERY`] begins.

use std::{sync::Arc, time::Duration};

use protocol::{
    join::{EnrollRefusal, RefusalCode},
    tls::PeerIdentity,
    wire::{RenewRefused, Renewed as RenewedFrame, session_down},
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tracing::{Instrument, info};

use crate::enroll::{Authority, Renewed};

/// An honest edge asks a few times in the life of its certificate, and that is a minute at least.
const EVERY: Duration = Duration::from_secs(5);
/// What the cluster may take over it.
const LIMIT: Duration = Duration::from_secs(20);
/// When to ask again after what may pass.
const LATER: Duration = Duration::from_secs(10);

/// What came of a renewal.
pub(super) type Outcome = Result<Renewed, RenewRefused>;

/// Renews one session's certificate.
#[derive(Default)]
pub(super) struct Renewals {
    working: JoinSet<Outcome>,
    last: Option<Instant>,
}

impl Renewals {
    /// Begins one, or says why not now.
    pub(super) fn begin(
        &mut self,
        authority: &Arc<Authority>,
        peer: &PeerIdentity,
        csr: String,
    ) -> Result<(), RenewRefused> {
        let now = Instant::now();
        if !self.working.is_empty() || self.last.is_some_and(|last| now < last + EVERY) {
            return Err(later("a certificate was asked for a moment ago"));
        }
        self.last = Some(now);
        let (authority, peer) = (Arc::clone(authority), peer.clone());
        let work = async move {
            let renewed = timeout(LIMIT, authority.renew(&peer, &csr)).await;
            let slow = || Err(later("the cluster's API server is too slow just now"));
            renewed.map_or_else(|_| slow(), |renewed| renewed.map_err(refused))
        };
        self.working.spawn(work.in_current_span());
        Ok(())
    }

    /// What came of it; waits for ever while nothing is under way.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(super) async fn done(&mut self) -> Outcome {
        match self.working.join_next().await {
            Some(done) => done.unwrap_or_else(|_| Err(later("the renewal broke off"))),
            None => std::future::pending().await,
        }
    }
}

/// The frame that tells the edge; with a new certificate the session has its authority.
pub(super) fn told(outcome: Outcome, peer: &mut PeerIdentity) -> session_down::Kind {
    match outcome {
        Ok(Renewed { certificate, ends }) => {
            let left = ends.duration_since(peer.expires).unwrap_or_default();
            info!(
                longer = protocol::tls::human(left),
                "the session's certificate was renewed"
            );
            peer.expires = ends.max(peer.expires);
            session_down::Kind::Renewed(RenewedFrame { certificate })
        }
        Err(refused) => session_down::Kind::RenewRefused(refused),
    }
}

fn refused(refusal: EnrollRefusal) -> RenewRefused {
    let EnrollRefusal { code, text, .. } = refusal;
    if matches!(code, RefusalCode::Busy | RefusalCode::Unavailable) {
        later(&text)
    } else {
        RenewRefused {
            text,
            retry_after_ms: 0,
        }
    }
}

fn later(text: &str) -> RenewRefused {
    RenewRefused {
        text: text.to_owned(),
        retry_after_ms: u64::try_from(LATER.as_millis()).unwrap_or(u64::MAX),
    }
}
