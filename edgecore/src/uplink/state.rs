//! How the link is, for `edgecore status`.

use std::time::{Duration, SystemTime};

use protocol::transport::Transport;

use crate::config::Address;

/// How the link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// There is no session.
    Offline {
        /// Since when.
        since: SystemTime,
        /// The address tried last.
        address: String,
        /// Why; empty before the first attempt.
        reason: String,
        /// How long after `at` the next attempt comes.
        pause: Duration,
        /// When this was written.
        at: SystemTime,
    },
    /// There is a session.
    Connected {
        /// Since when.
        since: SystemTime,
        /// The address in use.
        address: String,
        /// What carries it.
        transport: Transport,
        /// The replica at the other end.
        replica: String,
        /// Whether that replica reaches its API server.
        api_reachable: bool,
    },
}

impl LinkState {
    pub(super) const fn starting(now: SystemTime) -> Self {
        Self::Offline {
            since: now,
            address: String::new(),
            reason: String::new(),
            pause: Duration::ZERO,
            at: now,
        }
    }

    /// The state after a failure: offline since the first of them.
    pub(super) fn offline(self, now: SystemTime, address: &Address, reason: String, pause: Duration) -> Self {
        let since = match self {
            Self::Offline { since, .. } => since,
            Self::Connected { .. } => now,
        };
        Self::Offline {
            since,
            address: address.to_string(),
            reason,
            pause,
            at: now,
        }
    }

    /// The state while a session goes on that nobody answers.
    pub(super) fn doubtful(self, now: SystemTime, reason: String) -> Self {
        let address = match self {
            Self::Offline { address, .. } | Self::Connected { address, .. } => address,
        };
        Self::Offline {
            since: now,
            address,
            reason,
            pause: Duration::ZERO,
            at: now,
        }
    }

    /// The replica at the other end has lost its API server.
    pub(super) const fn degrade(&mut self) {
        if let Self::Connected { api_reachable, .. } = self {
            *api_reachable = false;
        }
    }

    /// Why there is no session.
    pub fn last_error(&self) -> Option<&String> {
        match self {
            Self::Offline { reason, .. } => Some(reason),
            Self::Connected { .. } => None,
        }
    }

    /// Whether there is a session.
    pub const fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }
}
