//! Why a call to the container runtime failed, and what its caller does next.

use std::time::Duration;

use thiserror::Error;
use tonic::{Code, Status};

/// A call to the container runtime that failed.
///
/// The text of [`Refused`](Self::Refused) is what users know from the kubelet
/// (`rpc error: code = … desc = …`), for it ends in events and in container states.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// Nobody answers at the socket: the runtime is not up (yet).
    #[error("the container runtime does not answer {call}: {message}")]
    Unavailable {
        /// The CRI method.
        call: &'static str,
        /// What the transport said.
        message: String,
    },
    /// This runtime does not have the method.
    #[error("the container runtime does not implement {call}")]
    Unimplemented {
        /// The CRI method.
        call: &'static str,
    },
    /// No answer within the deadline; the call may still take effect.
    #[error("the container runtime did not answer {call} within {after:?}")]
    Deadline {
        /// The CRI method.
        call: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// The container, sandbox or image does not exist.
    #[error("rpc error: code = NotFound desc = {message}")]
    NotFound {
        /// The CRI method.
        call: &'static str,
        /// The runtime's words.
        message: String,
    },
    /// The runtime answered with an error.
    #[error("rpc error: code = {code:?} desc = {message}")]
    Refused {
        /// The CRI method.
        call: &'static str,
        /// The gRPC code.
        code: Code,
        /// The runtime's words.
        message: String,
    },
    /// The answer lacks a field that CRI requires.
    #[error("the container runtime's answer to {call} has no {field}")]
    Incomplete {
        /// The CRI method.
        call: &'static str,
        /// The missing field.
        field: &'static str,
    },
}

/// What the caller of a failed runtime call does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Wait until the runtime answers again; nothing is wrong with the object.
    AwaitRuntime,
    /// Look again: the object is gone, which may be just what was wanted.
    Observe,
    /// Try again later, with back-off.
    BackOff,
    /// Do without the method for as long as this runtime runs.
    DoWithout,
}

impl RuntimeError {
    /// What to do next: the one place that decides.
    pub const fn remedy(&self) -> Remedy {
        match self {
            Self::Unavailable { .. } => Remedy::AwaitRuntime,
            Self::NotFound { .. } => Remedy::Observe,
            Self::Unimplemented { .. } => Remedy::DoWithout,
            Self::Deadline { .. } | Self::Refused { .. } | Self::Incomplete { .. } => Remedy::BackOff,
        }
    }

    /// The runtime's own words, for people who know them from the kubelet.
    pub fn words(&self) -> String {
        match self {
            Self::NotFound { message, .. } | Self::Refused { message, .. } => message.clone(),
            Self::Unavailable { .. }
            | Self::Unimplemented { .. }
            | Self::Deadline { .. }
            | Self::Incomplete { .. } => self.to_string(),
        }
    }

    /// Whether the object of the call does not exist.
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every other code is the runtime's refusal"
    )]
    pub(super) fn from_status(call: &'static str, status: &Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::Unavailable => Self::Unavailable { call, message },
            // A connection that breaks in mid-call surfaces as Unknown with a transport source.
            Code::Unknown if std::error::Error::source(status).is_some() => {
                Self::Unavailable { call, message }
            }
            Code::Unimplemented => Self::Unimplemented { call },
            Code::NotFound => Self::NotFound { call, message },
            code => Self::Refused { call, code, message },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_as_users_know_it_from_the_kubelet() {
        let error = RuntimeError::from_status("PullImage", &Status::invalid_argument("no such"));
        assert_eq!(
            error.to_string(),
            "rpc error: code = InvalidArgument desc = no such"
        );
        assert_eq!(error.remedy(), Remedy::BackOff);
    }

    #[test]
    fn an_absent_runtime_is_waited_for() {
        let error = RuntimeError::from_status("Version", &Status::unavailable("refused"));
        assert_eq!(error.remedy(), Remedy::AwaitRuntime);
    }
}
