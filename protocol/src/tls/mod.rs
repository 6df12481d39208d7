//! Who speaks: certificates, keys and the checks that both ends make.
//!
//! TLS 1.3 only, on ring. An edge verifies the fixed name [`SERVER_NAME`] under the cluster's CA,
//! whatever address it dialled; cloudcore reads the node's name from the client certificate. Both
//! ask the program's [`Clock`] for the time.
//!
//! **Invariant:** a [`PeerIdentity`] exists only for a certificate that the CA signed, that names
//! exactly one node, and that is valid now (checked again when a session was resumed).

mod fault;
mod identity;
mod verify;

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};
use thiserror::Error;

pub use fault::{TlsFault, TlsFaults, human};
pub(crate) use identity::node_name;
pub use identity::{
    BadKeyHash, Certified, IdentityError, KeyHash, PeerIdentity, certified, expiry, key_hash, peer_identity,
};
pub use verify::PinnedAuthority;

use crate::clock::Clock;

/// The name that every cloudcore replica's certificate carries, and that every edge verifies.
pub const SERVER_NAME: &str = "cloudcore.tombolo";

/// The protocol that both ends name in the QUIC handshake.
pub const ALPN: &[u8] = b"tombolo/1";

/// What both ends speak over TCP: enrolment, and the upgrade to the link.
const HTTP_ALPN: &[u8] = b"http/1.1";

/// A certificate chain and its key.
#[derive(Debug)]
pub struct Credentials {
    /// The leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
}

/// Why TLS could not be set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsSetupError {
    /// A PEM text does not hold what it should.
    #[error("the {what} is not readable PEM")]
    Pem {
        /// What was read.
        what: &'static str,
        /// The cause.
        source: rustls::pki_types::pem::Error,
    },
    /// The certificate or key does not fit.
    #[error("the {what} cannot be used")]
    Unusable {
        /// What was set up.
        what: &'static str,
        /// The cause.
        source: rustls::Error,
    },
    /// The CA certificate cannot verify anything.
    #[error("the CA certificate cannot be used: {0}")]
    Authority(String),
}

impl Credentials {
    /// Reads a chain and a key.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsSetupError> {
        let chain = chain_from_pem(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| TlsSetupError::Pem {
            what: "private key",
            source,
        })?;
        Ok(Self { chain, key })
    }
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

/// Reads a certificate and those above it.
pub fn chain_from_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsSetupError::Pem {
            what: "certificate",
            source,
        })
}

/// Reads the CA's certificate.
pub fn authority_from_pem(pem: &[u8]) -> Result<CertificateDer<'static>, TlsSetupError> {
    CertificateDer::from_pem_slice(pem).map_err(|source| TlsSetupError::Pem {
        what: "CA certificate",
        source,
    })
}

/// The edge's side of the handshake, and what went wrong in the last one.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// For any transport; the ALPN is [`ALPN`].
    pub config: Arc<ClientConfig>,
    /// The last handshake's fault.
    pub faults: TlsFaults,
}

impl ClientTls {
    /// For TLS over TCP, which is HTTP before it is a link.
    pub fn over_tcp(&self) -> Arc<ClientConfig> {
        let mut config = (*self.config).clone();
        config.alpn_protocols = vec![HTTP_ALPN.to_vec()];
        Arc::new(config)
    }
}

/// An enrolled edge: verifies [`SERVER_NAME`] under `authority` and shows `credentials`.
pub fn client(
    authority: &CertificateDer<'static>,
    credentials: &Credentials,
    clock: &Clock,
) -> Result<ClientTls, TlsSetupError> {
    let faults = TlsFaults::default();
    let verifier = verify::NamedAuthority::new(authority, faults.clone())?;
    let mut config = client_builder(clock)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verify::By(verifier)))
        .with_client_auth_cert(credentials.chain.clone(), credentials.key.clone_key())
        .map_err(|source| TlsSetupError::Unusable {
            what: "node's certificate",
            source,
        })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(ClientTls {
        config: Arc::new(config),
        faults,
    })
}

/// A node whose certificate has ended: verifies [`SERVER_NAME`] under `authority` and shows nothing,
/// because a handshake would not take what it has.
pub fn renewing_client(
    authority: &CertificateDer<'static>,
    clock: &Clock,
) -> Result<ClientTls, TlsSetupError> {
    let faults = TlsFaults::default();
    let verifier = verify::NamedAuthority::new(authority, faults.clone())?;
    let config = client_builder(clock)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verify::By(verifier)))
        .with_no_client_auth();
    Ok(ClientTls {
        config: Arc::new(config),
        faults,
    })
}

/// A device that wants to join: knows only the pin and shows no certificate.
pub fn joining_client(pin: [u8; 32], clock: &Clock) -> Result<(ClientTls, PinnedAuthority), TlsSetupError> {
    let faults = TlsFaults::default();
    let verifier = PinnedAuthority::new(pin, faults.clone());
    let config = client_builder(clock)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verify::By(verifier.clone())))
        .with_no_client_auth();
    Ok((
        ClientTls {
            config: Arc::new(config),
            faults,
        },
        verifier,
    ))
}

fn client_builder(
    clock: &Clock,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, TlsSetupError> {
    ClientConfig::builder_with_details(provider(), Arc::new(clock.clone()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|source| TlsSetupError::Unusable {
            what: "TLS 1.3 client",
            source,
        })
}

/// Whether a client must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// The link.
    Required,
    /// Enrolment: a new device has none.
    Optional,
}

/// cloudcore's side of the handshake. `certificates` is asked anew at every handshake, so that a
/// renewed certificate needs no new configuration.
pub fn server(
    authority: &CertificateDer<'static>,
    certificates: Arc<dyn ResolvesServerCert>,
    client: ClientCertificate,
    clock: &Clock,
) -> Result<Arc<ServerConfig>, TlsSetupError> {
    let verifier = client_verifier(authority, client)?;
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(clock.clone()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|source| TlsSetupError::Unusable {
            what: "TLS 1.3 server",
            source,
        })?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificates);
    config.alpn_protocols = match client {
        ClientCertificate::Required => vec![ALPN.to_vec()],
        ClientCertificate::Optional => vec![HTTP_ALPN.to_vec()],
    };
    // Early data can be replayed, and would come before the client's certificate is proven.
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

fn client_verifier(
    authority: &CertificateDer<'static>,
    client: ClientCertificate,
) -> Result<Arc<dyn ClientCertVerifier>, TlsSetupError> {
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authority)?), provider());
    if client == ClientCertificate::Optional {
        verifier = verifier.allow_unauthenticated();
    }
    verifier
        .build()
        .map_err(|error| TlsSetupError::Authority(error.to_string()))
}

/// Makes what [`server`] serves out of a chain and its key.
pub fn certified_key(credentials: &Credentials) -> Result<rustls::sign::CertifiedKey, TlsSetupError> {
    let chain = credentials.chain.clone();
    rustls::sign::CertifiedKey::from_der(chain, credentials.key.clone_key(), &provider()).map_err(|source| {
        TlsSetupError::Unusable {
            what: "server's certificate",
            source,
        }
    })
}

fn roots(authority: &CertificateDer<'static>) -> Result<RootCertStore, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    roots
        .add(authority.clone())
        .map_err(|source| TlsSetupError::Unusable {
            what: "CA certificate",
            source,
        })?;
    Ok(roots)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
