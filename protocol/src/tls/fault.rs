//! What went wrong in a handshake, in words for the one who must act.

use std::{fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rustls::{CertificateError, Error as RustlsError};
use thiserror::Error;

/// Why the other end's certificate was not taken.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsFault {
    /// Signed by another CA.
    #[error("the server's certificate is not signed by this cluster's CA: is this the right address?")]
    OtherAuthority,
    /// The CA is not the one that the join token names.
    #[error(
        "the server's CA is not the one that the join token names: wrong address, or somebody in between"
    )]
    PinMismatch,
    /// Not for `cloudcore.tombolo`.
    #[error("the server's certificate is not for {name}", name = super::SERVER_NAME)]
    OtherName,
    /// Ended, by this machine's clock.
    #[error(
        "the server's certificate ended {} ago by this machine's clock: set the clock if it is ahead",
        human(*.by)
    )]
    Expired {
        /// How far the clock is past the end.
        by: Duration,
    },
    /// Not begun, by this machine's clock.
    #[error(
        "the server's certificate begins in {} by this machine's clock: set the clock if it is behind",
        human(*.by)
    )]
    NotYetValid {
        /// How far the clock is before the beginning.
        by: Duration,
    },
    /// Anything else.
    #[error("the TLS handshake failed: {0}")]
    Other(String),
}

impl TlsFault {
    /// Puts a rustls error into words.
    pub fn of(error: &RustlsError) -> Self {
        let RustlsError::InvalidCertificate(certificate) = error else {
            return Self::Other(error.to_string());
        };
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "a long foreign list, of which these are told apart"
        )]
        match certificate {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::OtherAuthority,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::OtherName
            }
            CertificateError::ExpiredContext { time, not_after } => Self::Expired {
                by: seconds_between(not_after.as_secs(), time.as_secs()),
            },
            CertificateError::NotValidYetContext { time, not_before } => Self::NotYetValid {
                by: seconds_between(time.as_secs(), not_before.as_secs()),
            },
            other => Self::Other(RustlsError::InvalidCertificate(other.clone()).to_string()),
        }
    }
}

const fn seconds_between(earlier: u64, later: u64) -> Duration {
    Duration::from_secs(later.saturating_sub(earlier))
}

/// A time span as a person would say it: its two largest units.
pub fn human(span: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let mut left = span.as_secs();
    let mut parts = Vec::new();
    for (size, unit) in UNITS {
        if left >= size && parts.len() < 2 {
            parts.push(format!("{}{unit}", left / size));
            left %= size;
        }
    }
    if parts.is_empty() {
        "0s".to_owned()
    } else {
        parts.join(" ")
    }
}

/// Where a verifier leaves its fault: the transports pass on only a TLS alert and a text.
#[derive(Clone, Default)]
pub struct TlsFaults(Arc<Mutex<Option<TlsFault>>>);

impl TlsFaults {
    /// The last fault, which is then forgotten.
    pub fn take(&self) -> Option<TlsFault> {
        self.0.lock().take()
    }

    pub(super) fn note(&self, fault: TlsFault) {
        *self.0.lock() = Some(fault);
    }
}

impl fmt::Debug for TlsFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsFaults").field(&*self.0.lock()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_is_named() {
        let fault = TlsFault::Expired {
            by: Duration::from_secs(400 * 86_400 + 7200 + 5),
        };
        assert!(fault.to_string().contains("400d 2h ago"), "{fault}");
        assert_eq!(human(Duration::ZERO), "0s");
        assert_eq!(human(Duration::from_secs(61)), "1m 1s");
    }
}
