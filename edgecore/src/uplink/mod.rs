//! The link to cloudcore: dialing, backing off, the session and its flows.
//!
//! ```text
//! Offline ──dial──► Hello ──Welcome──► Connected ──silence, close, goodbye──► Offline
//!    ▲                └──Reject──┐
//!    └────────── pause ◄─────────┘
//! ```
//!
//! A session is a few loops over one connection: beats, the desired flow, the reported flow,
//! whatever the cloud dials, and the watch for something better. The first that ends for good ends
//! the session; flows whose stream was reset are opened again. When beats go unanswered, a second
//! connection is tried beside the first, and the session moves to it if it answers sooner. Over a
//! WebSocket it asks now and then whether QUIC works again, and moves when it does. A certificate
//! that has ended is renewed before anything is dialled with it.
//!
//! What it does not do: decide what is newer or what to report; the cores of `protocol` do.
//!
//! **Invariant:** no loop is dropped half way through a commit; the session ends only when each
//! of its loops has seen the stop.

mod api;
mod beats;
mod beside;
mod budget;
mod desired;
mod dial;
mod ended;
pub(crate) mod enrolment;
mod greet;
mod nudge;
mod pace;
mod probes;
mod pulse;
mod race;
mod reach;
mod reopen;
mod server_time;
mod session;
mod state;
mod ways;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use protocol::class::Class;
use protocol::clock::Clock;
use protocol::name::ServiceName;
use protocol::transport::{Connection, Stream, Traffic, TransportError, TunnelError};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::config::Address;
use crate::identity::Identity;
use crate::network::api as pod_api;
use crate::reported::Reporter;

use nudge::{Nudged, Nudges};
use reopen::Troubles;

pub use budget::{BudgetState, Budgets, Spent};
pub use desired::{DesiredFlow, FlowError};
pub use dial::{Dial, DialError, Dialer, Dialling, Renewing};
pub use ended::Ended;
pub use enrolment::RenewError;
pub use nudge::{follow_address, notice_sleep};
pub use pace::pace;
pub use reach::{ReachError, reach};
pub use server_time::ServerTime;
pub use state::LinkState;
pub use ways::Ways;

/// What the uplink is made of.
pub struct Uplink {
    /// Where cloudcore is reached; tried in turn.
    pub addresses: Vec<Address>,
    /// Makes the connections.
    pub dialer: Arc<dyn Dial>,
    /// The one clock.
    pub clock: Clock,
    /// Keeps what the cloud says of the time.
    pub server_time: Arc<ServerTime>,
    /// Random, new at each start of edgecore.
    pub boot_id: [u8; 16],
    /// The desired flow.
    pub desired: Arc<DesiredFlow>,
    /// This node's certificate.
    pub identity: Arc<Identity>,
    /// The reported flow.
    pub reporter: Arc<Reporter>,
    /// Counts the rounds of the pod loop.
    pub progress: crate::pods::manager::Progress,
    /// How others see the link.
    pub link: Link,
}

/// How others see the link, and dial tunnels on it. Clones share it.
#[derive(Clone)]
pub struct Link {
    state: Arc<watch::Sender<LinkState>>,
    connection: Arc<watch::Sender<Option<Arc<dyn Connection>>>>,
    budgets: Arc<Budgets>,
    nudges: Nudges,
    troubles: Troubles,
}

/// Why a tunnel could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LinkError {
    /// There is no session.
    #[error("the link to cloudcore is down")]
    Offline,
    /// It would cost more than the operator allows in a day.
    #[error(transparent)]
    Spent(#[from] Spent),
    /// The other end did not take it.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
}

impl Link {
    /// A link that is not up yet, and may cost what `budgets` says.
    pub fn within(budgets: Budgets, clock: &Clock) -> Self {
        Self {
            state: Arc::new(watch::channel(LinkState::starting(clock.now())).0),
            connection: Arc::new(watch::channel(None).0),
            budgets: Arc::new(budgets),
            nudges: Nudges::default(),
            troubles: Troubles::default(),
        }
    }

    /// A link that is not up yet, and may cost what it likes.
    pub fn new(clock: &Clock) -> Self {
        Self::within(Budgets::none(clock.clone()), clock)
    }

    /// What went to the cloud and came from it since edgecore started, by class.
    pub fn traffic(&self) -> &Traffic {
        self.budgets.traffic()
    }

    /// What tunnels may cost, and have cost today.
    pub fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// How it is now, and every change of it.
    pub fn watch(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    /// Flows whose streams end before they work, one line each.
    pub fn troubles(&self) -> Vec<String> {
        self.troubles.told()
    }

    /// The device has slept, or has another address: a session asks at once whether it is still answered,
    /// and without one the next dial is made at once, unless cloudcore has said when.
    pub fn nudge(&self) {
        self.nudges.give();
    }

    fn nudges(&self) -> Nudged {
        self.nudges.follow()
    }

    /// The other end of the connection: cloudcore, or the proxy on the way to it.
    pub fn remote(&self) -> Option<IpAddr> {
        let connection = self.connection.borrow();
        connection.as_ref().map(|connection| connection.remote().ip())
    }

    /// Opens a tunnel to a service in the cluster; fails at once while the link is down, or when the
    /// budget of its class is spent.
    pub async fn tunnel(&self, service: ServiceName) -> Result<Stream, LinkError> {
        self.budgets.admit(Class::of_service(service))?;
        let connection = self.connection.borrow().clone().ok_or(LinkError::Offline)?;
        Ok(protocol::transport::dial(&*connection, service, "").await?)
    }

    /// The same, as a function that the listener for pods can hold.
    pub fn dialer(&self, service: ServiceName) -> pod_api::Dial {
        let link = self.clone();
        Arc::new(move || -> BoxFuture<'static, _> {
            let link = link.clone();
            Box::pin(async move {
                link.tunnel(service).await.map_err(|error| match error {
                    LinkError::Offline => pod_api::DialError::Offline,
                    LinkError::Spent(_) | LinkError::Tunnel(_) => pod_api::DialError::Refused(error.into()),
                })
            })
        })
    }

    fn set(&self, state: LinkState) {
        self.state.send_replace(state);
    }

    fn serve(&self, connection: Option<Arc<dyn Connection>>) {
        self.connection.send_replace(connection);
    }
}

impl Uplink {
    /// Keeps a session until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(self.sessions(&stop), self.server_time.keep(&stop));
    }

    /// One session after the other.
    async fn sessions(&self, stop: &CancellationToken) {
        let mut backoff = Backoff::default();
        let mut last_good = Instant::now();
        let mut next = 0_usize;
        while !stop.is_cancelled() {
            let address = &self.addresses[next % self.addresses.len()];
            next += 1;
            let began = Instant::now();
            let ended = self.once(address, stop).await;
            if ended.certificate_has_ended() {
                self.identity.refused_as_ended();
            }
            if let Some(by) = ended.server_ended() {
                self.server_time.doubt(by);
            }
            if ended.was_good(began.elapsed()) {
                backoff.reset();
                last_good = Instant::now();
                next -= 1;
            }
            let own = backoff.pause(pace(last_good.elapsed()), rand::random());
            let pause = ended.pause(own);
            let mut nudges = self.link.nudges();
            self.offline(address, &ended, pause);
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(pause) => {}
                () = nudges.next(), if pause == own => {}
            }
        }
    }

    /// One attempt, and the sessions that came of it: one may move to a second connection.
    async fn once(&self, address: &Address, stop: &CancellationToken) -> Ended {
        let met = tokio::select! {
            () = stop.cancelled() => return Ended::Stopped,
            met = self.meet(address) => met,
        };
        let mut greeted = match met {
            Ok(greeted) => greeted,
            Err(ended) => return ended,
        };
        loop {
            let (ended, better) = self.session(greeted, stop).await;
            let Some(better) = better else {
                self.link.serve(None);
                return ended;
            };
            greeted = better;
        }
    }

    fn offline(&self, address: &Address, ended: &Ended, pause: Duration) {
        let reason = ended.to_string();
        let before = self.link.state.borrow().clone();
        if before.last_error() != Some(&reason) {
            tracing::warn!(%address, reason, "there is no link");
        }
        let now = self.clock.now();
        self.link.set(before.offline(now, address, reason, pause));
    }
}

/// The transport's error, whatever the seam it came through.
impl From<TransportError> for LinkError {
    fn from(error: TransportError) -> Self {
        Self::Tunnel(error.into())
    }
}

#[cfg(test)]
mod tests;
