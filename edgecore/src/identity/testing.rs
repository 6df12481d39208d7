//! A cluster's CA for tests.

use std::time::SystemTime;

use protocol::tls::Credentials;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls_pki_types::CertificateDer;

/// A CA, and the key of one node.
pub(crate) struct Pki {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(crate) key: KeyPair,
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

impl Pki {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self {
            issuer: CertifiedIssuer::self_signed(params, key()).unwrap(),
            key: key(),
        }
    }

    pub(crate) fn authority(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    pub(crate) fn authority_pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate of a node for the key, in PEM.
    pub(crate) fn certificate(&self, node: &str, ends: SystemTime) -> String {
        self.certificate_for(&self.key, node, ends)
    }

    pub(crate) fn certificate_for(&self, key: &KeyPair, node: &str, ends: SystemTime) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let name = format!("system:node:{node}");
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, "system:nodes");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = ends.into();
        params.signed_by(key, &self.issuer).unwrap().pem()
    }

    pub(crate) fn credentials(&self, node: &str, ends: SystemTime) -> Credentials {
        let (chain, key) = (self.certificate(node, ends), self.key.serialize_pem());
        Credentials::from_pem(chain.as_bytes(), key.as_bytes()).unwrap()
    }
}
