//! A CA of a test's own, and what it signs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use protocol::clock::Clock;
use protocol::tls::{self, Certified, Credentials};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

const DAY: Duration = Duration::from_hours(24);

pub(crate) struct Authority {
    pub(crate) certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "tombolo");
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn server(&self) -> Arc<dyn ResolvesServerCert> {
        let params = CertificateParams::new(vec![tls::SERVER_NAME.to_owned()]).unwrap();
        Arc::new(Fixed(Arc::new(tls::certified_key(&self.sign(params)).unwrap())))
    }

    pub(crate) fn node(&self, name: &str) -> Credentials {
        self.sign(node(name))
    }

    pub(crate) fn node_until(&self, name: &str, ends: SystemTime) -> Credentials {
        self.sign_until(node(name), ends)
    }

    /// Another certificate for the key and the name of `held`, in PEM.
    pub(crate) fn again(&self, held: &Certified, ends: SystemTime) -> String {
        let mut params = node(held.node.as_str());
        params.not_after = ends.into();
        let key = SubjectPublicKeyInfo::from_der(&held.public_key).unwrap();
        params.signed_by(&key, &self.issuer).unwrap().pem()
    }

    fn sign(&self, params: CertificateParams) -> Credentials {
        self.sign_until(params, Clock::system().now() + DAY * 90)
    }

    fn sign_until(&self, mut params: CertificateParams, ends: SystemTime) -> Credentials {
        let key = KeyPair::generate().unwrap();
        params.not_before = (Clock::system().now() - DAY).into();
        params.not_after = ends.into();
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Credentials {
            chain: vec![leaf, self.certificate.clone()],
            key: key.into(),
        }
    }
}

fn node(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let common_name = format!("system:node:{name}");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
        .distinguished_name
        .push(DnType::OrganizationName, "system:nodes");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}
