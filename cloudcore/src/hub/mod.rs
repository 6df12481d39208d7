//! The edge side: one port, sessions, and who is connected here.
//!
//! What it is: handshakes and enrolment on one port, one task tree per session, the registry. What
//! it is not: it knows no object and no report; what a session's streams carry is served by
//! [`Services`], and the Lease by [`Leases`].
//!
//! ```text
//! UDP ─QUIC handshake────► admitted? ─Hello─► Lease fenced ─Welcome─► Live ─silence, Goodbye,─► Over
//! TCP ─TLS─► GET /v1/link ──┘   └──────────── Reject ◄──────┘         Superseded, ban, drain
//!       └──► POST /v1/enroll, /v1/renew ─► Authority
//! ```
//!
//! **Invariant:** a node has at most one session here, the newest; what is not yet authenticated is
//! bounded in number, bytes and time.

mod admission;
mod enrolment;
mod greet;
mod greeting;
mod lease;
mod listen;
mod liveness;
mod recheck;
mod registry;
mod renewal;
mod seams;
mod session;
mod streams;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use protocol::{
    clock::Clock,
    tls::{self, ClientCertificate, KeyHash, TlsSetupError},
    transport::{
        CloseCode, ReceiveBudget, Traffic,
        quic::{ListenError, QuicListener},
    },
};
use rustls::ServerConfig;
use thiserror::Error;
use tokio::{
    net::TcpListener,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{enroll::Authority, gcra::Rates};

pub use registry::Connected;
pub use seams::{ClusterLeases, Lease, Leases, Services, SessionInfo};

use admission::Admission;
use registry::Registry;

/// What the hub needs from outside.
pub struct Settings {
    /// The one port, UDP and TCP.
    pub listen: SocketAddr,
    /// This replica's name.
    pub replica: String,
    /// How long open tunnels outlive a drain or a newer session.
    pub tunnel_grace: Duration,
    /// What edges may have sent that was not read.
    pub receive_budget: ReceiveBudget,
    /// The program's clock.
    pub clock: Clock,
    /// Who may be a node.
    pub authority: Arc<Authority>,
    /// The nodes' Leases.
    pub leases: Arc<dyn Leases>,
    /// What sessions carry.
    pub services: Arc<dyn Services>,
}

/// Why the hub cannot listen.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubError {
    /// The TCP port.
    #[error("cannot listen on TCP {address}: is the port in use?")]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The UDP port.
    #[error("cannot listen for edges: is the port in use?")]
    Quic(#[from] ListenError),
    /// The certificates.
    #[error("TLS could not be set up")]
    Tls(#[from] TlsSetupError),
}

/// Why a hub ended that nobody told to stop.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubLost {
    /// A bug.
    #[error("a listener for edges broke off")]
    Panicked(#[source] JoinError),
    /// Its socket is of no use any more.
    #[error("a listener for edges ended by itself")]
    Closed,
}

/// Bound to its port, and not yet running.
pub struct Hub {
    shared: Arc<Shared>,
    quic: QuicListener,
    tcp: TcpListener,
    tcp_tls: Arc<ServerConfig>,
}

/// What every session needs.
struct Shared {
    settings: Settings,
    registry: Registry,
    admission: Admission,
    /// How often each key was greeted.
    greetings: Rates<KeyHash>,
    traffic: Arc<Traffic>,
}

/// Who is connected, for those who watch the hub.
#[derive(Clone)]
pub struct HubView(Arc<Shared>);

impl HubView {
    /// Every session there is.
    pub fn connected(&self) -> Vec<Connected> {
        self.0.registry.list()
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.0.registry.len()
    }

    /// When the first of the connected nodes' certificates ends.
    pub fn first_certificate_end(&self) -> Option<SystemTime> {
        self.0.registry.first_end()
    }

    /// How many connections are not authenticated yet.
    pub fn half_open(&self) -> usize {
        self.0.admission.len()
    }

    /// What edges may have sent that was not read, and how much of it is promised to them.
    pub fn receive_budget(&self) -> &ReceiveBudget {
        &self.0.settings.receive_budget
    }

    /// What went to the edges and came from them, by class.
    pub fn traffic(&self) -> &Traffic {
        &self.0.traffic
    }
}

impl Hub {
    /// Binds the port, UDP and TCP.
    pub async fn bind(settings: Settings) -> Result<Self, HubError> {
        let authority = &settings.authority;
        let config = |client| {
            tls::server(
                authority.certificate(),
                authority.server_certificates(),
                client,
                &settings.clock,
            )
        };
        // A device that enrols has no certificate yet; the link asks for one itself.
        let tcp_tls = config(ClientCertificate::Optional)?;
        let quic_tls = config(ClientCertificate::Required)?;
        let (tcp, quic) = bind_both(&settings, &quic_tls).await?;
        let shared = Shared {
            settings,
            registry: Registry::default(),
            admission: Admission::default(),
            greetings: Rates::new(greet::GREETINGS),
            traffic: Arc::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            quic,
            tcp,
            tcp_tls,
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// A window for metrics.
    pub fn view(&self) -> HubView {
        HubView(Arc::clone(&self.shared))
    }

    /// Serves until `stop`, then drains: sessions say Goodbye, tunnels get their grace. A hub that has lost one of its
    /// listeners drains, too: half of its edges could not come back to it.
    pub async fn run(self, stop: CancellationToken) -> Result<(), HubLost> {
        let stop = stop.child_token();
        let mut tasks = JoinSet::new();
        tasks.spawn(listen::quic(
            Arc::clone(&self.shared),
            self.quic.clone(),
            stop.clone(),
        ));
        tasks.spawn(listen::tcp(
            Arc::clone(&self.shared),
            self.tcp,
            self.tcp_tls,
            stop.clone(),
        ));
        let ended = listened(tasks, &stop).await;
        self.quic.close(CloseCode::GoingAway, "cloudcore shuts down");
        // Telling the peers must not hold up the end.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.quic.wait_idle()).await;
        ended
    }
}

/// Waits for the listeners' ends. The first that comes before `stop` stops the others, and is the hub's own.
async fn listened(mut listeners: JoinSet<()>, stop: &CancellationToken) -> Result<(), HubLost> {
    let mut lost = Ok(());
    while let Some(ended) = listeners.join_next().await {
        let one = match ended {
            Err(error) => Err(HubLost::Panicked(error)),
            Ok(()) if !stop.is_cancelled() => Err(HubLost::Closed),
            Ok(()) => Ok(()),
        };
        stop.cancel();
        lost = lost.and(one);
    }
    lost
}

/// With port 0 the kernel chooses one for TCP; where UDP has it not free, another is chosen.
async fn bind_both(
    settings: &Settings,
    tls: &Arc<ServerConfig>,
) -> Result<(TcpListener, QuicListener), HubError> {
    let Settings { listen, .. } = *settings;
    loop {
        let tcp = listen::bind_tcp(listen).await.map_err(|source| HubError::Tcp {
            address: listen,
            source,
        })?;
        let port = tcp.local_addr().map_or(listen.port(), |bound| bound.port());
        let address = SocketAddr::new(listen.ip(), port);
        let reset_key = settings.authority.reset_key();
        let (clock, budget) = (&settings.clock, &settings.receive_budget);
        match QuicListener::bind(address, Arc::clone(tls), reset_key, clock, budget) {
            Err(ListenError::Bind { source, .. })
                if listen.port() == 0 && source.kind() == std::io::ErrorKind::AddrInUse => {}
            bound => return Ok((tcp, bound?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A listener that drains when it is told to, beside another.
    fn beside(other: impl Future<Output = ()> + Send + 'static) -> (JoinSet<()>, CancellationToken) {
        let (mut listeners, stop) = (JoinSet::new(), CancellationToken::new());
        listeners.spawn(stop.clone().cancelled_owned());
        listeners.spawn(other);
        (listeners, stop)
    }

    #[tokio::test]
    async fn a_listener_that_breaks_off_or_ends_by_itself_is_the_end_of_the_hub() {
        let (listeners, stop) = beside(async { panic!("a bug") });
        let ended = listened(listeners, &stop).await;
        assert!(matches!(ended, Err(HubLost::Panicked(_))), "{ended:?}");
        let (listeners, stop) = beside(async {});
        let ended = listened(listeners, &stop).await;
        assert!(matches!(ended, Err(HubLost::Closed)), "{ended:?}");
    }

    #[tokio::test]
    async fn listeners_that_were_told_to_stop_have_lost_nothing() {
        let (listeners, stop) = beside(tokio::task::yield_now());
        stop.cancel();
        assert!(listened(listeners, &stop).await.is_ok());
    }
}
