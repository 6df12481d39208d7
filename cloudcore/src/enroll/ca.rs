//! The cluster's CA: what it signs, and for how long.
//!
//! Subject, usages and validity are decided here; of a request only the name and the key count.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::{
    join::NodeRequest,
    name::NODES_GROUP,
    tls::{Credentials, SERVER_NAME, TlsSetupError, authority_from_pem, expiry},
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use thiserror::Error;

const CA_LIFE: Duration = Duration::from_hours(10 * 365 * 24);
/// Made by each replica for itself, and made again long before its end.
pub(super) const SERVER_LIFE: Duration = Duration::from_hours(90 * 24);
/// 2020-01-01: earlier than any build, so that a device whose clock is behind, and which takes its
/// build time for the time, never finds a certificate that has not begun.
const BEGINNING: Duration = Duration::from_hours(438_288);

/// The CA cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CaError {
    /// The certificate or the key.
    #[error("the CA's certificate or key cannot be used")]
    Crypto(#[from] rcgen::Error),
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    /// It has ended.
    #[error("the CA's certificate ended {} ago by this server's clock", protocol::tls::human(*.0))]
    Ended(Duration),
}

/// A CA as it is kept.
pub(super) struct CaPem {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// A CA that can sign.
pub(super) struct Ca {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
    reset_key: [u8; 32],
    ends: SystemTime,
}

impl Ca {
    /// A new CA.
    pub(super) fn generate(now: SystemTime) -> Result<CaPem, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = blank(now + CA_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "tombolo");
        Ok(CaPem {
            certificate: params.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
        })
    }

    pub(super) fn read(pem: CaPem, now: SystemTime) -> Result<Self, CaError> {
        let certificate = authority_from_pem(pem.certificate.as_bytes())?;
        let ends = expiry(&certificate).map_err(|error| TlsSetupError::Authority(error.to_string()))?;
        if let Ok(past) = now.duration_since(ends) {
            return Err(CaError::Ended(past));
        }
        let key = KeyPair::from_pem(&pem.key)?;
        let reset_key = derive(&key);
        let issuer = Issuer::from_ca_cert_pem(&pem.certificate, key)?;
        Ok(Self {
            certificate,
            certificate_pem: pem.certificate,
            issuer,
            reset_key,
            ends,
        })
    }

    /// What a join token is pinned to.
    pub(super) fn pin(&self) -> [u8; 32] {
        Sha256::digest(&self.certificate).into()
    }

    /// When its certificate ends.
    pub(super) const fn ends(&self) -> SystemTime {
        self.ends
    }

    /// The same for all replicas, and known to nobody else.
    pub(super) const fn reset_key(&self) -> [u8; 32] {
        self.reset_key
    }

    /// A node's certificate, in PEM, and when it ends.
    pub(super) fn sign_node(
        &self,
        request: &NodeRequest,
        now: SystemTime,
        life: Duration,
    ) -> Result<(String, SystemTime), rcgen::Error> {
        let ends = self.ends.min(whole_seconds(now + life));
        let mut params = self.leaf(ends);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params
            .distinguished_name
            .push(DnType::CommonName, request.node.user());
        params
            .distinguished_name
            .push(DnType::OrganizationName, NODES_GROUP);
        let key = SubjectPublicKeyInfo::from_der(&request.public_key)?;
        Ok((params.signed_by(&key, &self.issuer)?.pem(), ends))
    }

    /// A replica's certificate, with a new key.
    pub(super) fn sign_server(&self, now: SystemTime) -> Result<Credentials, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = self.leaf(now + SERVER_LIFE);
        params.subject_alt_names = vec![rcgen::SanType::DnsName(SERVER_NAME.try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.distinguished_name.push(DnType::CommonName, SERVER_NAME);
        let leaf = params.signed_by(&key, &self.issuer)?;
        // The CA goes along: a joining device knows only its hash.
        Ok(Credentials {
            chain: vec![leaf.der().clone(), self.certificate.clone()],
            key: key.into(),
        })
    }

    fn leaf(&self, not_after: SystemTime) -> CertificateParams {
        let mut params = blank(not_after.min(self.ends));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params
    }
}

/// Certificates tell no fractions.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

fn blank(not_after: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = (UNIX_EPOCH + BEGINNING).into();
    params.not_after = not_after.into();
    params.distinguished_name = DistinguishedName::new();
    params
}

fn derive(key: &KeyPair) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(b"tombolo stateless reset v1\0");
    hasher.update(key.serialized_der());
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use protocol::{join::NodeKey, tls};
    use rustls_pki_types::pem::PemObject;

    use super::*;

    fn ca(now: SystemTime) -> Ca {
        Ca::read(Ca::generate(now).unwrap(), now).unwrap()
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + BEGINNING + Duration::from_hours(24 * 365 * 7)
    }

    #[test]
    fn a_nodes_certificate_says_what_the_ca_says_and_lives_as_long_as_was_set() {
        let key = NodeKey::generate().unwrap();
        let request = NodeRequest::parse(&key.request(&"edge-1".parse().unwrap()).unwrap()).unwrap();
        let life = Duration::from_hours(365 * 24);
        let (signed, ends) = ca(now()).sign_node(&request, now(), life).unwrap();
        assert_eq!(ends, now() + life);
        let leaf = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
        let address: SocketAddr = "192.0.2.1:1".parse().unwrap();

        let peer = tls::peer_identity(std::slice::from_ref(&leaf), address, now()).unwrap();
        assert_eq!((peer.node.as_str(), peer.key), ("edge-1", request.key));
        assert_eq!(
            peer.expires.duration_since(now()).unwrap().as_secs(),
            life.as_secs()
        );
        let late = now() + life + Duration::from_hours(25);
        let refused = tls::peer_identity(std::slice::from_ref(&leaf), address, late)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("1d 1h ago"), "{refused}");
    }

    #[test]
    fn no_certificate_outlives_the_ca_and_an_ended_ca_says_so() {
        let pem = Ca::generate(now()).unwrap();
        let again = CaPem {
            certificate: pem.certificate.clone(),
            key: pem.key.clone(),
        };
        let late = now() + CA_LIFE - Duration::from_hours(24);
        let server = Ca::read(pem, late).unwrap().sign_server(late).unwrap();
        assert_eq!(
            expiry(&server.chain[0]).unwrap(),
            expiry(&server.chain[1]).unwrap()
        );
        assert!(matches!(
            Ca::read(again, now() + CA_LIFE * 2),
            Err(CaError::Ended(_))
        ));
    }
}
