//! The two transports, each as a listener and a way to dial it.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use protocol::{
    clock::Clock,
    tls::{self, ClientCertificate, ClientTls},
    transport::{
        BoxFuture, Connection, ReceiveBudget, TransportError,
        quic::{self, ListenError, QuicListener},
        websocket,
    },
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::{
    narrow::{Link, Narrow},
    pki::{Authority, valid},
};

pub(crate) type Connected = Result<Arc<dyn Connection>, TransportError>;

/// A transport under test.
pub(crate) trait Carrier: Sized + Send + Sync + 'static {
    fn listen(authority: &Authority, valid: (SystemTime, SystemTime)) -> (Self, SocketAddr);
    fn connect(address: SocketAddr, tls: &ClientTls) -> BoxFuture<'_, Connected>;
    fn accept(&self) -> BoxFuture<'_, Connected>;
}

/// More than a test needs.
pub(crate) fn plenty() -> ReceiveBudget {
    ReceiveBudget::new(256 << 20)
}

pub(crate) struct Quic(pub(crate) QuicListener);

impl Quic {
    pub(crate) fn at(
        authority: &Authority,
        valid: (SystemTime, SystemTime),
        address: SocketAddr,
        budget: &ReceiveBudget,
    ) -> Result<Self, ListenError> {
        let clock = Clock::system();
        let certificate = authority.server(valid);
        let config = tls::server(
            &authority.certificate,
            certificate,
            ClientCertificate::Required,
            &clock,
        );
        QuicListener::bind(address, config.unwrap(), [7; 32], &clock, budget).map(Self)
    }
}

impl Carrier for Quic {
    fn listen(authority: &Authority, valid: (SystemTime, SystemTime)) -> (Self, SocketAddr) {
        let listener = Self::at(authority, valid, "127.0.0.1:0".parse().unwrap(), &plenty()).unwrap();
        let address = listener.0.local_addr().unwrap();
        (listener, address)
    }

    fn connect(address: SocketAddr, tls: &ClientTls) -> BoxFuture<'_, Connected> {
        Box::pin(quic::connect(address, tls))
    }

    fn accept(&self) -> BoxFuture<'_, Connected> {
        Box::pin(async { self.0.accept().await.unwrap().handshake().await })
    }
}

pub(crate) struct WebSocket(pub(crate) TcpListener, pub(crate) TlsAcceptor);

impl Carrier for WebSocket {
    fn listen(authority: &Authority, valid: (SystemTime, SystemTime)) -> (Self, SocketAddr) {
        let config = tls::server(
            &authority.certificate,
            authority.server(valid),
            ClientCertificate::Optional,
            &Clock::system(),
        );
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let address = listener.local_addr().unwrap();
        (Self(listener, TlsAcceptor::from(config.unwrap())), address)
    }

    fn connect(address: SocketAddr, tls: &ClientTls) -> BoxFuture<'_, Connected> {
        Box::pin(async move {
            let socket = TcpStream::connect(address).await.unwrap();
            websocket::connect(socket, address, tls).await
        })
    }

    fn accept(&self) -> BoxFuture<'_, Connected> {
        Box::pin(async {
            let (socket, remote) = self.0.accept().await.unwrap();
            let mut secured = websocket::secure(&self.1, socket, remote).await?;
            assert!(websocket::wants_link(&mut secured, remote).await?);
            websocket::accept(secured, remote, &Clock::system(), &plenty()).await
        })
    }
}

/// Both ends of one connection, or why not: the dialling end first.
pub(crate) async fn pair<C: Carrier>(
    listener: &C,
    address: SocketAddr,
    tls: &ClientTls,
) -> (Connected, Connected) {
    tokio::join!(C::connect(address, tls), listener.accept())
}

/// A connection of the node `edge-1`, between an edge and a cloud that trust each other.
pub(crate) async fn linked<C: Carrier>() -> (Arc<dyn Connection>, Arc<dyn Connection>) {
    let Linked { edge, cloud, .. } = linked_over::<C>(None).await;
    (edge, cloud)
}

/// A connection, and the link that it lasts as long as.
pub(crate) struct Linked {
    pub(crate) edge: Arc<dyn Connection>,
    pub(crate) cloud: Arc<dyn Connection>,
    pub(crate) narrow: Option<Narrow>,
}

/// The same over a link that is narrow.
pub(crate) async fn linked_over<C: Carrier>(link: Option<Link>) -> Linked {
    let authority = Authority::new();
    let (listener, cloud) = C::listen(&authority, valid());
    let mut narrow = None;
    if let Some(link) = link {
        narrow = Some(Narrow::to(cloud, link).await);
    }
    let address = narrow.as_ref().map_or(cloud, |narrow| narrow.address);
    let (credentials, _) = authority.node("system:node:edge-1", valid());
    let tls = crate::pki::edge(&authority, &credentials, &Clock::system());
    let (edge, cloud) = pair(&listener, address, &tls).await;
    // The listener's socket carries QUIC connections, which keep it open themselves.
    Linked {
        edge: edge.unwrap(),
        cloud: cloud.unwrap(),
        narrow,
    }
}
