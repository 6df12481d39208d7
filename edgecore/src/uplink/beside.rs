//! A second connection beside one that is in doubt; the first that answers wins. Beside a WebSocket
//! in good health, QUIC is tried now and then.
//!
//! ```text
//! Fine ──6 s without an answer──► Silent ──dial──► Hello ──Welcome──► the session moves
//!  │ ▲                               │               ▲
//!  │ └────── the old one answers ────┘               │
//!  └──over WebSocket, now and then──► QUIC answers ──┘
//! ```
//!
//! **Invariant:** Hello is said on the second connection only while the first is in doubt, or when
//! the second is the better transport, and is not taken back: the cloud may have ended the older
//! session by then.

use std::sync::Arc;
use std::time::Duration;

use protocol::transport::{CloseCode, Connection, Transport};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::dial::DialError;
use super::ended::Ended;
use super::greet::Greeted;
use super::pace::pace;
use super::{Address, Uplink};
use crate::backoff::{Backoff, Pace};

/// Edges of a replica that lost its API server do not all leave at once.
const DEGRADED_SPREAD: Duration = Duration::from_secs(5);

/// Between two tries to find a replica that reaches its API server. An outage for all replicas is the usual case: each
/// try costs a handshake, and not one of them helps.
const ELSEWHERE: Pace = Pace {
    first: Duration::from_secs(30),
    longest: Duration::from_mins(5),
    sure: 0.5,
};

/// What a session knows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// Nothing is wrong.
    Fine,
    /// The cloud has not answered for too long.
    Silent,
    /// This replica has lost its API server; another may not have.
    Degraded,
}

/// Watches one session's health, and looks for something better.
pub(super) struct Doubt<'a> {
    pub(super) uplink: &'a Uplink,
    /// The address that the session was dialled at.
    pub(super) here: &'a Address,
    /// What carries the session.
    pub(super) transport: Transport,
    pub(super) health: watch::Receiver<Health>,
    pub(super) over: &'a CancellationToken,
    pub(super) stop: &'a CancellationToken,
}

impl<'a> Doubt<'a> {
    /// Ends with the session; or ends it, with a better one.
    pub(super) async fn better(mut self) -> Option<Greeted> {
        let mut probes = self.uplink.dialer.ways().probes();
        let mut probe = Instant::now() + probes.pause(rand::random::<f64>());
        while let Some(health) = self.doubted(probe).await {
            let better = match health {
                Health::Fine => {
                    let better = self.upgrade().await;
                    probe = Instant::now() + probes.pause(rand::random::<f64>());
                    better
                }
                Health::Silent => self.redial().await,
                Health::Degraded => self.elsewhere().await,
            };
            if better.is_some() {
                self.over.cancel();
                return better;
            }
        }
        None
    }

    /// Dials until something answers, here or there.
    async fn redial(&mut self) -> Option<Greeted> {
        let mut backoff = Backoff::default();
        let mut tries = 0;
        loop {
            let address = self.address(tries);
            tries += 1;
            let failed = match self.second(address, Health::Silent).await? {
                Ok(better) => return Some(better),
                Err(failed) => failed,
            };
            tracing::debug!(%address, error = %failed, "the second connection failed too");
            let own = backoff.pause(pace(Duration::ZERO), rand::random());
            let pause = failed.pause(own);
            tokio::select! {
                () = self.passed(Health::Silent) => return None,
                () = sleep(pause) => {}
            }
        }
    }

    /// Tries whether another replica reaches its API server: soon, and now and then after that. A balancer may choose
    /// the same replica again, which stays ready while all of them are cut off.
    async fn elsewhere(&mut self) -> Option<Greeted> {
        let mut backoff = Backoff::default();
        let mut pause = DEGRADED_SPREAD.mul_f64(rand::random::<f64>());
        let mut tries = 0;
        loop {
            tokio::select! {
                () = self.passed(Health::Degraded) => return None,
                () = sleep(pause) => {}
            }
            tries += 1;
            let address = self.address(tries);
            let own = backoff.pause(ELSEWHERE, rand::random());
            pause = match self.second(address, Health::Degraded).await? {
                Ok(better) if better.welcome.api_reachable => return Some(better),
                Ok(no_better) => {
                    no_better
                        .connection
                        .close(CloseCode::Done, "it reaches no API server either");
                    own
                }
                Err(failed) => {
                    tracing::debug!(%address, error = %failed, "no other replica took the session");
                    failed.pause(own)
                }
            };
        }
    }

    /// Tries whether QUIC works (again).
    async fn upgrade(&mut self) -> Option<Greeted> {
        let (uplink, here) = (self.uplink, self.here);
        let dialled = tokio::select! {
            () = self.passed(Health::Fine) => return None,
            dialled = uplink.dialer.probe(here) => dialled,
        };
        match self.greet(self.here, dialled).await {
            Ok(better) => Some(better),
            Err(failed) => {
                tracing::debug!(address = %self.here, error = %failed, "QUIC does not work yet");
                None
            }
        }
    }

    /// One more connection; nothing when the doubt has passed before Hello.
    async fn second(&mut self, address: &Address, doubt: Health) -> Option<Result<Greeted, Ended>> {
        let uplink = self.uplink;
        let dialled = tokio::select! {
            () = self.passed(doubt) => return None,
            dialled = uplink.dialer.dial(address) => dialled,
        };
        Some(self.greet(address, dialled).await)
    }

    async fn greet(
        &self,
        address: &Address,
        dialled: Result<Arc<dyn Connection>, DialError>,
    ) -> Result<Greeted, Ended> {
        let connection = dialled.map_err(Ended::NotDialled)?;
        tokio::select! {
            () = self.stop.cancelled() => Err(Ended::Stopped),
            greeted = self.uplink.greet(address, connection) => greeted,
        }
    }

    /// The next doubt, or `Fine` when it is time to try QUIC; nothing once the session is over.
    async fn doubted(&mut self, probe: Instant) -> Option<Health> {
        tokio::select! {
            () = self.over.cancelled() => None,
            () = sleep_until(probe), if self.transport == Transport::WebSocket => Some(Health::Fine),
            health = self.health.wait_for(|health| *health != Health::Fine) => Some(*health.ok()?),
        }
    }

    /// Waits until this doubt is no more, or the session is over.
    async fn passed(&mut self, doubt: Health) {
        tokio::select! {
            () = self.over.cancelled() => {}
            _ = self.health.wait_for(|health| *health != doubt) => {}
        }
    }

    fn address(&self, further: usize) -> &'a Address {
        let all = &self.uplink.addresses;
        let here = all.iter().position(|address| address == self.here);
        &all[(here.unwrap_or_default() + further) % all.len()]
    }
}
