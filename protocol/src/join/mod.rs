//! How a device becomes a node: the join token, the request it makes and the answers there are.
//!
//! ```text
//! token = <64 hex digits: SHA-256 of the CA certificate>.<token id>.<secret>
//!
//! device                                     cloudcore
//!   TLS, checks the CA against the pin  ---->
//!   POST /v1/enroll {token, CSR}        ---->  judges the token, the name and the key; records the use
//!                                       <----  certificate and CA, or a refusal with its code
//! ```
//!
//! A device whose certificate has ended makes the same connection, under the CA that it has, and posts
//! that certificate with a [proof](ChannelValue) to [`RENEW_PATH`].
//!
//! No I/O here; [`tls::joining_client`](crate::tls::joining_client) makes the check of the pin.
//!
//! **Invariant:** a secret is never printed, and nothing of a request but its key and its name counts.

mod csr;
mod proof;
mod token;

use serde::{Deserialize, Serialize};

pub use csr::{CsrError, NodeKey, NodeRequest};
pub use proof::ChannelValue;
pub use token::{JoinToken, Secret, SecretHash, TokenError, TokenId};

/// Where a device enrols.
pub const ENROLL_PATH: &str = "/v1/enroll";

/// Where a device renews a certificate that has ended.
pub const RENEW_PATH: &str = "/v1/renew";

/// The largest enrolment request or answer, in bytes.
pub const ENROLL_BODY_MAX: usize = 16 << 10;

/// What a device sends to enrol.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollRequest {
    /// Which token.
    pub token: TokenId,
    /// Its secret.
    pub secret: Secret,
    /// The certificate signing request, in PEM.
    pub csr: String,
}

/// What a device sends whose certificate has ended; the answers are those of an enrolment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RenewRequest {
    /// The certificate, in PEM.
    pub certificate: String,
    /// Shows that the sender holds its key: see [`NodeKey::prove`].
    pub proof: String,
}

/// What an enrolled device gets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnrollAnswer {
    /// The node's certificate, in PEM.
    pub certificate: String,
    /// The cluster's CA, in PEM.
    pub authority: String,
    /// The cluster that it now belongs to.
    pub cluster_id: String,
    /// The server's time, in milliseconds since 1970.
    pub server_time_ms: u64,
}

/// What a device gets that may not enrol.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnrollRefusal {
    /// Why, for programs.
    pub code: RefusalCode,
    /// Why, and what to do, for people.
    pub text: String,
    /// The server's time, in milliseconds since 1970.
    pub server_time_ms: u64,
}

/// Why an enrolment was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RefusalCode {
    /// The request is not one.
    BadRequest,
    /// There is no such token, or its secret is wrong.
    TokenUnknown,
    /// The token has ended.
    TokenExpired,
    /// The token was used as often as it may be.
    TokenUsedUp,
    /// The token is good for another name.
    TokenForOtherName,
    /// A node of this name exists that is not an edge's.
    NameTaken,
    /// The name is another key's.
    KeyDiffers,
    /// The key was banned.
    Banned,
    /// The name has no accepted key.
    NotEnrolled,
    /// The certificate ended too long ago.
    EndedTooLongAgo,
    /// Try again later.
    Busy,
    /// cloudcore cannot reach the cluster just now.
    Unavailable,
    /// A code of a newer cloudcore.
    #[serde(other)]
    Other,
}

impl RefusalCode {
    /// Whether the same request may succeed later.
    pub const fn is_temporary(self) -> bool {
        matches!(self, Self::Busy | Self::Unavailable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requests_secret_does_not_show() {
        let token = JoinToken::generate([7; 32]);
        let request = EnrollRequest {
            token: token.id.clone(),
            secret: token.secret.clone(),
            csr: String::new(),
        };
        let shown = format!("{request:?} {token:?}");
        assert!(!shown.contains(token.secret.expose()), "{shown}");
    }

    #[test]
    fn a_newer_servers_code_is_understood_as_some_refusal() {
        let json = r#"{"code":"moon-phase","text":"no","server_time_ms":1}"#;
        assert_eq!(
            serde_json::from_str::<EnrollRefusal>(json).unwrap().code,
            RefusalCode::Other
        );
        assert_eq!(
            serde_json::to_string(&RefusalCode::TokenUsedUp).unwrap(),
            "\"token-used-up\""
        );
    }
}
