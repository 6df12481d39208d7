//! A node's certificate with its key and the CA: read, checked, written.
//!
//! **Invariant:** after the start, a [`Held`] is a certificate that the CA has signed for this node's
//! name and for the key beside it; nothing else is ever taken up, or written over it.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::join::{CsrError, ENROLL_BODY_MAX, NodeKey};
use protocol::name::NodeName;
use protocol::tls::{self, Credentials, IdentityError, KeyHash, TlsSetupError};
use rustls_pki_types::CertificateDer;
use thiserror::Error;

use crate::cli::record::{RecordError, replace};

/// Where the node's key and certificates are.
#[derive(Clone, Debug)]
pub struct Files {
    /// The private key, PEM.
    pub key: PathBuf,
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// The CA's certificate, PEM.
    pub authority: PathBuf,
}

/// Why a certificate is not one that this node can use.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IdentityFault {
    /// A file cannot be read.
    #[error("{} cannot be read; join again", path.display())]
    Unread {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Longer than a certificate is.
    #[error("the certificate is over {ENROLL_BODY_MAX} bytes")]
    TooLong,
    /// Not readable.
    #[error(transparent)]
    Unusable(#[from] TlsSetupError),
    /// Not a node's, or another CA's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The key is not usable.
    #[error(transparent)]
    Key(#[from] CsrError),
    /// Another node's.
    #[error("the certificate is for node {0}")]
    OtherName(NodeName),
    /// Another key's.
    #[error("the certificate is for another key")]
    OtherKey,
    /// None could be read so far.
    #[error("this node has no certificate; join again")]
    Missing,
    /// The write broke off.
    #[error("the certificate was not written")]
    Interrupted,
    /// It could not be written.
    #[error(transparent)]
    Unwritten(#[from] RecordError),
}

/// What a node shows, and whom it trusts.
#[derive(Debug)]
pub struct Held {
    /// The node's certificate and key.
    pub credentials: Credentials,
    /// The cluster's CA.
    pub authority: CertificateDer<'static>,
    /// When the certificate ends.
    pub ends: SystemTime,
    /// The hash of the key.
    pub(super) key: KeyHash,
}

impl Held {
    /// Checks that they fit each other and `node`.
    pub(super) fn new(
        node: &NodeName,
        credentials: Credentials,
        authority: CertificateDer<'static>,
    ) -> Result<Self, IdentityFault> {
        let leaf = credentials.chain.first().ok_or(IdentityError::Missing)?;
        let certified = tls::certified(&authority, leaf)?;
        if certified.node != *node {
            return Err(IdentityFault::OtherName(certified.node));
        }
        tls::certified_key(&credentials)?
            .keys_match()
            .map_err(|_| IdentityFault::OtherKey)?;
        Ok(Self {
            ends: certified.expires,
            key: certified.key,
            credentials,
            authority,
        })
    }

    /// Holds what no cloudcore may take: a node without a link runs its pods all the same.
    fn unchecked(
        credentials: Credentials,
        authority: CertificateDer<'static>,
    ) -> Result<Self, IdentityFault> {
        let leaf = credentials.chain.first().ok_or(IdentityError::Missing)?;
        Ok(Self {
            ends: tls::expiry(leaf)?,
            key: tls::key_hash(leaf)?,
            credentials,
            authority,
        })
    }

    /// The same key with a new certificate.
    pub(super) fn with_certificate(&self, node: &NodeName, pem: &str) -> Result<Self, IdentityFault> {
        if pem.len() > ENROLL_BODY_MAX {
            return Err(IdentityFault::TooLong);
        }
        let chain = tls::chain_from_pem(pem.as_bytes())?;
        let key = self.credentials.key.clone_key();
        let new = Self::new(node, Credentials { chain, key }, self.authority.clone())?;
        if new.key == self.key {
            Ok(new)
        } else {
            Err(IdentityFault::OtherKey)
        }
    }

    /// The certificate without those above it, in PEM.
    pub fn certificate_pem(&self) -> String {
        let base64 = self.credentials.chain.first().map(|leaf| STANDARD.encode(leaf));
        format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            base64.unwrap_or_default()
        )
    }

    pub(super) fn node_key(&self) -> Result<NodeKey, CsrError> {
        NodeKey::of(&self.credentials)
    }
}

impl Files {
    /// Reads what is there and checks that it fits itself and `node`.
    pub(crate) fn read(&self, node: &NodeName) -> Result<Held, IdentityFault> {
        let (credentials, authority) = self.parse()?;
        Held::new(node, credentials, authority)
    }

    /// Reads what is there, for a start. Whether it fits is looked at again at each dial.
    pub(super) fn read_at_start(&self, node: &NodeName) -> Result<Held, IdentityFault> {
        let (credentials, authority) = self.parse()?;
        Held::new(node, credentials.clone(), authority.clone()).or_else(|error| {
            tracing::warn!(%error, "the node's certificate is not one that cloudcore takes; join again");
            Held::unchecked(credentials, authority)
        })
    }

    fn parse(&self) -> Result<(Credentials, CertificateDer<'static>), IdentityFault> {
        let credentials = Credentials::from_pem(&read(&self.certificate)?, &read(&self.key)?)?;
        Ok((credentials, tls::authority_from_pem(&read(&self.authority)?)?))
    }

    /// Replaces the certificate: after a power cut there is the old one or the new one.
    pub(super) fn write(&self, certificate: &str) -> Result<(), IdentityFault> {
        Ok(replace(&self.certificate, certificate.as_bytes(), 0o600)?)
    }
}

/// When the certificate in a file ends; nothing where there is none to read.
pub(crate) fn end_on_disk(certificate: &Path) -> Option<SystemTime> {
    let pem = std::fs::read(certificate).ok()?;
    tls::expiry(&tls::authority_from_pem(&pem).ok()?).ok()
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityFault> {
    std::fs::read(path).map_err(|source| IdentityFault::Unread {
        path: path.to_owned(),
        source,
    })
}
