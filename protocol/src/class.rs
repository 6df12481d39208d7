//! Traffic classes: who goes first when the link is narrow.
//!
//! The order is strict; the transport maps it to stream priorities. What a stream's class is
//! follows from its [`Open`] frame alone, so both ends agree without saying so.
//!
//! **Invariant:** control is never behind anything.

use crate::{name::ServiceName, wire::Open, wire::open::Kind};

/// A traffic class, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Beats, acknowledgements, goodbyes.
    Control,
    /// Objects on their way down, and edgecore's own API calls.
    Desired,
    /// What the node observed.
    Reported,
    /// A person waits: exec, logs, pods' calls.
    Interactive,
    /// Commands and other messages that must not be dropped.
    MessagesCritical,
    /// Telemetry and events.
    MessagesNormal,
    /// Everything else.
    Bulk,
}

impl Class {
    /// Every class, most urgent first.
    pub const ALL: [Self; 7] = [
        Self::Control,
        Self::Desired,
        Self::Reported,
        Self::Interactive,
        Self::MessagesCritical,
        Self::MessagesNormal,
        Self::Bulk,
    ];

    /// The stream priority: higher goes first.
    pub const fn priority(self) -> i32 {
        match self {
            Self::Control => 6,
            Self::Desired => 5,
            Self::Reported => 4,
            Self::Interactive => 3,
            Self::MessagesCritical => 2,
            Self::MessagesNormal => 1,
            Self::Bulk => 0,
        }
    }

    /// The name, as metrics and `edgecore status` show it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Desired => "desired",
            Self::Reported => "reported",
            Self::Interactive => "interactive",
            Self::MessagesCritical => "messages_critical",
            Self::MessagesNormal => "messages_normal",
            Self::Bulk => "bulk",
        }
    }

    /// The class of the stream that begins with `open`.
    pub fn of(open: &Open) -> Self {
        match &open.kind {
            Some(Kind::Session(_)) => Self::Control,
            Some(Kind::Desired(_)) => Self::Desired,
            Some(Kind::Reported(_)) => Self::Reported,
            Some(Kind::Events(_)) => Self::MessagesNormal,
            Some(Kind::Dial(dial)) => dial.service.parse().map_or(Self::Bulk, Self::of_service),
            None => Self::Bulk,
        }
    }

    /// The class of a tunnel to `service`.
    pub const fn of_service(service: ServiceName) -> Self {
        match service {
            ServiceName::KubeApi => Self::Desired,
            ServiceName::Kubelet | ServiceName::KubeApiTcp => Self::Interactive,
            ServiceName::Http => Self::Bulk,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_fall_strictly_from_control_to_bulk() {
        assert!(Class::ALL.is_sorted_by(|a, b| a < b && a.priority() > b.priority()));
    }

    #[test]
    fn an_open_that_says_nothing_waits_behind_everything() {
        assert_eq!(Class::of(&Open { kind: None }), Class::Bulk);
        assert_eq!(Class::of(&Open::dial(ServiceName::KubeApi, "")), Class::Desired);
        assert_eq!(Class::of(&Open::session()), Class::Control);
        assert_eq!(Class::of(&Open::events()), Class::MessagesNormal);
    }
}
