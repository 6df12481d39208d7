//! A cloudcore of a few lines: a real CA and real TLS, with a say of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use protocol::clock::Clock;
use protocol::join::{
    EnrollAnswer, EnrollRefusal, EnrollRequest, JoinToken, NodeRequest, RENEW_PATH, RefusalCode,
};
use protocol::tls::{self, ClientCertificate, Credentials, SERVER_NAME};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What the fake says to the next request.
#[derive(Clone, Debug)]
pub(super) enum Say {
    Yes,
    /// Yes to the key that asked first, as a token that is good for one use does.
    YesToOneKey,
    No(RefusalCode, &'static str),
    /// The connection breaks off after the request.
    Nothing,
    /// A certificate for somebody else.
    AnotherName,
    /// A yes, with a clock that is two hours away.
    LateClock,
}

#[derive(Debug)]
pub(super) struct Cloud {
    pub(super) address: SocketAddr,
    pub(super) token: JoinToken,
    /// The CSRs that were seen.
    pub(super) seen: Arc<Mutex<Vec<String>>>,
    /// Why the key of a node is not taken any more.
    pub(super) refuses: Arc<Mutex<Option<(RefusalCode, &'static str)>>>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

type Issuer = Arc<CertifiedIssuer<'static, KeyPair>>;

fn authority() -> Issuer {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "tombolo test CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    Arc::new(CertifiedIssuer::self_signed(params, key).unwrap())
}

fn served(issuer: &Issuer) -> Arc<CertifiedKey> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let params = CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
    let leaf = params.signed_by(&key, issuer).unwrap();
    let chain = vec![leaf.der().clone(), issuer.der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    Arc::new(tls::certified_key(&Credentials { chain, key }).unwrap())
}

impl Cloud {
    /// Says these things, one a request; the last one for ever.
    pub(super) async fn saying(says: Vec<Say>) -> Self {
        let issuer = authority();
        let clock = Clock::system();
        let certificates = Arc::new(Fixed(served(&issuer)));
        let config = tls::server(issuer.der(), certificates, ClientCertificate::Optional, &clock).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let token = JoinToken::generate(Sha256::digest(issuer.der()).into());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let refuses = Arc::default();
        let desk = Desk {
            says: Arc::new(Mutex::new(says)),
            seen: Arc::clone(&seen),
            refuses: Arc::clone(&refuses),
            issuer,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            let acceptor = tokio_rustls::TlsAcceptor::from(config);
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, desk) = (acceptor.clone(), desk.clone());
                open.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service = service_fn(move |request| desk.clone().answer(request));
                    let served = hyper::server::conn::http1::Builder::new();
                    let _ = served.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self {
            address,
            token,
            seen,
            refuses,
            _tasks: tasks,
        }
    }

    /// Whether all CSRs were for the same key.
    pub(super) fn saw_one_key(&self) -> bool {
        let seen = self.seen.lock();
        let mut keys = seen.iter().map(|csr| NodeRequest::parse(csr).unwrap().key);
        let first = keys.next();
        keys.all(|key| Some(key) == first)
    }
}

#[derive(Clone)]
struct Desk {
    says: Arc<Mutex<Vec<Say>>>,
    seen: Arc<Mutex<Vec<String>>>,
    refuses: Arc<Mutex<Option<(RefusalCode, &'static str)>>>,
    issuer: Issuer,
}

impl Desk {
    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<bytes::Bytes>>, &'static str> {
        let is_renewal = request.uri().path() == RENEW_PATH;
        let body = request.into_body().collect().await.unwrap().to_bytes();
        if is_renewal {
            return Ok(self.renewed());
        }
        let asked: EnrollRequest = serde_json::from_slice(&body).unwrap();
        self.seen.lock().push(asked.csr.clone());
        let say = {
            let mut says = self.says.lock();
            if says.len() > 1 {
                says.remove(0)
            } else {
                says[0].clone()
            }
        };
        let now = Clock::system().now_millis();
        match say {
            Say::Nothing => Err("the cable was cut"),
            Say::YesToOneKey if self.has_seen_other_keys(&asked.csr) => Ok(refused(
                RefusalCode::TokenUsedUp,
                "the join token was used as often as it may be",
            )),
            Say::Yes | Say::YesToOneKey => Ok(self.signed(&asked.csr, None, now)),
            Say::LateClock => Ok(self.signed(&asked.csr, None, now + 7_200_000)),
            Say::AnotherName => Ok(self.signed(&asked.csr, Some("system:node:somebody"), now)),
            Say::No(code, text) => Ok(refused(code, text)),
        }
    }

    fn has_seen_other_keys(&self, csr: &str) -> bool {
        let key = |csr: &str| NodeRequest::parse(csr).unwrap().key;
        self.seen.lock().iter().any(|seen| key(seen) != key(csr))
    }

    /// A renewal is only asked for to hear whether it is refused.
    fn renewed(&self) -> Response<Full<bytes::Bytes>> {
        if let Some((code, text)) = *self.refuses.lock() {
            return refused(code, text);
        }
        let answer = EnrollAnswer {
            certificate: "not to be kept".to_owned(),
            authority: self.issuer.pem(),
            cluster_id: "c1".to_owned(),
            server_time_ms: Clock::system().now_millis(),
        };
        reply(StatusCode::OK, serde_json::to_vec(&answer).unwrap())
    }

    fn signed(&self, csr: &str, name: Option<&str>, now: u64) -> Response<Full<bytes::Bytes>> {
        let mut request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        if let Some(name) = name {
            request.params.distinguished_name.push(DnType::CommonName, name);
        }
        let leaf = request.signed_by(&self.issuer).unwrap();
        let answer = EnrollAnswer {
            certificate: leaf.pem(),
            authority: self.issuer.pem(),
            cluster_id: "c1".to_owned(),
            server_time_ms: now,
        };
        reply(StatusCode::OK, serde_json::to_vec(&answer).unwrap())
    }
}

fn refused(code: RefusalCode, text: &str) -> Response<Full<bytes::Bytes>> {
    let refusal = EnrollRefusal {
        code,
        text: text.to_owned(),
        server_time_ms: Clock::system().now_millis(),
    };
    reply(StatusCode::FORBIDDEN, serde_json::to_vec(&refusal).unwrap())
}

fn reply(status: StatusCode, body: Vec<u8>) -> Response<Full<bytes::Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}
