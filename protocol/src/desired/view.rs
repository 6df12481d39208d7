//! What the cloud knows of one node: the map that its edge must hold.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::object::{Digest, Kind, Object, ObjectKey, Revision, Version};

/// Why a reference of a pod cannot be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AbsentReason {
    /// The API server says that there is none.
    Missing,
    /// The API server does not show it to this node.
    Forbidden,
    /// It does not fit through the link.
    TooLarge,
}

impl AbsentReason {
    /// The reason's number on the wire.
    pub const fn wire(self) -> u32 {
        match self {
            Self::Missing => 1,
            Self::Forbidden => 2,
            Self::TooLarge => 3,
        }
    }

    /// The reason of that number, if this version knows it.
    pub const fn from_wire(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Missing),
            2 => Some(Self::Forbidden),
            3 => Some(Self::TooLarge),
            _ => None,
        }
    }
}

/// The version under which an absence stands in the map: no uid, and the reason as its digest.
/// Only that an object is missing is a statement about its history; whatever else keeps it away
/// orders nothing.
pub fn absent_version(reason: AbsentReason, seen: Revision) -> Version {
    let digest = Digest::of(format!("absent/{}", reason.wire()).as_bytes());
    let revision = if reason == AbsentReason::Missing {
        seen
    } else {
        Revision(0)
    };
    Version {
        uid: String::new(),
        revision,
        digest,
    }
}

/// What a view says of one key.
#[derive(Clone, Debug)]
pub enum Found {
    /// The node must hold this.
    Object(Arc<Object>),
    /// A pod of the node names it, and it cannot be delivered; or the object itself is the node's and is not to be
    /// sent, and what the edge holds of it stays.
    Absent(AbsentReason),
    /// A pod of the node names it, and it has not been read yet.
    Unknown,
    /// It is not, or no longer, the node's.
    Nothing,
}

/// The cloud's view of one node. Cheap to ask; it may change between calls of the publisher, and
/// whatever changes must be told by `Publisher::mark_dirty`.
pub trait View {
    /// Every key of the kind that the node must hold or be told of: objects, absences and those
    /// not read yet.
    fn keys(&self, kind: Kind) -> Vec<ObjectKey>;

    /// What the view says of a key.
    fn find(&self, key: &ObjectKey) -> Found;

    /// The `ConfigMaps` and Secrets that a pod of the view names.
    fn closure(&self, pod: &ObjectKey) -> Vec<ObjectKey>;

    /// The revision up to which this view has seen everything of the kind: of its list, last
    /// bookmark or last event, whichever is highest. It never falls while a session lasts.
    fn revision(&self, kind: Kind) -> Revision;

    /// Whether a kind has been listed at all: before that the view says nothing of it. Only kinds
    /// that a cluster may lack are ever not; the others are listed before the first session.
    fn is_listed(&self, _: Kind) -> bool {
        true
    }

    /// The revision up to which this view has seen everything of one key: for what is watched
    /// object by object, that watch's list, last bookmark or last event. An absence older than
    /// what the edge holds is not believed.
    fn seen(&self, key: &ObjectKey) -> Revision {
        self.revision(key.kind)
    }
}
