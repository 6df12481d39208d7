//! The key that never leaves the device, and the request that carries its public half.

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use thiserror::Error;
use x509_parser::{
    certification_request::X509CertificationRequest, oid_registry::OID_KEY_TYPE_EC_PUBLIC_KEY,
    pem::parse_x509_pem, prelude::FromDer,
};

use super::ENROLL_BODY_MAX;
use crate::{
    name::{NODES_GROUP, NodeName},
    tls::{Credentials, IdentityError, KeyHash},
};

/// A node's P-256 key.
pub struct NodeKey(pub(super) KeyPair);

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeKey(…)")
    }
}

impl NodeKey {
    /// A new random key.
    pub fn generate() -> Result<Self, CsrError> {
        Ok(Self(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?))
    }

    /// Reads a key that [`expose_pem`](Self::expose_pem) wrote.
    pub fn from_pem(pem: &str) -> Result<Self, CsrError> {
        Ok(Self(KeyPair::from_pem(pem)?))
    }

    /// The key of a node's credentials.
    pub fn of(credentials: &Credentials) -> Result<Self, CsrError> {
        Ok(Self(KeyPair::try_from(&credentials.key)?))
    }

    /// The private key: **secret**.
    pub fn expose_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// A request to be known as `node`, in PEM.
    pub fn request(&self, node: &NodeName) -> Result<String, CsrError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, node.user());
        params
            .distinguished_name
            .push(DnType::OrganizationName, NODES_GROUP);
        Ok(params.serialize_request(&self.0)?.pem()?)
    }
}

/// All that counts of a certificate signing request: who asks, with which key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRequest {
    /// The name it asks for.
    pub node: NodeName,
    /// Its public key, as `SubjectPublicKeyInfo` in DER.
    pub public_key: Vec<u8>,
    /// The hash of that.
    pub key: KeyHash,
}

/// What is wrong with a key or a request.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CsrError {
    /// Too long to be one.
    #[error("the certificate request is over {ENROLL_BODY_MAX} bytes")]
    TooLong,
    /// Not a PEM certificate request.
    #[error("the certificate request does not parse")]
    Unreadable,
    /// Not signed by its own key.
    #[error("the certificate request is not signed by its own key")]
    Signature,
    /// Not a P-256 key.
    #[error("the key is not a P-256 key")]
    KeyType,
    /// The subject is not a node.
    #[error("the certificate request does not name a node")]
    Subject(#[from] IdentityError),
    /// The key could not be made, read or used.
    #[error("the node's key cannot be used")]
    Key(#[from] rcgen::Error),
}

impl NodeRequest {
    /// Reads a request and checks that whoever made it holds the key.
    pub fn parse(pem: &str) -> Result<Self, CsrError> {
        if pem.len() > ENROLL_BODY_MAX {
            return Err(CsrError::TooLong);
        }
        let (_, pem) = parse_x509_pem(pem.as_bytes()).map_err(|_| CsrError::Unreadable)?;
        let (rest, csr) =
            X509CertificationRequest::from_der(&pem.contents).map_err(|_| CsrError::Unreadable)?;
        if !rest.is_empty() {
            return Err(CsrError::Unreadable);
        }
        let public_key = &csr.certification_request_info.subject_pki;
        if !is_p256(public_key) {
            return Err(CsrError::KeyType);
        }
        csr.verify_signature().map_err(|_| CsrError::Signature)?;
        let node = crate::tls::node_name(&csr.certification_request_info.subject)?;
        let key = KeyHash::of_spki(public_key.raw);
        Ok(Self {
            node,
            public_key: public_key.raw.to_vec(),
            key,
        })
    }
}

fn is_p256(key: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> bool {
    const P256: &str = "1.2.840.10045.3.1.7";
    let curve = key
        .algorithm
        .parameters
        .as_ref()
        .and_then(|any| any.as_oid().ok());
    key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
        && curve.is_some_and(|curve| curve.to_id_string() == P256)
}

#[cfg(test)]
mod tests {
    use rcgen::PKCS_ED25519;

    use super::*;

    #[test]
    fn a_request_carries_the_name_and_the_key_and_nothing_else_counts() {
        let key = NodeKey::generate().unwrap();
        let node: NodeName = "edge-1".parse().unwrap();
        let read = NodeRequest::parse(&key.request(&node).unwrap()).unwrap();
        assert_eq!(read.node, node);
        let again = NodeKey::from_pem(&key.expose_pem()).unwrap();
        assert_eq!(
            NodeRequest::parse(&again.request(&node).unwrap()).unwrap().key,
            read.key
        );
    }

    #[test]
    fn a_request_with_a_foreign_signature_is_refused() {
        let key = NodeKey::generate().unwrap();
        let pem = key.request(&"edge-1".parse().unwrap()).unwrap();
        let (_, parsed) = parse_x509_pem(pem.as_bytes()).unwrap();
        let mut der = parsed.contents;
        let at = der.windows(6).position(|window| window == b"edge-1").unwrap();
        der[at + 5] = b'2';
        let forged = format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &der)
        );
        assert!(matches!(NodeRequest::parse(&forged), Err(CsrError::Signature)));
    }

    #[test]
    fn other_keys_other_subjects_and_garbage_are_refused() {
        let other = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::default();
        let ed25519 = params.serialize_request(&other).unwrap().pem().unwrap();
        assert!(matches!(NodeRequest::parse(&ed25519), Err(CsrError::KeyType)));

        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "admin");
        params
            .distinguished_name
            .push(DnType::OrganizationName, "system:masters");
        let key = NodeKey::generate().unwrap();
        let admin = params.serialize_request(&key.0).unwrap().pem().unwrap();
        assert!(matches!(NodeRequest::parse(&admin), Err(CsrError::Subject(_))));

        assert!(matches!(NodeRequest::parse("hello"), Err(CsrError::Unreadable)));
        assert!(matches!(
            NodeRequest::parse(&"x".repeat(20 << 10)),
            Err(CsrError::TooLong)
        ));
    }
}
