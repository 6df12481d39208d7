//! Why a container cannot be configured.

use std::io;

use thiserror::Error;

use super::expansion::TooLong;

/// Why a container cannot be configured: it waits with [`ConfigError::REASON`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl ConfigError {
    /// The waiting reason.
    pub const REASON: &'static str = "CreateContainerConfigError";

    pub(super) fn io(action: &str, error: &io::Error) -> Self {
        Self(format!("{action}: {error}"))
    }
}

impl From<TooLong> for ConfigError {
    fn from(error: TooLong) -> Self {
        Self(error.to_string())
    }
}
