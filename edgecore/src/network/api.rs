//! The API server as pods reach it: `default/kubernetes`, on the device, through the tunnel.
//!
//! ```text
//! pod ── TLS to 10.96.0.1:443 ──► lo ──► our listener ══ kube-api-tcp ══► cloudcore ──► API server
//! ```
//!
//! `doors` says where it listens.
//!
//! Bytes pass as they are: no certificate, no token and no request is read here. While the link
//! is down a connection is closed at once, so that clients in pods see an error and try again
//! instead of hanging.
//!
//! `admission` says whose connections are carried, and how many of them.

mod admission;
mod doors;
mod knock;
mod note;
mod refusals;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Service;
use nix::sys::socket::{setsockopt, sockopt};
use protocol::transport::Stream;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::nat::{Door, Translation};
use super::pod_cidr::PodCidr;
use super::{addresses, netlink};
use crate::state::Desired;

pub use admission::MAX_CONNECTIONS;
use admission::{Origin, Room, origin};
use doors::Doors;
pub use knock::{Knock, Met, knock};
pub use note::{Note, NoteError};
use refusals::Refusals;
pub use refusals::Whose;

/// How long a pod that vanished without a word keeps its connection: three probes after this.
const KEEPALIVE_SECONDS: u32 = 60;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why there is no tunnel to the API server.
#[derive(Debug, Error)]
pub enum DialError {
    /// There is no session, as the link says for itself.
    #[error("the link to cloudcore is down")]
    Offline,
    /// It was refused, here or by cloudcore.
    #[error(transparent)]
    Refused(BoxError),
}

/// Opens a tunnel to the API server; fails at once while the link is down.
pub type Dial = Arc<dyn Fn() -> BoxFuture<'static, Result<Stream, DialError>> + Send + Sync>;

/// The addresses that pods have now, where that is known.
pub type Range = Arc<dyn Fn() -> Option<PodCidr> + Send + Sync>;

/// Who connects.
pub struct Callers {
    /// For the log.
    pub whose: Whose,
    /// Asked for each connection: another network may be set up while the agent runs.
    pub range: Range,
}

/// How pods' connections go on.
struct Ahead {
    dial: Dial,
    refusals: Refusals,
    range: Range,
}

/// Where pods expect the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiEndpoint {
    /// The Service's cluster IP.
    pub address: IpAddr,
    /// The Service's port, not its target port.
    pub port: u16,
}

impl ApiEndpoint {
    /// Reads it from the Service `default/kubernetes`.
    pub fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let address = spec.cluster_ip.as_ref()?.parse().ok()?;
        let ports = spec.ports.as_ref()?;
        let named = ports.iter().find(|port| port.name.as_deref() == Some("https"));
        let port = u16::try_from(named.or_else(|| ports.first())?.port).ok()?;
        Some(Self { address, port })
    }
}

impl fmt::Display for ApiEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

/// Keeps `wanted` equal to what the Service `default/kubernetes` says, until `stop`. Without a
/// Service the last endpoint stays: a device that was emptied keeps its pods' connections.
pub async fn follow(desired: Desired, wanted: watch::Sender<Option<ApiEndpoint>>, stop: CancellationToken) {
    let mut updates = desired.watch_objects();
    loop {
        let said = desired.kubernetes_service().as_ref().and_then(ApiEndpoint::of);
        wanted.send_if_modified(|endpoint| {
            let differs = said.is_some() && *endpoint != said;
            if differs {
                *endpoint = said;
            }
            differs
        });
        tokio::select! {
            () = stop.cancelled() => return,
            more = updates.changed() => if more.is_err() { return },
        }
    }
}

/// The listener's side of what [`super::iptables`] does for it.
#[derive(Debug)]
pub struct Translator {
    /// Where connections are to be sent.
    pub door: watch::Sender<Option<Door>>,
    /// Whether they are.
    pub translation: watch::Receiver<Translation>,
}

/// What is to be served.
pub struct Wanted {
    /// Where; none before it is known.
    pub endpoint: watch::Receiver<Option<ApiEndpoint>>,
    /// Names what is put on the loopback device for it.
    pub note: Note,
}

/// Serves whatever `endpoint` says until `stop`, following every change of it.
pub async fn run(
    Wanted {
        endpoint: mut wanted,
        note,
    }: Wanted,
    dial: Dial,
    Callers { whose, range }: Callers,
    mut translator: Translator,
    stop: CancellationToken,
) {
    let refusals = Refusals::new(whose);
    let ahead = Arc::new(Ahead {
        dial,
        refusals,
        range,
    });
    while !stop.is_cancelled() {
        let over = stop.child_token();
        let endpoint = *wanted.borrow_and_update();
        tokio::join!(hold(endpoint, &note, &ahead, &mut translator, &over), async {
            tokio::select! {
                () = changed(&mut wanted) => over.cancel(),
                () = stop.cancelled() => {}
            }
        });
    }
}

/// Ends at the next change; never, when nobody can change it any more.
pub(super) async fn changed<T>(wanted: &mut watch::Receiver<T>) {
    if wanted.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Claims the address, serves it, and gives it back.
async fn hold(
    endpoint: Option<ApiEndpoint>,
    note: &Note,
    ahead: &Arc<Ahead>,
    translator: &mut Translator,
    stop: &CancellationToken,
) {
    let Some(endpoint) = endpoint else {
        stop.cancelled().await;
        return;
    };
    if let Err(error) = note.name(endpoint) {
        tracing::warn!(
            %endpoint, error = %describe(&error),
            "an agent that is killed would leave this address on the loopback device, and may have left another"
        );
    }
    let mut doors = Doors::closed(endpoint);
    let mut traffic = Traffic::new(ahead);
    loop {
        let look = doors.keep(*translator.translation.borrow_and_update());
        let door = doors.door();
        translator
            .door
            .send_if_modified(|told| std::mem::replace(told, door) != door);
        tokio::select! {
            () = stop.cancelled() => break,
            () = traffic.carry(&doors) => {}
            () = changed(&mut translator.translation) => {}
            () = tokio::time::sleep(look) => {}
        }
    }
    drop((doors, traffic));
    translator.door.send_replace(None);
    let given_back = netlink::remove(endpoint.address).map_err(Into::into);
    if let Err(error) = given_back.and_then(|()| note.clear()) {
        tracing::warn!(%endpoint, error = %describe(&error), "the address or its note stays");
    }
}

fn describe(error: &dyn std::error::Error) -> String {
    error
        .source()
        .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// The connections that are open; dropping it ends them all.
struct Traffic {
    ahead: Arc<Ahead>,
    room: Room,
    open: JoinSet<()>,
}

impl Traffic {
    fn new(ahead: &Arc<Ahead>) -> Self {
        Self {
            ahead: Arc::clone(ahead),
            room: Room::default(),
            open: JoinSet::new(),
        }
    }

    /// Splices every connection that arrives; never ends.
    ///
    /// # Cancel safety
    ///
    /// No connection is lost: those that are open stay so.
    async fn carry(&mut self, doors: &Doors) {
        loop {
            tokio::select! {
                Some(_) = self.open.join_next() => {}
                accepted = doors.accept() => match accepted {
                    Ok((pod, from)) => self.admit(pod, from),
                    Err(error) => {
                        tracing::warn!(%error, "a pod's connection to the API server was not accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
    }

    fn admit(&mut self, pod: TcpStream, from: SocketAddr) {
        let place = match self.room.admit(from.ip(), self.ahead.origin(from.ip())) {
            Ok(place) => place,
            Err(error) => return self.ahead.say_refused(&pod, from, &error),
        };
        let ahead = Arc::clone(&self.ahead);
        self.open.spawn(async move {
            match (ahead.dial)().await {
                Ok(tunnel) => {
                    if let Err(error) = splice(pod, tunnel).await {
                        tracing::debug!(%error, "a pod's connection to the API server ended");
                    }
                }
                Err(DialError::Offline) => {
                    tracing::debug!(%from, "a pod's connection is closed: the link is down");
                }
                Err(DialError::Refused(error)) => ahead.say_refused(&pod, from, &*error),
            }
            drop(place);
        });
    }
}

impl Ahead {
    /// Whose an address is now. Where the device's own cannot be read, nobody is turned away for it.
    fn origin(&self, from: IpAddr) -> Origin {
        let is_own =
            || from.to_canonical().is_loopback() || addresses::has(from.to_canonical()).unwrap_or(true);
        origin(from, (self.range)(), is_own)
    }

    fn say_refused(&self, pod: &TcpStream, from: SocketAddr, error: &dyn std::error::Error) {
        let error = describe(error);
        let Some(whose) = self.refusals.tell(from, Instant::now()) else {
            tracing::debug!(%from, error, "a pod's connection to the API server was refused");
            return;
        };
        let to = pod
            .local_addr()
            .map_or_else(|_| String::new(), |to| to.to_string());
        tracing::warn!(
            pod = whose, %from, to, error,
            "a pod's connection to the API server was refused; of its others of the next minute nothing is told"
        );
    }
}

/// Carries bytes both ways; each side's end is passed on by itself.
async fn splice(mut pod: TcpStream, Stream { recv, send, .. }: Stream) -> Result<(), BoxError> {
    pod.set_nodelay(true)?;
    setsockopt(&pod, sockopt::TcpKeepIdle, &KEEPALIVE_SECONDS)?;
    setsockopt(&pod, sockopt::KeepAlive, &true)?;
    let mut tunnel = tokio::io::join(recv, send);
    tokio::io::copy_bidirectional(&mut pod, &mut tunnel).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
