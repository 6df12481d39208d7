//! What a report is about, and how the API server may have refused it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::devices::DeviceIdentity;
use crate::wire::{ReportDevice, ReportEvent, ReportKey, ReportNode, ReportPod, report_key};

/// The longest name that Kubernetes allows.
const MAX_NAME: usize = 253;

/// The number of an outbox entry; never reused by one edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seq(pub u64);

/// A pod, by its whole identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodIdentity {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What an outbox entry is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum OutboxKey {
    /// The node's document: registration and status.
    Node,
    /// A pod's status.
    Pod(PodIdentity),
    /// All containers of a pod are gone; it may be deleted.
    Gone(PodIdentity),
    /// What a device said.
    Device(DeviceIdentity),
    /// One event, by the name it will have.
    Event {
        /// Its namespace.
        namespace: String,
        /// Its name: the same event has the same one.
        name: String,
    },
}

/// What must not be written in parallel: a pod's deletion must not overtake its last status.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    Node,
    Pod(String),
    Device(String),
    Event(Seq),
}

/// What shares a window: a flood of one holds up no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The node and its pods.
    State,
    /// What devices said.
    Device,
    /// Events.
    Event,
}

/// What one stream carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Carries {
    /// All reports: the cloud takes no stream of events.
    #[default]
    Everything,
    /// The node, pods and devices.
    AllButEvents,
    /// Events.
    Events,
}

impl Carries {
    /// Whether reports of this class are on it.
    pub const fn has(self, class: Class) -> bool {
        match self {
            Self::Everything => true,
            Self::AllButEvents => !matches!(class, Class::Event),
            Self::Events => matches!(class, Class::Event),
        }
    }

    /// The same while events wait.
    pub const fn without_events(self) -> Option<Self> {
        match self {
            Self::Everything | Self::AllButEvents => Some(Self::AllButEvents),
            Self::Events => None,
        }
    }
}

impl Lane {
    pub(super) const fn class(&self) -> Class {
        match self {
            Self::Node | Self::Pod(_) => Class::State,
            Self::Device(_) => Class::Device,
            Self::Event(_) => Class::Event,
        }
    }
}

impl OutboxKey {
    /// The window it takes a place of.
    pub const fn class(&self) -> Class {
        match self {
            Self::Node | Self::Pod(_) | Self::Gone(_) => Class::State,
            Self::Device(_) => Class::Device,
            Self::Event { .. } => Class::Event,
        }
    }

    /// Whether this belongs to the log of events, which only ever follows state.
    pub const fn is_event(&self) -> bool {
        matches!(self, Self::Event { .. })
    }

    pub(super) fn lane(&self, seq: Seq) -> Lane {
        match self {
            Self::Node => Lane::Node,
            Self::Pod(pod) | Self::Gone(pod) => Lane::Pod(pod.uid.clone()),
            Self::Device(device) => Lane::Device(device.uid.clone()),
            Self::Event { .. } => Lane::Event(seq),
        }
    }

    /// The key as it travels and rests.
    pub fn to_wire(&self) -> ReportKey {
        let kind = match self {
            Self::Node => report_key::Kind::Node(ReportNode {}),
            Self::Pod(pod) => report_key::Kind::Pod(pod.to_wire()),
            Self::Gone(pod) => report_key::Kind::Gone(pod.to_wire()),
            Self::Device(device) => report_key::Kind::Device(ReportDevice {
                namespace: device.namespace.clone(),
                name: device.name.clone(),
                uid: device.uid.clone(),
            }),
            Self::Event { namespace, name } => report_key::Kind::Event(ReportEvent {
                namespace: namespace.clone(),
                name: name.clone(),
            }),
        };
        ReportKey { kind: Some(kind) }
    }

    /// The key as it came; nothing if this version does not know its type, or if it is longer than
    /// any name.
    pub fn from_wire(key: Option<ReportKey>) -> Option<Self> {
        let key = match key?.kind? {
            report_key::Kind::Node(ReportNode {}) => Self::Node,
            report_key::Kind::Pod(pod) => Self::Pod(pod.into()),
            report_key::Kind::Gone(pod) => Self::Gone(pod.into()),
            report_key::Kind::Device(ReportDevice { namespace, name, uid }) => {
                Self::Device(DeviceIdentity { namespace, name, uid })
            }
            report_key::Kind::Event(ReportEvent { namespace, name }) => Self::Event { namespace, name },
        };
        key.fits().then_some(key)
    }

    fn fits(&self) -> bool {
        let fits = |text: &String| text.len() <= MAX_NAME;
        match self {
            Self::Node => true,
            Self::Pod(pod) | Self::Gone(pod) => fits(&pod.namespace) && fits(&pod.name) && fits(&pod.uid),
            Self::Device(device) => fits(&device.namespace) && fits(&device.name) && fits(&device.uid),
            Self::Event { namespace, name } => fits(namespace) && fits(name),
        }
    }
}

impl PodIdentity {
    fn to_wire(&self) -> ReportPod {
        ReportPod {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
        }
    }
}

impl From<ReportPod> for PodIdentity {
    fn from(pod: ReportPod) -> Self {
        Self {
            namespace: pod.namespace,
            name: pod.name,
            uid: pod.uid,
        }
    }
}

impl fmt::Display for PodIdentity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{} ({})", self.namespace, self.name, self.uid)
    }
}

impl fmt::Display for OutboxKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => out.write_str("the node"),
            Self::Pod(pod) => write!(out, "pod {pod}"),
            Self::Gone(pod) => write!(out, "the end of pod {pod}"),
            Self::Device(device) => write!(out, "device {}/{}", device.namespace, device.name),
            Self::Event { namespace, name } => write!(out, "event {namespace}/{name}"),
        }
    }
}

/// How a report was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RefusalCode {
    /// The object is gone, or another one has its name.
    Gone,
    /// The API server does not allow it (yet: its authorizer may lag).
    Forbidden,
    /// The API server finds it invalid.
    Invalid,
    /// The API server wants it later.
    Throttled,
    /// The API server cannot be reached, or failed.
    Unavailable,
    /// Somebody else wrote at the same time, again and again.
    Conflict,
    /// The payload is larger than the link takes, or cannot be read.
    Unreadable,
    /// A code of a newer version.
    Other,
}

impl RefusalCode {
    /// The code's number on the wire.
    pub const fn wire(self) -> u32 {
        match self {
            Self::Other => 0,
            Self::Gone => 1,
            Self::Forbidden => 2,
            Self::Invalid => 3,
            Self::Throttled => 4,
            Self::Unavailable => 5,
            Self::Conflict => 6,
            Self::Unreadable => 7,
        }
    }

    /// The code of that number.
    pub const fn from_wire(number: u32) -> Self {
        match number {
            1 => Self::Gone,
            2 => Self::Forbidden,
            3 => Self::Invalid,
            4 => Self::Throttled,
            5 => Self::Unavailable,
            6 => Self::Conflict,
            7 => Self::Unreadable,
            _ => Self::Other,
        }
    }

    /// Whether trying again can never help.
    pub const fn is_permanent(self) -> bool {
        matches!(self, Self::Gone | Self::Unreadable)
    }
}
