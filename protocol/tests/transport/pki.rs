//! A CA of a test's own, and what it signs.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use protocol::{
    clock::Clock,
    tls::{self, ClientTls, Credentials, KeyHash},
};
use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData};
use rustls::{
    pki_types::CertificateDer,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

pub(crate) const DAY: Duration = Duration::from_hours(24);

/// A CA of a test's own.
pub(crate) struct Authority {
    pub(crate) certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
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

    pub(crate) fn server(&self, valid: (SystemTime, SystemTime)) -> Arc<dyn ResolvesServerCert> {
        let params = CertificateParams::new(vec![tls::SERVER_NAME.to_owned()]).unwrap();
        Arc::new(Fixed(Arc::new(
            tls::certified_key(&self.sign(params, valid).0).unwrap(),
        )))
    }

    pub(crate) fn node(&self, common_name: &str, valid: (SystemTime, SystemTime)) -> (Credentials, KeyHash) {
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

impl Authority {
    /// A client that shows no certificate.
    pub(crate) fn anonymous(&self) -> Arc<rustls::ClientConfig> {
        let pin = <sha2::Sha256 as sha2::Digest>::digest(&self.certificate).into();
        tls::joining_client(pin, &Clock::system()).unwrap().0.config
    }
}

#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

pub(crate) fn valid() -> (SystemTime, SystemTime) {
    let now = Clock::system().now();
    (UNIX_EPOCH + DAY, now + DAY * 90)
}

pub(crate) fn edge(authority: &Authority, credentials: &Credentials, clock: &Clock) -> ClientTls {
    tls::client(&authority.certificate, credentials, clock).unwrap()
}
