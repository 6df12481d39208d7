//! The QUIC transport over the loopback: who may connect, and what streams carry.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use protocol::{
    clock::Clock,
    name::ServiceName,
    tls::{self, ClientCertificate, ClientTls, Credentials, KeyHash, TlsFault},
    transport::{
        CloseCode, Connection, TransportError,
        quic::{ListenError, QuicListener, connect},
    },
    wire::{DialReply, FrameReader, FrameWriter, Open, open},
};
use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData};
use rustls::{
    pki_types::CertificateDer,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const DAY: Duration = Duration::from_hours(24);

/// A CA of a test's own.
struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "tombolo");
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    fn sign(&self, mut params: CertificateParams, valid: (SystemTime, SystemTime)) -> (Credentials, KeyHash) {
        let key = KeyPair::generate().unwrap();
        params.not_before = valid.0.into();
        params.not_after = valid.1.into();
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let hash = KeyHash::of_spki(&key.subject_public_key_info());
        (
            Credentials {
                chain: vec![leaf, self.certificate.clone()],
                key: key.into(),
            },
            hash,
        )
    }

    fn server(&self, valid: (SystemTime, SystemTime)) -> Arc<Fixed> {
        let params = CertificateParams::new(vec![tls::SERVER_NAME.to_owned()]).unwrap();
        Arc::new(Fixed(Arc::new(
            tls::certified_key(&self.sign(params, valid).0).unwrap(),
        )))
    }

    fn node(&self, common_name: &str, valid: (SystemTime, SystemTime)) -> (Credentials, KeyHash) {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, "system:nodes");
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, valid)
    }
}

#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

fn valid() -> (SystemTime, SystemTime) {
    let now = Clock::system().now();
    (UNIX_EPOCH + DAY, now + DAY * 90)
}

fn listen(authority: &Authority, valid: (SystemTime, SystemTime)) -> (QuicListener, SocketAddr) {
    let listener = listen_at(authority, valid, "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn listen_at(
    authority: &Authority,
    valid: (SystemTime, SystemTime),
    address: SocketAddr,
) -> Result<QuicListener, ListenError> {
    let clock = Clock::system();
    let config = tls::server(
        &authority.certificate,
        authority.server(valid),
        ClientCertificate::Required,
        &clock,
    );
    QuicListener::bind(address, config.unwrap(), [7; 32], &clock)
}

fn edge(authority: &Authority, credentials: &Credentials, clock: &Clock) -> ClientTls {
    tls::client(&authority.certificate, credentials, clock).unwrap()
}

/// Both ends of one connection, or why not: the dialling end first.
async fn pair(
    listener: &QuicListener,
    address: SocketAddr,
    tls: &ClientTls,
) -> (
    Result<Arc<dyn Connection>, TransportError>,
    Result<Arc<dyn Connection>, TransportError>,
) {
    tokio::join!(connect(address, tls), async {
        listener.accept().await.unwrap().handshake().await
    })
}

#[tokio::test]
async fn a_nodes_name_key_and_expiry_come_from_its_certificate() {
    let authority = Authority::new();
    let (listener, address) = listen(&authority, valid());
    let (credentials, key) = authority.node("system:node:edge-1", valid());
    let (edge, cloud) = pair(
        &listener,
        address,
        &edge(&authority, &credentials, &Clock::system()),
    )
    .await;
    let (edge, cloud) = (edge.unwrap(), cloud.unwrap());

    let peer = cloud.peer().unwrap();
    assert_eq!((peer.node.as_str(), peer.key), ("edge-1", key));
    assert!(peer.expires > Clock::system().now() + DAY * 89);
    assert!(edge.peer().is_none());
}

#[tokio::test]
async fn a_half_closed_tunnel_still_carries_the_answer() {
    let authority = Authority::new();
    let (listener, address) = listen(&authority, valid());
    let (credentials, _) = authority.node("system:node:edge-1", valid());
    let (edge, cloud) = pair(
        &listener,
        address,
        &edge(&authority, &credentials, &Clock::system()),
    )
    .await;
    let (edge, cloud) = (edge.unwrap(), cloud.unwrap());

    let service = async {
        let (open, mut stream) = cloud.accept().await.unwrap();
        let Some(open::Kind::Dial(dial)) = open.kind else {
            panic!("not a dial")
        };
        assert_eq!(dial.service_name(), Ok(ServiceName::KubeApiTcp));
        let mut writer = FrameWriter::new(stream.send);
        writer.write(&DialReply::dialed()).await.unwrap();
        let mut asked = Vec::new();
        stream.recv.read_to_end(&mut asked).await.unwrap();
        let mut send = writer.into_inner();
        send.write_all(&asked.repeat(2)).await.unwrap();
        send.shutdown().await.unwrap();
    };
    let client = async {
        let mut stream = protocol::transport::dial(&*edge, ServiceName::KubeApiTcp, "")
            .await
            .unwrap();
        stream.send.write_all(b"ping").await.unwrap();
        stream.send.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.recv.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"pingping");
    };
    tokio::join!(service, client);
}

#[tokio::test]
async fn another_ca_is_refused_by_either_side_and_named() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (listener, address) = listen(&theirs, valid());
    let (credentials, _) = ours.node("system:node:edge-1", valid());

    let (refused, _) = pair(&listener, address, &edge(&ours, &credentials, &Clock::system())).await;
    let refused = refused.err().unwrap();
    assert!(
        matches!(refused, TransportError::Tls(TlsFault::OtherAuthority)),
        "{refused}"
    );

    // An edge that trusts the server, but shows a certificate of another CA.
    let (edge, cloud) = pair(&listener, address, &edge(&theirs, &credentials, &Clock::system())).await;
    assert!(cloud.is_err());
    let told = match edge {
        Ok(edge) => edge.closed().await,
        Err(error) => error,
    };
    assert!(matches!(told, TransportError::CertificateRefused(_)), "{told}");
}

#[tokio::test]
async fn a_clock_ahead_past_the_certificates_end_is_named_with_its_offset() {
    let authority = Authority::new();
    let (listener, address) = listen(&authority, valid());
    let (credentials, _) = authority.node("system:node:edge-1", valid());
    let ahead = Clock::with_offset(366 * 86_400);

    let (refused, cloud) = pair(&listener, address, &edge(&authority, &credentials, &ahead)).await;
    let text = refused.err().unwrap().to_string();
    assert!(
        text.contains("ended 276d") || text.contains("ended 275d"),
        "{text}"
    );
    assert!(cloud.is_err());
}

#[tokio::test]
async fn an_expired_node_is_told_so() {
    let authority = Authority::new();
    let (listener, address) = listen(&authority, valid());
    let past = (UNIX_EPOCH + DAY, Clock::system().now() - DAY);
    let (credentials, _) = authority.node("system:node:edge-1", past);
    let (edge, cloud) = pair(
        &listener,
        address,
        &edge(&authority, &credentials, &Clock::system()),
    )
    .await;
    let seen = cloud.err().unwrap().to_string();
    assert!(seen.contains("expired"), "{seen}");
    let told = match edge {
        Ok(edge) => edge.closed().await,
        Err(error) => error,
    };
    assert!(told.to_string().contains("expired by the peer's clock"), "{told}");
}

#[tokio::test]
async fn a_certificate_that_names_no_node_is_refused() {
    let authority = Authority::new();
    let (listener, address) = listen(&authority, valid());
    let (credentials, _) = authority.node("admin", valid());
    let (edge, cloud) = pair(
        &listener,
        address,
        &edge(&authority, &credentials, &Clock::system()),
    )
    .await;
    assert!(matches!(cloud.err().unwrap(), TransportError::Nobody { .. }));
    let told = edge.unwrap().closed().await;
    assert!(
        matches!(
            told,
            TransportError::ClosedByPeer {
                code: CloseCode::Forbidden,
                ..
            }
        ),
        "{told}"
    );
}

#[tokio::test]
async fn a_stream_that_never_says_what_it_is_delays_no_other() {
    let authority = Authority::new();
    let (listener, address) = listen(&authority, valid());
    let (credentials, _) = authority.node("system:node:edge-1", valid());
    let tls = edge(&authority, &credentials, &Clock::system());
    let mut quic = rustls_client(&tls);
    let client = quinn_client(&mut quic, address);
    let (raw, cloud) = tokio::join!(client, async {
        listener.accept().await.unwrap().handshake().await
    });
    let (cloud, raw) = (cloud.unwrap(), raw);

    let (mut garbage, _recv) = raw.open_bi().await.unwrap();
    garbage.write_all(&[0, 0]).await.unwrap();
    let (good, _recv) = raw.open_bi().await.unwrap();
    FrameWriter::new(good).write(&Open::desired()).await.unwrap();

    let (open, _stream) = tokio::time::timeout(Duration::from_secs(5), cloud.accept())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(open, Open::desired());
}

#[tokio::test]
async fn a_resumed_session_still_has_its_identity() {
    let authority = Authority::new();
    let (listener, address) = listen(&authority, valid());
    let (credentials, key) = authority.node("system:node:edge-1", valid());
    let tls = edge(&authority, &credentials, &Clock::system());
    for _ in 0..2 {
        let (edge, cloud) = pair(&listener, address, &tls).await;
        let (edge, cloud) = (edge.unwrap(), cloud.unwrap());
        // A stream each way lets the session ticket arrive.
        let opened = edge.open(Open::session()).await.unwrap();
        let (_, stream) = cloud.accept().await.unwrap();
        FrameWriter::new(stream.send)
            .write(&DialReply::dialed())
            .await
            .unwrap();
        FrameReader::new(opened.recv).read::<DialReply>().await.unwrap();
        assert_eq!(cloud.peer().unwrap().key, key);
    }
}

#[tokio::test]
async fn a_replica_that_was_killed_tells_its_edges_when_it_is_back() {
    let authority = Arc::new(Authority::new());
    let (credentials, _) = authority.node("system:node:edge-1", valid());
    let tls = edge(&authority, &credentials, &Clock::system());

    // Dropping a runtime is what a kill is: no task says goodbye.
    let first = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let signed = Arc::clone(&authority);
    let (listener, address) = first
        .spawn(async move { listen(&signed, valid()) })
        .await
        .unwrap();
    let serving = listener.clone();
    let (cloud, edge) = tokio::join!(
        first.spawn(async move { serving.accept().await.unwrap().handshake().await.unwrap() }),
        connect(address, &tls)
    );
    let edge = edge.unwrap();
    tokio::task::spawn_blocking(move || first.shutdown_timeout(Duration::from_secs(1)))
        .await
        .unwrap();
    drop((cloud, listener));

    let second = listen_at(&authority, valid(), address).unwrap();
    let _ = edge.open(Open::session()).await;
    let told = tokio::time::timeout(Duration::from_secs(5), edge.closed())
        .await
        .unwrap();
    assert!(matches!(told, TransportError::Reset), "{told}");
    drop(second);
}

fn rustls_client(tls: &ClientTls) -> quinn::ClientConfig {
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(Arc::clone(&tls.config)).unwrap();
    quinn::ClientConfig::new(Arc::new(crypto))
}

async fn quinn_client(config: &mut quinn::ClientConfig, address: SocketAddr) -> quinn::Connection {
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint
        .connect_with(config.clone(), address, tls::SERVER_NAME)
        .unwrap()
        .await
        .unwrap()
}
