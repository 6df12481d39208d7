//! The objects that a node must hold: their kinds, keys, versions and bodies.
//!
//! Bodies travel and rest as bytes: nothing here knows what a Pod contains beyond the few
//! fields that [`canonical`] cuts away. There is no I/O and no clock.
//!
//! **Invariant:** a [`Digest`] is a function of the canonical body alone, so what a node itself
//! reported about an object never changes the object's digest.

mod body;
mod canonical;
pub mod owned;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use body::{Body, BodyError, Encoding, MAX_BODY};
pub use canonical::{CanonicalError, canonical, canonical_after};

/// A kind of object that is replicated to nodes. The order is the order of commits: what a pod
/// needs comes before the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Services of the namespaces where the node has pods, and `default/kubernetes`.
    Service,
    /// All `RuntimeClasses`.
    RuntimeClass,
    /// `ConfigMaps` that pods of the node name.
    ConfigMap,
    /// Secrets that pods of the node name.
    Secret,
    /// Models of the devices at the node.
    DeviceModel,
    /// Devices whose `spec.nodeName` is the node.
    Device,
    /// Pods bound to the node.
    Pod,
    /// The node's own Node.
    Node,
}

impl Kind {
    /// Every kind, in commit order.
    pub const ALL: [Self; 8] = [
        Self::Service,
        Self::RuntimeClass,
        Self::ConfigMap,
        Self::Secret,
        Self::DeviceModel,
        Self::Device,
        Self::Pod,
        Self::Node,
    ];

    /// The kind's number on the wire and on disk; never changes its meaning.
    pub const fn wire(self) -> u32 {
        match self {
            Self::Service => 1,
            Self::RuntimeClass => 2,
            Self::ConfigMap => 3,
            Self::Secret => 4,
            Self::Pod => 5,
            Self::Node => 6,
            Self::DeviceModel => 7,
            Self::Device => 8,
        }
    }

    /// The kind of that number, if this version knows it.
    pub const fn from_wire(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Service),
            2 => Some(Self::RuntimeClass),
            3 => Some(Self::ConfigMap),
            4 => Some(Self::Secret),
            5 => Some(Self::Pod),
            6 => Some(Self::Node),
            7 => Some(Self::DeviceModel),
            8 => Some(Self::Device),
            _ => None,
        }
    }

    /// The `kind` of its manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::RuntimeClass => "RuntimeClass",
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
            Self::DeviceModel => "DeviceModel",
            Self::Device => "Device",
            Self::Pod => "Pod",
            Self::Node => "Node",
        }
    }

    /// The `apiVersion` of its manifests.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::RuntimeClass => "node.k8s.io/v1",
            Self::DeviceModel | Self::Device => crate::devices::API_VERSION,
            Self::Service | Self::ConfigMap | Self::Secret | Self::Pod | Self::Node => "v1",
        }
    }

    /// Whether objects of this kind live in a namespace.
    pub const fn is_namespaced(self) -> bool {
        !matches!(self, Self::RuntimeClass | Self::Node)
    }

    /// Its place in [`Kind::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Where an object is: kind, namespace (empty for kinds without), name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// The kind.
    pub kind: Kind,
    /// The namespace; empty for kinds without.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectKey {
    /// The key of an object in a namespace (which is empty for kinds without).
    pub fn new(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(out, "{} {}", self.kind, self.name),
            namespace => write!(out, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

/// A resource version, as the unsigned integer that it is in every cluster with etcd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// The first 128 bits of a blake3 hash.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 16]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_hash(&blake3::hash(bytes))
    }

    /// The digest as it came over the wire, if it has the right length.
    pub fn from_wire(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(crate) fn of_hash(hash: &blake3::Hash) -> Self {
        let mut digest = [0; 16];
        digest.copy_from_slice(&hash.as_bytes()[..16]);
        Self(digest)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&hex::encode(self.0))
    }
}

/// Which state of which incarnation of an object this is: the value of a map entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Version {
    /// The object's uid; empty for a reference that is absent.
    pub uid: String,
    /// The resource version at which this state was seen.
    pub revision: Revision,
    /// The digest of the canonical body.
    pub digest: Digest,
}

/// One object in one version, ready to travel and to rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Where it is.
    pub key: ObjectKey,
    /// Which version it is.
    pub version: Version,
    /// The canonical JSON, compressed once and shared.
    pub body: Body,
    /// The status that an edge once reported of it, outside the digest.
    pub seed_status: Option<Body>,
}
