//! Why there is no session, and when to try again.

use std::time::Duration;

use protocol::transport::{CloseCode, TransportError};
use protocol::wire::{RejectCode, WireError};
use thiserror::Error;

use super::desired::FlowError;
use super::dial::DialError;
use super::enrolment::RenewError;

/// A stream that breaks so long after the dial belonged to a session: dialing and greeting are
/// over long before.
const GOOD_AFTER: Duration = Duration::from_secs(30);

/// Why there is no session (any more).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Ended {
    /// edgecore stops.
    #[error("edgecore stops")]
    Stopped,
    /// There was no connection.
    #[error(transparent)]
    NotDialled(DialError),
    /// The certificate has ended, and the cluster does not renew it.
    #[error("this node's certificate has ended; {0}")]
    NotRenewed(RenewError),
    /// The cloud did not take the session.
    #[error("cloudcore refused the session ({code:?}): {text}")]
    Rejected {
        /// Why.
        code: RejectCode,
        /// In words.
        text: String,
        /// When to come back.
        retry_after: Option<Duration>,
    },
    /// The connection ended.
    #[error("the connection ended: {source}")]
    Lost {
        /// What ended it.
        source: TransportError,
        /// Whether it had lasted.
        good: bool,
    },
    /// Nothing was heard.
    #[error("cloudcore does not answer")]
    Silent {
        /// Whether it had lasted.
        good: bool,
    },
    /// The session stream failed.
    #[error("the session stream failed: {0}")]
    Wire(#[from] WireError),
    /// The cloud sent what does not belong there.
    #[error("cloudcore broke the protocol: {0}")]
    Protocol(&'static str),
    /// The cloud leaves.
    #[error("cloudcore says goodbye: {reason}")]
    Goodbye {
        /// Why.
        reason: String,
        /// When to come back.
        retry_after: Option<Duration>,
    },
    /// Another session of this node took over.
    #[error("a newer session of this node exists; is its key used twice?")]
    Superseded,
    /// A flow cannot go on.
    #[error("the node cannot take part: {0}")]
    Flow(FlowError),
}

impl Ended {
    /// Whether the link worked before, `after` so long since the dial began.
    pub fn was_good(&self, after: Duration) -> bool {
        match self {
            Self::Lost { good, .. } | Self::Silent { good } => *good,
            Self::Goodbye { .. } => true,
            // A reset may reach the session stream before it reaches the connection.
            Self::Wire(_) | Self::Protocol(_) => after > GOOD_AFTER,
            Self::Stopped
            | Self::NotDialled(_)
            | Self::NotRenewed(_)
            | Self::Rejected { .. }
            | Self::Superseded
            | Self::Flow(_) => false,
        }
    }

    /// How long to wait, where this node by itself would wait for `own`. What cloudcore asks for comes on
    /// top of that: it tells all of its edges the same, again and again, and they must not come in step.
    pub(super) fn pause(&self, own: Duration) -> Duration {
        self.retry_after().map_or(own, |asked| asked + own)
    }

    /// When the cloud wants this node back.
    const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rejected { retry_after, .. } | Self::Goodbye { retry_after, .. } => *retry_after,
            Self::Stopped
            | Self::NotDialled(_)
            | Self::NotRenewed(_)
            | Self::Lost { .. }
            | Self::Silent { .. }
            | Self::Wire(_)
            | Self::Protocol(_)
            | Self::Superseded
            | Self::Flow(_) => None,
        }
    }

    /// Whether cloudcore did not take the node's certificate because it has ended.
    pub(super) fn certificate_has_ended(&self) -> bool {
        match self {
            Self::NotDialled(error) => error.certificate_has_ended(),
            Self::Lost { source, .. } => matches!(source, TransportError::CertificateExpired),
            Self::Stopped
            | Self::NotRenewed(_)
            | Self::Rejected { .. }
            | Self::Silent { .. }
            | Self::Wire(_)
            | Self::Protocol(_)
            | Self::Goodbye { .. }
            | Self::Superseded
            | Self::Flow(_) => false,
        }
    }

    /// How long ago cloudcore's certificate ended by the clock, if that is why there is no session.
    pub(super) fn server_ended(&self) -> Option<Duration> {
        match self {
            Self::NotDialled(error) => error.server_ended(),
            Self::Stopped
            | Self::NotRenewed(_)
            | Self::Rejected { .. }
            | Self::Lost { .. }
            | Self::Silent { .. }
            | Self::Wire(_)
            | Self::Protocol(_)
            | Self::Goodbye { .. }
            | Self::Superseded
            | Self::Flow(_) => None,
        }
    }

    pub(super) const fn close_code(&self) -> CloseCode {
        match self {
            Self::Protocol(_) | Self::Wire(_) => CloseCode::Protocol,
            Self::Silent { .. } => CloseCode::Silent,
            Self::Stopped => CloseCode::GoingAway,
            Self::NotDialled(_)
            | Self::NotRenewed(_)
            | Self::Rejected { .. }
            | Self::Lost { .. }
            | Self::Goodbye { .. }
            | Self::Superseded
            | Self::Flow(_) => CloseCode::Done,
        }
    }
}

/// What a peer asks for, within reason; 0 asks for nothing.
pub(super) fn pause(millis: u64) -> Option<Duration> {
    (millis > 0).then(|| Duration::from_millis(millis.min(600_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_breaks_after_days_ends_a_good_session() {
        let broken = Ended::Protocol("the session stream was closed");
        assert!(broken.was_good(Duration::from_hours(48)));
        assert!(!broken.was_good(Duration::from_secs(1)));
        assert!(!Ended::Superseded.was_good(Duration::from_hours(48)));
    }

    #[test]
    fn what_is_asked_for_is_waited_for_and_the_jitter_comes_after() {
        let (asked, own) = (Duration::from_secs(5), Duration::from_millis(700));
        let rejected = |retry_after| Ended::Rejected {
            code: RejectCode::Busy,
            text: String::new(),
            retry_after,
        };
        assert_eq!(rejected(Some(asked)).pause(own), asked + own);
        assert_eq!(rejected(None).pause(own), own);
        assert_eq!(Ended::Superseded.pause(own), own);
    }
}
