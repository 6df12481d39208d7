//! A replica on the loopback, and devices that come to it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use cloudcore::{
    enroll::{self, Authority, NodeLife, TokenSpec},
    hub::{Hub, HubView, Services, SessionInfo, Settings},
};
use protocol::{
    clock::Clock,
    join::{
        ChannelValue, ENROLL_PATH, EnrollAnswer, EnrollRefusal, EnrollRequest, JoinToken, NodeKey,
        NodeRequest,
    },
    name::NodeName,
    tls::{self, ClientTls, Credentials, KeyHash, authority_from_pem},
    transport::{
        BoxFuture, ByteReader, ByteWriter, Connection, ReceiveBudget, Stream, Transport, TransportError,
        quic, websocket,
    },
    wire::{
        Dial, DialReply, FrameReader, FrameWriter, Hello, Open, SessionDown, SessionUp, session_down,
        session_up,
    },
};
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

use super::{api::FakeApi, leases::FakeLeases};

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What an authority over that API server needs.
pub(crate) fn settings(api: &FakeApi, clock: &Clock) -> enroll::Settings {
    enroll::Settings {
        client: api.client(),
        namespace: "tombolo-system".to_owned(),
        cluster_id: "cluster-1".to_owned(),
        clock: clock.clone(),
        node_life: NodeLife::default(),
    }
}

/// A running replica. Dropping it ends its tasks.
pub(crate) struct World {
    pub(crate) api: FakeApi,
    pub(crate) authority: Arc<Authority>,
    pub(crate) leases: FakeLeases,
    pub(crate) view: HubView,
    pub(crate) address: SocketAddr,
    pub(crate) clock: Clock,
    /// What new devices dial by.
    transport: Transport,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: JoinSet<()>,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::over(Transport::Quic).await
    }

    pub(crate) async fn over(transport: Transport) -> Self {
        let api = FakeApi::new();
        let clock = Clock::system();
        let authority = Authority::open(settings(&api, &clock)).await.unwrap();
        let leases = FakeLeases::default();
        let hub = Hub::bind(Settings {
            listen: "127.0.0.1:0".parse().unwrap(),
            replica: "replica-1".to_owned(),
            tunnel_grace: Duration::from_millis(200),
            receive_budget: ReceiveBudget::new(256 << 20),
            clock: clock.clone(),
            authority: Arc::clone(&authority),
            leases: Arc::new(leases.clone()),
            services: Arc::new(Echo),
        })
        .await
        .unwrap();
        let (address, view, stop) = (hub.local_addr().unwrap(), hub.view(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        let following = Arc::clone(&authority);
        tasks.spawn(async move { following.run().await });
        let until = stop.clone();
        tasks.spawn(async move { hub.run(until).await.unwrap() });
        authority.synced().await;
        Self {
            api,
            authority,
            leases,
            view,
            address,
            clock,
            transport,
            stop,
            tasks,
        }
    }

    /// A token for one device, or for what `change` makes of it.
    pub(crate) async fn token(&self, change: impl FnOnce(&mut TokenSpec)) -> JoinToken {
        let mut spec = TokenSpec {
            life: Duration::from_hours(1),
            uses: 1,
            node: None,
            replace_key: false,
        };
        change(&mut spec);
        self.authority.create_token(spec).await.unwrap()
    }

    /// Enrols a new device, which must be allowed.
    pub(crate) async fn device(&self, name: &str) -> Device {
        let mut device = Device::new(name);
        device.transport = self.transport;
        let token = self.token(|_| {}).await;
        let answer = device.enrol(self.address, &token).await.unwrap().unwrap();
        device.keep(&answer)
    }
}

/// A device: a name and a key, and later a certificate.
pub(crate) struct Device {
    pub(crate) name: NodeName,
    pub(crate) transport: Transport,
    pub(crate) clock: Clock,
    /// In PEM; empty before it has joined.
    pub(crate) certificate: String,
    key: NodeKey,
    tls: Option<ClientTls>,
}

impl Device {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.parse().unwrap(),
            transport: Transport::Quic,
            clock: Clock::system(),
            certificate: String::new(),
            key: NodeKey::generate().unwrap(),
            tls: None,
        }
    }

    /// Asks to be enrolled: the outer error is the handshake's.
    pub(crate) async fn enrol(
        &self,
        address: SocketAddr,
        token: &JoinToken,
    ) -> Result<Result<EnrollAnswer, EnrollRefusal>, String> {
        let csr = self.key.request(&self.name).unwrap();
        let request = EnrollRequest {
            token: token.id.clone(),
            secret: token.secret.clone(),
            csr,
        };
        let body = serde_json::to_vec(&request).unwrap();
        let (status, answer) = post(address, token.pin, ENROLL_PATH, &body).await?;
        Ok(if status == 200 {
            Ok(serde_json::from_slice(&answer).unwrap())
        } else {
            Err(serde_json::from_slice(&answer).unwrap())
        })
    }

    pub(crate) fn keep(mut self, answer: &EnrollAnswer) -> Self {
        let authority = authority_from_pem(answer.authority.as_bytes()).unwrap();
        self.show(&authority, &answer.certificate);
        self
    }

    /// Dials with another certificate from now on.
    pub(crate) fn use_certificate(&mut self, world: &World, certificate: &str) {
        self.show(world.authority.certificate(), certificate);
    }

    fn show(&mut self, authority: &CertificateDer<'static>, certificate: &str) {
        let key = self.key.expose_pem();
        let credentials = Credentials::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
        self.tls = Some(tls::client(authority, &credentials, &self.clock).unwrap());
        certificate.clone_into(&mut self.certificate);
    }

    /// Its certificate request.
    pub(crate) fn csr(&self) -> String {
        self.key.request(&self.name).unwrap()
    }

    pub(crate) fn key_hash(&self) -> KeyHash {
        NodeRequest::parse(&self.csr()).unwrap().key
    }

    pub(crate) fn prove(&self, channel: &ChannelValue) -> String {
        self.key.prove(channel).unwrap()
    }

    /// Dials, which may fail.
    pub(crate) async fn try_link(&self, address: SocketAddr) -> Result<Arc<dyn Connection>, TransportError> {
        let tls = self.tls();
        match self.transport {
            Transport::Quic => quic::connect(address, tls).await,
            Transport::WebSocket => {
                let socket = TcpStream::connect(address).await.unwrap();
                websocket::connect(socket, address, tls).await
            }
        }
    }

    /// What it would show in a handshake of another's making.
    pub(crate) fn tls(&self) -> &ClientTls {
        self.tls.as_ref().unwrap()
    }

    async fn link(&self, address: SocketAddr) -> Arc<dyn Connection> {
        self.try_link(address).await.unwrap()
    }

    /// Dials and says Hello; whatever is answered is the caller's.
    pub(crate) async fn dial(
        &self,
        address: SocketAddr,
        cluster_id: &str,
    ) -> (Edge, Option<session_down::Kind>) {
        let connection = self.link(address).await;
        let Stream { recv, send } = connection.open(Open::session()).await.unwrap();
        let (reader, writer) = (FrameReader::new(recv), FrameWriter::new(send));
        let mut edge = Edge {
            connection,
            reader,
            writer,
        };
        edge.say(hello(cluster_id)).await;
        let answer = edge.hear().await;
        (edge, answer)
    }

    /// Dials, and begins with a stream of the caller's choice.
    pub(crate) async fn connect_raw(&self, address: SocketAddr, open: Open) -> Arc<dyn Connection> {
        let connection = self.link(address).await;
        connection.open(open).await.unwrap();
        connection
    }

    /// Dials, and must be welcome.
    pub(crate) async fn connect(&self, address: SocketAddr) -> Edge {
        let (edge, answer) = self.dial(address, "").await;
        assert!(
            matches!(answer, Some(session_down::Kind::Welcome(_))),
            "{answer:?}"
        );
        edge
    }
}

/// What an edge of that cluster says first.
pub(crate) fn hello(cluster_id: &str) -> session_up::Kind {
    session_up::Kind::Hello(Hello {
        version_min: 1,
        version_max: 1,
        boot_id: vec![7; 16].into(),
        cluster_id: cluster_id.to_owned(),
        ..Hello::default()
    })
}

/// The edge's end of a session.
pub(crate) struct Edge {
    pub(crate) connection: Arc<dyn Connection>,
    pub(crate) reader: FrameReader<ByteReader>,
    pub(crate) writer: FrameWriter<ByteWriter>,
}

impl Edge {
    pub(crate) async fn say(&mut self, kind: session_up::Kind) {
        self.writer.write(&SessionUp { kind: Some(kind) }).await.unwrap();
    }

    /// The next frame of the session; `None` once that is over.
    pub(crate) async fn hear(&mut self) -> Option<session_down::Kind> {
        let frame = timeout(PATIENCE, self.reader.read::<SessionDown>())
            .await
            .unwrap();
        frame.ok().flatten()?.kind
    }
}

/// Posts over TLS to whoever has the pin: the status and the body.
pub(crate) async fn post(
    address: SocketAddr,
    pin: [u8; 32],
    path: &str,
    body: &[u8],
) -> Result<(u16, Vec<u8>), String> {
    let (tls, _) = tls::joining_client(pin, &Clock::system()).unwrap();
    let socket = TcpStream::connect(address).await.unwrap();
    let name = tls::SERVER_NAME.try_into().unwrap();
    let connected = TlsConnector::from(Arc::clone(&tls.config))
        .connect(name, socket)
        .await;
    let stream = connected.map_err(|error| tls.faults.take().map_or(error.to_string(), |f| f.to_string()))?;
    post_over(stream, path, body).await
}

/// Posts on a connection that is there.
pub(crate) async fn post_over(
    mut stream: TlsStream<TcpStream>,
    path: &str,
    body: &[u8],
) -> Result<(u16, Vec<u8>), String> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // A server that has heard enough may hang up before the end.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").ok_or("no answer")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or("no status")?;
    Ok((status, body.as_bytes().to_vec()))
}

/// Tunnels that give back what they get; flows that stay silent.
struct Echo;

impl Services for Echo {
    fn desired(&self, _session: SessionInfo, stream: Stream) -> BoxFuture<'static, ()> {
        Box::pin(hold(stream))
    }

    fn reported(&self, _session: SessionInfo, stream: Stream) -> BoxFuture<'static, ()> {
        Box::pin(hold(stream))
    }

    fn events(&self, _session: SessionInfo, stream: Stream) -> BoxFuture<'static, ()> {
        Box::pin(hold(stream))
    }

    fn tunnel(&self, _session: SessionInfo, _dial: Dial, stream: Stream) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let Stream { mut recv, send } = stream;
            let mut writer = FrameWriter::new(send);
            writer.write(&DialReply::dialed()).await.unwrap();
            let mut send = writer.into_inner();
            let _ = tokio::io::copy(&mut recv, &mut send).await;
            let _ = send.shutdown().await;
        })
    }
}

async fn hold(stream: Stream) {
    let _open = stream;
    std::future::pending::<()>().await;
}
