//! The accept loops: each owns the tasks that it starts.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use protocol::{
    name::shown,
    transport::{
        TransportError,
        quic::{Incoming, QuicListener},
        websocket,
    },
};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Shared,
    admission::{Place, RETRY_ABOVE},
    enrolment, session,
};
use crate::waits::accepted;

/// How long a closed link may take to go.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Binds TCP; `[::]` takes IPv4 too, and becomes `0.0.0.0` where there is no IPv6.
pub(super) async fn bind_tcp(address: SocketAddr) -> std::io::Result<TcpListener> {
    const EAFNOSUPPORT: i32 = 97;
    match TcpListener::bind(address).await {
        Err(error) if address.ip().is_unspecified() && without_ipv6(&error, EAFNOSUPPORT) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

fn without_ipv6(error: &std::io::Error, unsupported: i32) -> bool {
    error.raw_os_error() == Some(unsupported) || error.kind() == std::io::ErrorKind::AddrNotAvailable
}

/// Accepts edges; ends when every session has drained after `stop`.
pub(super) async fn quic(shared: Arc<Shared>, listener: QuicListener, stop: CancellationToken) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            incoming = listener.accept() => match incoming {
                Some(incoming) => admit(&shared, incoming, &mut sessions, &stop),
                None => break,
            },
            Some(_) = sessions.join_next(), if !sessions.is_empty() => {}
        }
    }
    listener.stop_accepting();
    info!(sessions = sessions.len(), "draining");
    while sessions.join_next().await.is_some() {}
}

fn admit(shared: &Arc<Shared>, incoming: Incoming, sessions: &mut JoinSet<()>, stop: &CancellationToken) {
    if shared.admission.len() >= RETRY_ABOVE && !incoming.validated() {
        incoming.retry();
        return;
    }
    let Some(place) = shared.admission.enter(incoming.remote().ip()) else {
        debug!(remote = %incoming.remote(), "refused: too many handshakes");
        incoming.refuse();
        return;
    };
    let (shared, stop) = (Arc::clone(shared), stop.clone());
    sessions.spawn(async move {
        let lost = place.lost.clone();
        tokio::select! {
            () = begin(&shared, incoming, place, &stop) => {}
            () = lost.cancelled() => {}
        }
    });
}

/// The handshake and the session; the place is given back as soon as the session is taken.
async fn begin(shared: &Arc<Shared>, incoming: Incoming, place: Place, stop: &CancellationToken) {
    let remote = incoming.remote();
    match incoming.handshake().await {
        Ok(connection) => session::serve(Arc::clone(shared), connection, place, stop.clone()).await,
        Err(error) => warn!(%remote, error = &error as &dyn std::error::Error, "a handshake failed"),
    }
}

/// Accepts devices that want to enrol and edges that come by WebSocket; ends when every session has
/// drained after `stop`.
pub(super) async fn tcp(
    shared: Arc<Shared>,
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    stop: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let mut connections = JoinSet::new();
    loop {
        let (socket, remote) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted(|| listener.accept()) => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let Some(place) = shared.admission.enter(remote.ip()) else {
            continue;
        };
        let (shared, acceptor, stop) = (Arc::clone(&shared), acceptor.clone(), stop.clone());
        connections.spawn(async move {
            let lost = place.lost.clone();
            tokio::select! {
                () = receive(&shared, (socket, remote), &acceptor, place, &stop) => {}
                () = lost.cancelled() => {}
            }
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Finds out what a client wants, and serves it.
async fn receive(
    shared: &Arc<Shared>,
    (socket, remote): (TcpStream, SocketAddr),
    acceptor: &TlsAcceptor,
    place: Place,
    stop: &CancellationToken,
) {
    let secured = async {
        let mut secured = websocket::secure(acceptor, socket, remote).await?;
        let link = websocket::wants_link(&mut secured, remote).await?;
        Ok::<_, TransportError>((secured, link))
    };
    let secured = tokio::select! {
        secured = secured => secured,
        () = stop.cancelled() => return,
    };
    match secured {
        Ok((secured, true)) => link(shared, secured, remote, place, stop).await,
        Ok((secured, false)) => {
            // The place is kept to the end: nobody who enrols is authenticated.
            let served = tokio::select! {
                served = enrolment::serve(shared, secured, &place) => served,
                () = stop.cancelled() => return,
            };
            if let Err(error) = served {
                debug!(%remote, error = shown(&error.to_string()), "not an enrolment");
            }
        }
        Err(error) => debug!(%remote, error = &error as &dyn std::error::Error, "a handshake failed"),
    }
}

/// The upgrade and the session; the place is given back as soon as the session is taken.
async fn link(
    shared: &Arc<Shared>,
    secured: TlsStream<TcpStream>,
    remote: SocketAddr,
    place: Place,
    stop: &CancellationToken,
) {
    let (clock, budget) = (&shared.settings.clock, &shared.settings.receive_budget);
    match websocket::accept(secured, remote, clock, budget).await {
        Ok(connection) => {
            session::serve(Arc::clone(shared), Arc::clone(&connection), place, stop.clone()).await;
            // Its last word is on its way; at the end of the process nobody else would wait for it.
            let _ = timeout(LAST_WORD, connection.closed()).await;
        }
        Err(error) => warn!(%remote, error = &error as &dyn std::error::Error, "a handshake failed"),
    }
}
