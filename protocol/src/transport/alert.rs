//! What a TLS alert of the peer says of our certificate.

use super::TransportError;

/// The alerts by which a peer does not take a certificate; none for any other alert.
pub(super) fn certificate_refused(alert: u8) -> Option<TransportError> {
    let why = match alert {
        42 => "it is malformed",
        44 => "it is revoked",
        45 => return Some(TransportError::CertificateExpired),
        46 | 49 => "it is not acceptable",
        48 | 51 => "it is signed by another CA",
        116 => "none was shown",
        _ => return None,
    };
    Some(TransportError::CertificateRefused(why.to_owned()))
}
