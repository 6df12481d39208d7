//! How an edge judges the server's certificate: before it has joined by the pin in its token,
//! afterwards by the CA it was given. Either way under one fixed name.

use std::fmt::Debug;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use sha2::{Digest, Sha256};

use super::{SERVER_NAME, TlsFault, TlsFaults, TlsSetupError, provider, roots};

/// How a server's certificate is judged, whatever name was dialled.
pub(super) trait Judge: Debug + Send + Sync {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error>;
}

/// Certificates by such a judge, signatures by the provider's algorithms; TLS 1.3 alone.
#[derive(Debug)]
pub(super) struct By<J>(pub(super) J);

impl<J: Judge> ServerCertVerifier for By<J> {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _dialled: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.judge(leaf, others, now)
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
}

impl Judge for NamedAuthority {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let name = ServerName::try_from(SERVER_NAME).map_err(|_| Error::General("server name".to_owned()))?;
        let verdict = |at| self.webpki.verify_server_cert(leaf, others, &name, &[], at);
        // The time is looked at before the signature: of a stranger's certificate nobody may say that it has ended.
        let judged = verdict(now).map_err(|error| match end_of(&error) {
            Some(end) => verdict(end).err().unwrap_or(error),
            None => error,
        });
        judged.inspect_err(|error| self.faults.note(TlsFault::of(error)))
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
}

impl Judge for PinnedAuthority {
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
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        let authority = authority.clone().into_owned();
        let named = NamedAuthority::new(&authority, self.faults.clone());
        let named = named.map_err(|error| Error::General(error.to_string()))?;
        let verified = named.judge(leaf, others, now)?;
        *self.seen.lock() = Some(authority);
        Ok(verified)
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

/// When the certificate ended that was refused for it.
const fn end_of(error: &Error) -> Option<UnixTime> {
    if let Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) = error {
        Some(*not_after)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    fn authority() -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        (certificate.into(), Issuer::new(params, key))
    }

    /// What the CA of a node says of a server's certificate that ended long ago.
    fn fault_of_an_ended_one(trusted: &CertificateDer<'static>, issuer: &Issuer<'_, KeyPair>) -> TlsFault {
        let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
        params.not_before = (UNIX_EPOCH + Duration::from_secs(1_000)).into();
        params.not_after = (UNIX_EPOCH + Duration::from_secs(2_000)).into();
        let leaf = params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap();
        let faults = TlsFaults::default();
        let judge = NamedAuthority::new(trusted, faults.clone()).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(5_000));
        judge.judge(&leaf.into(), &[], now).unwrap_err();
        faults.take().unwrap()
    }

    #[test]
    fn only_what_the_authority_has_signed_is_said_to_have_ended() {
        let (trusted, issuer) = authority();
        let (_, stranger) = authority();
        let ended = fault_of_an_ended_one(&trusted, &issuer);
        assert!(
            matches!(ended, TlsFault::Expired { by } if by == Duration::from_mins(50)),
            "{ended}"
        );
        let foreign = fault_of_an_ended_one(&trusted, &stranger);
        assert!(matches!(foreign, TlsFault::OtherAuthority), "{foreign}");
    }
}
