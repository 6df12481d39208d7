//! Frames and the messages in them.
//!
//! The messages are generated from `proto/link.proto`; [`Frame`] gives each message type that
//! may stand alone in a frame its largest size. [`FrameReader`] and [`FrameWriter`] move frames
//! over any byte stream.
//!
//! ```text
//! frame = length (u32, big endian) | message (protobuf, `length` bytes)
//! ```
//!
//! **Invariant:** a length is checked before anything is allocated for it, and no byte beyond the
//! frame is consumed, so raw bytes may follow on the same stream.

mod frame;

pub use frame::{FrameReader, FrameWriter, WireError};
pub use messages::*;

use crate::name::{NameError, ServiceName};

/// The messages of the link, generated from `proto/link.proto`.
#[allow(
    clippy::pedantic,
    missing_docs,
    reason = "generated; the documentation stands in link.proto"
)]
mod messages {
    include!(concat!(env!("OUT_DIR"), "/tombolo.link.v1.rs"));
}

/// The largest frame there is: an object in etcd is at most 1.5 MiB.
pub const MAX_FRAME: usize = 4 << 20;

/// A message that may stand alone in a frame.
///
/// The limits are what honest peers need. Those of the edge's messages are lower: a decoded
/// message may take fifty times the bytes of its frame, and an edge may be hostile.
pub trait Frame: prost::Message + Default {
    /// The largest frame of this type, in bytes.
    const LIMIT: usize;
}

impl Frame for Open {
    const LIMIT: usize = 4 << 10;
}
impl Frame for DialReply {
    const LIMIT: usize = 4 << 10;
}
impl Frame for SessionUp {
    const LIMIT: usize = 64 << 10;
}
impl Frame for SessionDown {
    const LIMIT: usize = 64 << 10;
}
impl Frame for DesiredUp {
    const LIMIT: usize = 256 << 10;
}
impl Frame for DesiredDown {
    const LIMIT: usize = MAX_FRAME;
}
impl Frame for ReportedUp {
    const LIMIT: usize = 512 << 10;
}
impl Frame for ReportedDown {
    const LIMIT: usize = 256 << 10;
}

impl Open {
    /// Opens the session stream.
    pub const fn session() -> Self {
        Self {
            kind: Some(open::Kind::Session(SessionOpen {})),
        }
    }

    /// Opens the desired flow.
    pub const fn desired() -> Self {
        Self {
            kind: Some(open::Kind::Desired(DesiredOpen {})),
        }
    }

    /// Opens the reported flow.
    pub const fn reported() -> Self {
        Self {
            kind: Some(open::Kind::Reported(ReportedOpen {})),
        }
    }

    /// Opens the flow of events.
    pub const fn events() -> Self {
        Self {
            kind: Some(open::Kind::Events(EventsOpen {})),
        }
    }

    /// Opens a tunnel.
    pub fn dial(service: ServiceName, target: &str) -> Self {
        let dial = Dial {
            service: service.to_string(),
            target: target.to_owned(),
        };
        Self {
            kind: Some(open::Kind::Dial(dial)),
        }
    }
}

impl Dial {
    /// The service that is meant, if there is one of that name.
    pub fn service_name(&self) -> Result<ServiceName, NameError> {
        self.service.parse()
    }
}

impl DialReply {
    /// Bytes may follow.
    pub const fn dialed() -> Self {
        Self {
            kind: Some(dial_reply::Kind::Dialed(Dialed {})),
        }
    }

    /// No bytes will follow.
    pub fn refused(refusal: DialRefusal, text: impl Into<String>) -> Self {
        let refused = DialRefused {
            code: refusal as u32,
            text: text.into(),
        };
        Self {
            kind: Some(dial_reply::Kind::Refused(refused)),
        }
    }
}

/// Why a tunnel was not opened; the numbers stand on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DialRefusal {
    /// A code of a newer peer.
    Other = 0,
    /// No such service here.
    UnknownService = 1,
    /// Too many tunnels are open.
    Busy = 2,
    /// The service could not be reached.
    Unreachable = 3,
    /// This node may not use the service.
    Forbidden = 4,
}

impl From<u32> for DialRefusal {
    fn from(code: u32) -> Self {
        match code {
            1 => Self::UnknownService,
            2 => Self::Busy,
            3 => Self::Unreachable,
            4 => Self::Forbidden,
            _ => Self::Other,
        }
    }
}

/// Why a session was not taken; the numbers stand on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RejectCode {
    /// A code of a newer peer.
    Other = 0,
    /// No version is spoken by both.
    Version = 1,
    /// The edge belongs to another cluster.
    OtherCluster = 2,
    /// The key was banned.
    Banned = 3,
    /// Another key is accepted for this name, or none.
    KeyNotAccepted = 4,
    /// A Node of this name exists that is not an edge's.
    NameTaken = 5,
    /// The replica is too busy, or leaves.
    Busy = 6,
    /// The replica does not reach its API server.
    ApiUnreachable = 7,
    /// The edge broke the protocol.
    Protocol = 8,
}

impl From<u32> for RejectCode {
    fn from(code: u32) -> Self {
        match code {
            1 => Self::Version,
            2 => Self::OtherCluster,
            3 => Self::Banned,
            4 => Self::KeyNotAccepted,
            5 => Self::NameTaken,
            6 => Self::Busy,
            7 => Self::ApiUnreachable,
            8 => Self::Protocol,
            _ => Self::Other,
        }
    }
}

/// The protocol versions this build speaks, lowest and highest.
pub const VERSIONS: (u32, u32) = (1, 1);

/// The highest version that both speak.
pub fn common_version(theirs: (u32, u32)) -> Option<u32> {
    let highest = VERSIONS.1.min(theirs.1);
    (highest >= VERSIONS.0.max(theirs.0)).then_some(highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_is_spoken() {
        assert_eq!(common_version((1, 1)), Some(1));
        assert_eq!(common_version((1, 9)), Some(1));
        assert_eq!(common_version((2, 9)), None);
        assert_eq!(common_version((0, 0)), None);
        assert_eq!(common_version((9, 0)), None);
    }

    #[test]
    fn codes_survive_their_numbers() {
        for code in 0..=8 {
            assert_eq!(RejectCode::from(code) as u32, code);
        }
        assert_eq!(RejectCode::from(99), RejectCode::Other);
        for code in 0..=4 {
            assert_eq!(DialRefusal::from(code) as u32, code);
        }
    }
}
