//! How a device whose certificate has ended shows that it holds the key: a signature over a value
//! that only the two ends of one TLS connection know (an exporter, RFC 8446 section 7.5).
//!
//! **Invariant:** a proof is good on the connection that it was made for and on no other, and what is
//! signed can be neither a handshake's message nor a certificate request.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::SigningKey as _;
use rustls::{ClientConnection, ConnectionCommon, ServerConnection, SideData, SignatureScheme};
use x509_parser::{prelude::FromDer as _, x509::SubjectPublicKeyInfo};

use super::{CsrError, NodeKey};

/// Names the use of the exporter, as RFC 5705 wants it.
const LABEL: &[u8] = b"EXPORTER-tombolo-renewal";
/// Comes before the value in what is signed: TLS signs nothing that begins so, and no DER does.
const PREFIX: &[u8] = b"tombolo renewal v1\0";
/// The longest proof in text: an ECDSA signature over P-256 takes at most 72 bytes.
const PROOF_MAX: usize = 128;

/// What both ends of one TLS connection know, and nobody else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ChannelValue([u8; 32]);

impl std::fmt::Debug for ChannelValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChannelValue(…)")
    }
}

impl ChannelValue {
    /// The edge's end.
    pub fn of_client(connection: &ClientConnection) -> Result<Self, rustls::Error> {
        Self::of(connection)
    }

    /// cloudcore's end.
    pub fn of_server(connection: &ServerConnection) -> Result<Self, rustls::Error> {
        Self::of(connection)
    }

    fn of<S: SideData>(connection: &ConnectionCommon<S>) -> Result<Self, rustls::Error> {
        let value = connection.export_keying_material([0; 32], LABEL, None)?;
        Ok(Self(value))
    }

    fn message(&self) -> Vec<u8> {
        [PREFIX, &self.0].concat()
    }

    /// Whether `proof` was made on this connection with the key whose `SubjectPublicKeyInfo` this is.
    pub fn is_proven(&self, public_key: &[u8], proof: &str) -> bool {
        if proof.len() > PROOF_MAX {
            return false;
        }
        let Ok(signature) = STANDARD.decode(proof) else {
            return false;
        };
        let Ok((_, key)) = SubjectPublicKeyInfo::from_der(public_key) else {
            return false;
        };
        let schemes = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let p256 = schemes
            .mapping
            .iter()
            .find(|(scheme, _)| *scheme == SignatureScheme::ECDSA_NISTP256_SHA256);
        p256.and_then(|(_, algorithms)| algorithms.first())
            .is_some_and(|p256| {
                let point = &key.subject_public_key.data;
                p256.verify_signature(point, &self.message(), &signature).is_ok()
            })
    }
}

impl NodeKey {
    /// Shows, on the connection of `channel`, that this key is held.
    pub fn prove(&self, channel: &ChannelValue) -> Result<String, CsrError> {
        Ok(STANDARD.encode(self.0.sign(&channel.message())?))
    }
}

#[cfg(test)]
mod tests {
    use bolero::check;

    use super::*;
    use crate::join::NodeRequest;

    fn key() -> (NodeKey, Vec<u8>) {
        let key = NodeKey::generate().unwrap();
        let request = NodeRequest::parse(&key.request(&"edge-1".parse().unwrap()).unwrap()).unwrap();
        (key, request.public_key)
    }

    #[test]
    fn a_proof_holds_for_its_key_and_its_connection_alone() {
        let ((key, public), (_, other)) = (key(), key());
        let (here, elsewhere) = (ChannelValue([1; 32]), ChannelValue([2; 32]));
        let proof = key.prove(&here).unwrap();
        assert!(proof.len() <= PROOF_MAX);
        assert!(here.is_proven(&public, &proof));
        assert!(!elsewhere.is_proven(&public, &proof), "replayed");
        assert!(!here.is_proven(&other, &proof), "another key");
        assert!(!here.is_proven(&public, ""));
        assert!(!here.is_proven(b"no key", &proof));
    }

    #[test]
    fn no_text_and_no_key_make_a_panic_or_a_proof() {
        let public = key().1;
        check!().for_each(|bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            assert!(!ChannelValue([1; 32]).is_proven(&public, &text));
            assert!(!ChannelValue([1; 32]).is_proven(bytes, "AAAA"));
        });
    }
}
