//! Why the API server did not do what was asked.

use std::time::Duration;

use thiserror::Error;

use super::CALL_TIMEOUT;

/// What an API server says of a JSON patch that does not fit the object. Its status and reason are those of a
/// policy's refusal and of an object that is invalid, whose texts name the object.
const MISFIT: &str = "the server rejected our request due to an error in our request";

/// Why the API server did not do what was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The server answered, and the answer is no.
    #[error("the API server refused {action}: {message} ({code} {reason})")]
    Refused {
        /// Method and path.
        action: String,
        /// HTTP status.
        code: u16,
        /// The machine-readable reason of the Status object.
        reason: String,
        /// The human-readable message of the Status object.
        message: String,
        /// When the server wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// No answer came.
    #[error("the API server could not be reached for {action}")]
    Unreachable {
        /// Method and path.
        action: String,
        /// What the connection said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer took too long.
    #[error("the API server did not answer {action} within {} s", CALL_TIMEOUT.as_secs())]
    TimedOut {
        /// Method and path.
        action: String,
    },
    /// The answer is larger than is taken.
    #[error("the answer to {action} is larger than {most} bytes")]
    TooLarge {
        /// Method and path.
        action: String,
        /// What would have been taken.
        most: usize,
    },
    /// The answer is not what the API promises.
    #[error("the answer to {action} is not understood")]
    Garbled {
        /// Method and path.
        action: String,
        /// What the parser said.
        source: serde_json::Error,
    },
}

impl ApiError {
    /// The HTTP status of a refusal; 0 when no answer came.
    pub const fn code(&self) -> u16 {
        match self {
            Self::Refused { code, .. } => *code,
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::TooLarge { .. }
            | Self::Garbled { .. } => 0,
        }
    }

    /// Whether the object (or its namespace) does not exist.
    pub const fn is_not_found(&self) -> bool {
        self.code() == 404
    }

    /// Whether another writer was faster, or another object bears the name.
    pub const fn is_conflict(&self) -> bool {
        self.code() == 409
    }

    /// Whether a test of a JSON patch failed: the object has changed.
    pub fn is_failed_test(&self) -> bool {
        matches!(self, Self::Refused { code: 422, message, .. } if message.starts_with(MISFIT))
    }

    /// Whether a right is missing (or the authorizer lags behind a binding).
    pub const fn is_forbidden(&self) -> bool {
        self.code() == 403
    }

    /// Whether the same request may be taken later.
    pub const fn may_pass(&self) -> bool {
        !matches!(self, Self::TooLarge { .. }) && matches!(self.code(), 0 | 409 | 429 | 500..)
    }

    /// Whether the server answered at all: a refusal shows that it is alive.
    pub const fn answered(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. } | Self::TooLarge { .. } | Self::Garbled { .. }
        )
    }
}
