//! cloudcore's way to a connection.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsStream, server};
use tokio_tungstenite::{
    accept_hdr_async_with_config,
    tungstenite::{
        Error as WsError,
        handshake::server::{ErrorResponse, Request, Response},
        http::StatusCode,
    },
};

use super::{LINK_PATH, broken, config, connection::WebSocket, prepare};
use crate::{
    clock::Clock,
    tls::{IdentityError, peer_identity},
    transport::{CloseCode, Connection, HANDSHAKE_LIMIT, ReceiveBudget, TransportError},
};

/// How long a client whose handshake failed may take to hang up.
const LINGER: Duration = Duration::from_secs(1);

/// Makes the TLS handshake.
pub async fn secure(
    acceptor: &TlsAcceptor,
    socket: TcpStream,
    remote: SocketAddr,
) -> Result<server::TlsStream<TcpStream>, TransportError> {
    prepare(&socket).map_err(|source| TransportError::Socket { remote, source })?;
    let handshake = acceptor.accept(socket).into_fallible();
    match timeout(HANDSHAKE_LIMIT, handshake).await {
        Ok(Ok(secured)) => Ok(secured),
        Ok(Err((source, socket))) => {
            // However that goes, the socket is dropped next.
            let _ = timeout(LINGER, hang_up(socket)).await;
            Err(broken(remote, source))
        }
        Err(_) => Err(TransportError::TimedOut { remote }),
    }
}

/// Lets the alert arrive: closing a socket that was not read to its end would throw it away.
async fn hang_up(mut socket: TcpStream) -> std::io::Result<()> {
    socket.shutdown().await?;
    let mut rest = [0; 1024];
    while socket.read(&mut rest).await? > 0 {}
    Ok(())
}

/// Whether a client asks for the link; nothing of its request is consumed.
///
/// An edge sends its request at once, so the first bytes tell.
pub async fn wants_link(
    secured: &mut server::TlsStream<TcpStream>,
    remote: SocketAddr,
) -> Result<bool, TransportError> {
    let begins = timeout(HANDSHAKE_LIMIT, secured.fill_buf()).await;
    let begins = begins
        .map_err(|_| TransportError::TimedOut { remote })?
        .map_err(|source| broken(remote, source))?;
    Ok(begins
        .strip_prefix(b"GET ")
        .is_some_and(|path| path.starts_with(LINK_PATH.as_bytes())))
}

/// Answers the upgrade, and reads from the certificate who is there.
///
/// A resumed session brings the certificate of the first one, which is judged again here; bans are
/// the caller's to check, by [`Connection::peer`].
pub async fn accept(
    secured: server::TlsStream<TcpStream>,
    remote: SocketAddr,
    clock: &Clock,
    budget: &ReceiveBudget,
) -> Result<Arc<dyn Connection>, TransportError> {
    let share = budget.share().ok_or(TransportError::NoRoom)?;
    let chain = secured.get_ref().1.peer_certificates().map(<[_]>::to_vec);
    let peer = chain
        .ok_or(IdentityError::Missing)
        .and_then(|chain| peer_identity(&chain, remote, clock.now()));
    let secured = TlsStream::Server(secured);
    let upgraded = accept_hdr_async_with_config(secured, only_the_link, Some(config()));
    let socket = match timeout(HANDSHAKE_LIMIT, upgraded).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(WsError::Io(source))) => return Err(broken(remote, source)),
        Ok(Err(error)) => return Err(TransportError::Failed(error.to_string())),
        Err(_) => return Err(TransportError::TimedOut { remote }),
    };
    match peer {
        Ok(peer) => Ok(Arc::new(WebSocket::cloud(socket, remote, Some(peer), share))),
        Err(source) => {
            let nobody = WebSocket::cloud(socket, remote, None, share);
            nobody.close(CloseCode::Forbidden, &source.to_string());
            nobody.closed().await;
            Err(TransportError::Nobody { remote, source })
        }
    }
}

#[expect(clippy::result_large_err, reason = "tungstenite's signature")]
fn only_the_link(request: &Request, response: Response) -> Result<Response, ErrorResponse> {
    if request.uri().path() == LINK_PATH {
        return Ok(response);
    }
    let mut refused = ErrorResponse::new(None);
    *refused.status_mut() = StatusCode::NOT_FOUND;
    Err(refused)
}
