//! Reads who a certificate is for.

use std::{
    fmt,
    net::SocketAddr,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use thiserror::Error;
use x509_parser::{certificate::X509Certificate, prelude::FromDer, x509::X509Name};

use super::{ClientCertificate, client_verifier, human};
use crate::name::{NODES_GROUP, NameError, NodeName};

/// The SHA-256 of a public key (its `SubjectPublicKeyInfo`): what a node's key is known by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub [u8; 32]);

impl KeyHash {
    /// The hash of a `SubjectPublicKeyInfo` in DER.
    pub fn of_spki(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not 64 hex digits.
#[derive(Debug, Error)]
#[error("a key hash is 64 hex digits")]
pub struct BadKeyHash;

impl FromStr for KeyHash {
    type Err = BadKeyHash;

    fn from_str(text: &str) -> Result<Self, BadKeyHash> {
        let mut hash = [0; 32];
        hex::decode_to_slice(text, &mut hash).map_err(|_| BadKeyHash)?;
        Ok(Self(hash))
    }
}

/// The node at the other end, as its certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its name.
    pub node: NodeName,
    /// Its key.
    pub key: KeyHash,
    /// When its certificate ends.
    pub expires: SystemTime,
    /// Where it dials from.
    pub address: SocketAddr,
}

/// Why a certificate is not a node's.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdentityError {
    /// No certificate was shown.
    #[error("no client certificate was shown")]
    Missing,
    /// Not X.509.
    #[error("the certificate does not parse")]
    Unreadable,
    /// Not exactly one common name.
    #[error("the certificate has {0} common names; exactly one is wanted")]
    CommonNames(usize),
    /// Not exactly the one organization `system:nodes`.
    #[error("the certificate's organization is not exactly {NODES_GROUP}")]
    Organization,
    /// The common name is not a node's user.
    #[error("the certificate's common name does not name a node")]
    Name(#[from] NameError),
    /// Another CA's, or not for a client.
    #[error("the certificate is not one that this cluster's CA has signed for a node")]
    Foreign,
    /// Ended since the session was first made.
    #[error("the certificate of node {node} ended {} ago by this server's clock", human(*.by))]
    Expired {
        /// The node it names.
        node: NodeName,
        /// How long ago.
        by: Duration,
    },
}

/// Reads a node's identity out of the chain that its peer showed, and checks that it is still
/// valid at `now`: a resumed session brings the certificate of the first one.
pub fn peer_identity(
    chain: &[CertificateDer<'_>],
    address: SocketAddr,
    now: SystemTime,
) -> Result<PeerIdentity, IdentityError> {
    let leaf = chain.first().ok_or(IdentityError::Missing)?;
    let certificate = parse(leaf)?;
    let node = node_name(certificate.subject())?;
    let expires = not_after(&certificate);
    if now > expires {
        let by = now.duration_since(expires).unwrap_or_default();
        return Err(IdentityError::Expired { node, by });
    }
    let key = KeyHash::of_spki(certificate.public_key().raw);
    Ok(PeerIdentity {
        node,
        key,
        expires,
        address: canonical(address),
    })
}

/// What a node's certificate says, be it that it has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// The node it names.
    pub node: NodeName,
    /// Its public key, as `SubjectPublicKeyInfo` in DER.
    pub public_key: Vec<u8>,
    /// The hash of that.
    pub key: KeyHash,
    /// When it ends.
    pub expires: SystemTime,
}

/// Reads a node's certificate and checks that `authority` has signed it; not whether it has ended.
pub fn certified(
    authority: &CertificateDer<'static>,
    leaf: &CertificateDer<'_>,
) -> Result<Certified, IdentityError> {
    let certificate = parse(leaf)?;
    let expires = not_after(&certificate);
    // All that a handshake checks, at the last moment that it would have passed.
    let at = expires.duration_since(UNIX_EPOCH).unwrap_or_default();
    let verifier = client_verifier(authority, ClientCertificate::Required);
    verifier
        .map_err(|_| IdentityError::Foreign)?
        .verify_client_cert(leaf, &[], UnixTime::since_unix_epoch(at))
        .map_err(|_| IdentityError::Foreign)?;
    let public_key = certificate.public_key().raw;
    Ok(Certified {
        node: node_name(certificate.subject())?,
        public_key: public_key.to_vec(),
        key: KeyHash::of_spki(public_key),
        expires,
    })
}

/// When a certificate ends.
pub fn expiry(certificate: &CertificateDer<'_>) -> Result<SystemTime, IdentityError> {
    Ok(not_after(&parse(certificate)?))
}

/// The hash of a certificate's public key.
pub fn key_hash(certificate: &CertificateDer<'_>) -> Result<KeyHash, IdentityError> {
    Ok(KeyHash::of_spki(parse(certificate)?.public_key().raw))
}

/// The node that a subject names: exactly one common name, exactly one organization.
pub(crate) fn node_name(subject: &X509Name<'_>) -> Result<NodeName, IdentityError> {
    let names: Vec<_> = subject.iter_common_name().collect();
    let [name] = names.as_slice() else {
        return Err(IdentityError::CommonNames(names.len()));
    };
    let groups: Vec<_> = subject
        .iter_organization()
        .map(|group| group.as_str().ok())
        .collect();
    if groups != [Some(NODES_GROUP)] {
        return Err(IdentityError::Organization);
    }
    Ok(NodeName::from_user(
        name.as_str().map_err(|_| IdentityError::Unreadable)?,
    )?)
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, IdentityError> {
    match X509Certificate::from_der(der) {
        Ok((_, certificate)) => Ok(certificate),
        Err(_) => Err(IdentityError::Unreadable),
    }
}

fn not_after(certificate: &X509Certificate<'_>) -> SystemTime {
    let seconds = certificate.validity().not_after.timestamp();
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// IPv4 written as IPv6 is IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
