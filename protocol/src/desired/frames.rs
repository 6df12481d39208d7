//! From the frames' plain fields to types that cannot be wrong, and back.

use crate::object::{Digest, Kind, ObjectKey};
use crate::wire::{DesiredDown, DesiredUp, ObjectName, desired_down, desired_up};

use super::Violation;

pub(super) fn up(kind: desired_up::Kind) -> DesiredUp {
    DesiredUp { kind: Some(kind) }
}

pub(super) fn down(kind: desired_down::Kind) -> DesiredDown {
    DesiredDown { kind: Some(kind) }
}

pub(super) fn to_name(key: &ObjectKey) -> ObjectName {
    ObjectName {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

pub(super) fn to_kind(number: u32) -> Result<Kind, Violation> {
    Kind::from_wire(number).ok_or(Violation::Malformed { field: "kind" })
}

/// The longest namespace or name that Kubernetes allows.
const MAX_NAME: usize = 253;

/// A uid is a UUID; a little more does no harm.
const MAX_UID: usize = 64;

pub(super) fn to_key(kind: u32, name: Option<ObjectName>) -> Result<ObjectKey, Violation> {
    let fits =
        |name: &ObjectName| (1..=MAX_NAME).contains(&name.name.len()) && name.namespace.len() <= MAX_NAME;
    let name = name.filter(fits).ok_or(Violation::Malformed { field: "key" })?;
    Ok(ObjectKey {
        kind: to_kind(kind)?,
        namespace: name.namespace,
        name: name.name,
    })
}

pub(super) fn to_uid(uid: String) -> Result<String, Violation> {
    if uid.len() > MAX_UID {
        Err(Violation::Malformed { field: "uid" })
    } else {
        Ok(uid)
    }
}

pub(super) fn to_digest(bytes: &[u8]) -> Result<Digest, Violation> {
    Digest::from_wire(bytes).ok_or(Violation::Malformed { field: "digest" })
}

pub(super) fn of_digest(digest: Digest) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&digest.0)
}
