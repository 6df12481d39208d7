//! The edge's way to a connection.

use std::{net::SocketAddr, sync::Arc};

use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, TlsStream};
use tokio_tungstenite::{
    client_async_with_config,
    tungstenite::{Error as WsError, client::IntoClientRequest},
};

use super::{LINK_PATH, Socket, broken, config, connection::WebSocket, prepare};
use crate::{
    tls::{ClientTls, SERVER_NAME},
    transport::{Connection, HANDSHAKE_LIMIT, TransportError},
};

/// Makes a link of a socket that leads to a replica, straight or through a proxy.
pub async fn connect(
    socket: TcpStream,
    remote: SocketAddr,
    tls: &ClientTls,
) -> Result<Arc<dyn Connection>, TransportError> {
    prepare(&socket).map_err(|source| TransportError::Socket { remote, source })?;
    tls.faults.take();
    let upgraded = timeout(HANDSHAKE_LIMIT, upgrade(socket, remote, tls)).await;
    let socket = upgraded.map_err(|_| TransportError::TimedOut { remote })??;
    Ok(Arc::new(WebSocket::edge(socket, remote)))
}

async fn upgrade(socket: TcpStream, remote: SocketAddr, tls: &ClientTls) -> Result<Socket, TransportError> {
    let failed = |why: &dyn std::fmt::Display| TransportError::Failed(why.to_string());
    let name = SERVER_NAME.try_into().map_err(|error| failed(&error))?;
    let secured = TlsConnector::from(tls.over_tcp()).connect(name, socket).await;
    let secured = secured.map_err(|source| {
        let fault = tls.faults.take().map(TransportError::Tls);
        fault.unwrap_or_else(|| broken(remote, source))
    })?;
    let request = format!("wss://{SERVER_NAME}{LINK_PATH}").into_client_request();
    let request = request.map_err(|error| failed(&error))?;
    let secured = TlsStream::Client(secured);
    match client_async_with_config(request, secured, Some(config())).await {
        Ok((socket, _response)) => Ok(socket),
        Err(WsError::Io(source)) => Err(broken(remote, source)),
        Err(WsError::Http(response)) => Err(TransportError::Failed(format!(
            "{remote} answered {} instead of a link",
            response.status()
        ))),
        Err(other) => Err(failed(&other)),
    }
}
