//! How objects and absences rest in the store: as the messages that brought them.
//!
//! The wire format only ever grows, so what an older or newer edgecore wrote can be read.

use bytes::Bytes;
use prost::Message as _;
use protocol::desired::{Absence, AbsentReason, absent_version};
use protocol::object::{Body, BodyError, Digest, Kind, Object, ObjectKey, Revision, Version};
use protocol::wire::{self, Absent, ObjectName, Upsert};
use thiserror::Error;

/// Why a stored value cannot be read. The key is asked for again at the next comparison.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes are not the message that they should be.
    #[error("the value does not decode")]
    Message(#[from] prost::DecodeError),
    /// A field is missing or out of range.
    #[error("the field {0} is missing or wrong")]
    Field(&'static str),
    /// The body cannot be opened.
    #[error("the body cannot be used")]
    Body(#[from] BodyError),
}

/// The key under which an object, or its absence, is stored.
pub(super) fn store_key(key: &ObjectKey) -> String {
    format!("{}/{}/{}", key.kind, key.namespace, key.name)
}

/// The key that is stored as `text`.
pub(super) fn read_store_key(text: &str) -> Option<ObjectKey> {
    let mut parts = text.splitn(3, '/');
    let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
    let kind = Kind::ALL.into_iter().find(|known| known.name() == kind)?;
    (!name.is_empty()).then(|| ObjectKey::new(kind, namespace, name))
}

/// The UID in an object's bytes, where they tell that much though they cannot be used.
pub(super) fn uid(bytes: Bytes) -> Option<String> {
    let uid = Upsert::decode(bytes).ok()?.uid;
    (!uid.is_empty()).then_some(uid)
}

/// An object as bytes.
pub(super) fn encode_object(object: &Object) -> Bytes {
    let version = &object.version;
    Upsert {
        kind: object.key.kind.wire(),
        key: Some(name(&object.key)),
        uid: version.uid.clone(),
        revision: version.revision.0,
        digest: Bytes::copy_from_slice(&version.digest.0),
        body: Some(object.body.to_wire()),
        seed_status: object.seed_status.as_ref().map(Body::to_wire),
        ..Upsert::default()
    }
    .encode_to_vec()
    .into()
}

/// An object from bytes.
pub(super) fn decode_object(bytes: Bytes) -> Result<Object, DecodeError> {
    let upsert = Upsert::decode(bytes)?;
    Ok(Object {
        key: key(upsert.kind, upsert.key)?,
        version: Version {
            uid: upsert.uid,
            revision: Revision(upsert.revision),
            digest: Digest::from_wire(&upsert.digest).ok_or(DecodeError::Field("digest"))?,
        },
        body: Body::from_wire(upsert.body)?,
        seed_status: upsert
            .seed_status
            .map(|body| Body::from_wire(Some(body)))
            .transpose()?,
    })
}

/// An absence as bytes.
pub(super) fn encode_absence(absence: &Absence) -> Bytes {
    Absent {
        kind: absence.key.kind.wire(),
        key: Some(name(&absence.key)),
        reason: absence.reason.wire(),
        view_revision: absence.version.revision.0,
        ..Absent::default()
    }
    .encode_to_vec()
    .into()
}

/// An absence from bytes.
pub(super) fn decode_absence(bytes: Bytes) -> Result<Absence, DecodeError> {
    let absent = Absent::decode(bytes)?;
    let reason = AbsentReason::from_wire(absent.reason).ok_or(DecodeError::Field("reason"))?;
    Ok(Absence {
        key: key(absent.kind, absent.key)?,
        version: absent_version(reason, Revision(absent.view_revision)),
        reason,
    })
}

fn name(key: &ObjectKey) -> ObjectName {
    ObjectName {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

fn key(kind: u32, name: Option<wire::ObjectName>) -> Result<ObjectKey, DecodeError> {
    let kind = Kind::from_wire(kind).ok_or(DecodeError::Field("kind"))?;
    let ObjectName { namespace, name } = name.ok_or(DecodeError::Field("key"))?;
    Ok(ObjectKey {
        kind,
        namespace,
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_read_as_it_was_written() {
        let object = Object {
            key: ObjectKey::new(Kind::Pod, "default", "a"),
            version: Version {
                uid: "u".to_owned(),
                revision: Revision(7),
                digest: Digest::of(b"x"),
            },
            body: Body::compress(&[b'x'; 4000]),
            seed_status: Some(Body::compress(b"{}")),
        };
        assert_eq!(decode_object(encode_object(&object)).unwrap(), object);
    }

    #[test]
    fn an_absence_is_read_as_it_was_written() {
        let reason = AbsentReason::from_wire(1).unwrap();
        let absence = Absence {
            key: ObjectKey::new(Kind::Secret, "default", "a"),
            version: absent_version(reason, Revision(9)),
            reason,
        };
        assert_eq!(decode_absence(encode_absence(&absence)).unwrap(), absence);
    }

    #[test]
    fn a_key_is_read_as_it_was_written() {
        for (namespace, name) in [("default", "a.b"), ("", "node")] {
            let key = ObjectKey::new(Kind::Node, namespace, name);
            assert_eq!(read_store_key(&store_key(&key)), Some(key));
        }
        for text in ["", "Pod", "Pod/default", "Pod/default/", "Pot/default/a"] {
            assert_eq!(read_store_key(text), None);
        }
    }

    #[test]
    fn garbage_is_refused() {
        assert!(decode_object(Bytes::from_static(b"\xff\xff")).is_err());
        assert!(decode_object(Bytes::new()).is_err());
    }
}
