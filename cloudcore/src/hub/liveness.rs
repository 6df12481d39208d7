//! Whether an edge is alive, and whether its Lease deserves to be renewed. Pure.
//!
//! A stuck pod loop stops the Lease although beats arrive; silence ends the session.

use std::time::Duration;

use protocol::transport::Transport;
use tokio::time::Instant;

/// Beats within which the pod loop must have moved.
const STALLED: u32 = 2;
/// What a beat may be late on a slow link.
const SLACK: Duration = Duration::from_secs(5);

/// What the beats said.
#[derive(Clone, Debug)]
pub(super) struct Liveness {
    transport: Transport,
    heard: Instant,
    progress: Option<u64>,
    moved: Instant,
}

impl Liveness {
    pub(super) const fn new(transport: Transport, now: Instant) -> Self {
        Self {
            transport,
            heard: now,
            progress: None,
            moved: now,
        }
    }

    /// A beat came.
    pub(super) fn beat(&mut self, progress: u64, now: Instant) {
        self.heard = now;
        if self.progress.is_none_or(|before| progress > before) {
            self.moved = now;
        }
        self.progress = Some(progress);
    }

    /// When the session is over unless a beat comes.
    pub(super) fn deadline(&self) -> Instant {
        self.heard + self.transport.keepalive() * self.transport.missed() + SLACK
    }

    /// Whether the pod loop has moved of late.
    pub(super) fn deserves_lease(&self, now: Instant) -> bool {
        now < self.moved + self.transport.keepalive() * STALLED + SLACK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_secs(25);

    #[test]
    fn three_missed_beats_end_the_session() {
        let start = Instant::now();
        let mut liveness = Liveness::new(Transport::Quic, start);
        assert_eq!(liveness.deadline(), start + BEAT * 3 + SLACK);
        liveness.beat(1, start + BEAT);
        assert_eq!(liveness.deadline(), start + BEAT * 4 + SLACK);
    }

    #[test]
    fn over_a_websocket_two_missed_beats_do() {
        let start = Instant::now();
        let liveness = Liveness::new(Transport::WebSocket, start);
        assert_eq!(liveness.deadline(), start + Duration::from_secs(80) + SLACK);
    }

    #[test]
    fn a_pod_loop_that_stands_still_for_two_beats_loses_the_lease() {
        let start = Instant::now();
        let mut liveness = Liveness::new(Transport::Quic, start);
        liveness.beat(7, start);
        liveness.beat(7, start + BEAT);
        assert!(liveness.deserves_lease(start + BEAT * 2));
        liveness.beat(7, start + BEAT * 2);
        assert!(!liveness.deserves_lease(start + BEAT * 2 + SLACK));
        liveness.beat(8, start + BEAT * 3);
        assert!(liveness.deserves_lease(start + BEAT * 3));
    }

    #[test]
    fn an_edge_that_started_anew_counts_from_nothing() {
        let start = Instant::now();
        let mut liveness = Liveness::new(Transport::Quic, start);
        liveness.beat(0, start + BEAT);
        assert!(liveness.deserves_lease(start + BEAT * 3));
    }
}
