//! How an edge judges the server's certificate: before it has joined by the pin in its token,
//! afterwards by the CA it was given. Either way under one fixed name.

use std::sync::Arc;

use parking_lot::Mutex;
use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use sha2::{Digest, Sha256};

use super::{SERVER_NAME, TlsFault, TlsFaults, TlsSetupError, provider, roots};

/// Takes what `authority` signed for [`SERVER_NAME`].
#[derive(Debug)]
pub(super) struct NamedAuthority {
    webpki: Arc<WebPkiServerVerifier>,
    faults: TlsFaults,
}

impl NamedAuthority {
    pub(super) fn new(authority: &CertificateDer<'static>, faults: TlsFaults) -> Result<Self, TlsSetupError> {
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(authority)?), provider())
            .build()
            .map_err(|error| TlsSetupError::Authority(error.to_string()))?;
        Ok(Self { webpki, faults })
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let name = ServerName::try_from(SERVER_NAME).map_err(|_| Error::General("server name".to_owned()))?;
        let verdict = self.webpki.verify_server_cert(leaf, others, &name, &[], now);
        verdict.inspect_err(|error| self.faults.note(TlsFault::of(error)))
    }
}

impl ServerCertVerifier for NamedAuthority {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _dialled: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(leaf, others, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Takes exactly the chain whose CA certificate has the pinned SHA-256, for [`SERVER_NAME`].
///
/// The verdict falls within the handshake: before it, nothing of ours was sent but a hello.
#[derive(Clone, Debug)]
pub struct PinnedAuthority {
    pin: [u8; 32],
    faults: TlsFaults,
    seen: Arc<Mutex<Option<CertificateDer<'static>>>>,
}

impl PinnedAuthority {
    pub(super) fn new(pin: [u8; 32], faults: TlsFaults) -> Self {
        Self {
            pin,
            faults,
            seen: Arc::default(),
        }
    }

    /// The CA certificate of the last handshake that succeeded.
    pub fn authority(&self) -> Option<CertificateDer<'static>> {
        self.seen.lock().clone()
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = others
            .iter()
            .find(|shown| Sha256::digest(shown).as_slice() == self.pin);
        let Some(authority) = pinned else {
            self.faults.note(TlsFault::PinMismatch);
            return Err(Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer));
        };
        let authority = authority.clone().into_owned();
        let named = NamedAuthority::new(&authority, self.faults.clone());
        let named = named.map_err(|error| Error::General(error.to_string()))?;
        let verified = named.judge(leaf, others, now)?;
        *self.seen.lock() = Some(authority);
        Ok(verified)
    }
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _dialled: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(leaf, others, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}
