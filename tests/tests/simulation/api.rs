//! The API server: one store with revisions, its history for watches, and compare-and-swap.
//!
//! What it keeps of a real one: revisions are one sequence over all kinds; a write that changes
//! nothing makes no revision; a patch that names another uid or resourceVersion conflicts; a pod that
//! is bound is deleted in two steps; after a restore from a backup revisions are used again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::object::{Kind, ObjectKey};
use serde_json::{Value, json};

use super::objects::merge;

/// An answer that is not 2xx.
pub(crate) type Code = u16;

/// An object in one revision.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) key: ObjectKey,
    pub(crate) uid: String,
    pub(crate) revision: u64,
    pub(crate) value: Value,
    pub(crate) json: Vec<u8>,
}

/// One step of the history of a kind.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) key: ObjectKey,
    /// The object; for a deletion its last state.
    pub(crate) object: Arc<Stored>,
    pub(crate) deleted: bool,
}

/// What a backup of etcd holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contents {
    pub(crate) head: u64,
    pub(crate) objects: BTreeMap<ObjectKey, Arc<Stored>>,
    pub(crate) leases: BTreeMap<String, Value>,
    /// `DeviceStatuses`, under the keys of their devices.
    statuses: BTreeMap<ObjectKey, Arc<Stored>>,
    pub(crate) events: BTreeSet<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Api {
    pub(crate) now: Contents,
    pub(crate) log: BTreeMap<Kind, Vec<Change>>,
    pub(crate) status_log: Vec<Change>,
    /// Grows with each restore.
    pub(crate) epoch: u64,
    pub(crate) restores: u64,
    uids: u64,
}

impl Api {
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<&Arc<Stored>> {
        self.now.objects.get(key)
    }

    pub(crate) fn list(&self, kind: Kind) -> impl Iterator<Item = &Arc<Stored>> {
        self.now
            .objects
            .values()
            .filter(move |object| object.key.kind == kind)
    }

    pub(crate) fn pods_of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Arc<Stored>> {
        self.list(Kind::Pod)
            .filter(move |pod| pod.value["spec"]["nodeName"] == node)
    }

    /// Whether this incarnation exists.
    pub(crate) fn lives(&self, key: &ObjectKey, uid: &str) -> bool {
        self.get(key).is_some_and(|object| object.uid == uid)
    }

    pub(crate) fn create(&mut self, kind: Kind, mut value: Value) -> Result<Arc<Stored>, Code> {
        let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = ObjectKey::new(kind, text("namespace"), text("name"));
        if self.now.objects.contains_key(&key) {
            return Err(409);
        }
        self.uids += 1;
        value["metadata"]["uid"] = json!(format!("u{}", self.uids));
        Ok(self.store(key, value))
    }

    /// Changes an object that exists.
    pub(crate) fn change(
        &mut self,
        key: &ObjectKey,
        change: impl FnOnce(&mut Value),
    ) -> Result<Arc<Stored>, Code> {
        let before = Arc::clone(self.get(key).ok_or(404_u16)?);
        let mut value = before.value.clone();
        change(&mut value);
        if value == before.value {
            return Ok(before);
        }
        Ok(self.store(key.clone(), value))
    }

    /// A merge patch of a status, with its precondition.
    pub(crate) fn patch_status(&mut self, key: &ObjectKey, patch: &Value) -> Result<Arc<Stored>, Code> {
        let before = self.get(key).ok_or(404_u16)?;
        let wanted = &patch["metadata"];
        let uid = wanted["uid"].as_str().is_none_or(|uid| uid == before.uid);
        let revision = wanted["resourceVersion"]
            .as_str()
            .is_none_or(|revision| revision == before.revision.to_string());
        if !uid || !revision {
            return Err(409);
        }
        self.change(key, |value| merge(&mut value["status"], &patch["status"]))
    }

    /// Deletes at once.
    pub(crate) fn delete(&mut self, key: &ObjectKey, uid: Option<&str>) -> Result<(), Code> {
        let before = Arc::clone(self.get(key).ok_or(404_u16)?);
        if uid.is_some_and(|uid| uid != before.uid) {
            return Err(409);
        }
        self.now.objects.remove(key);
        self.now.head += 1;
        let mut last = before.value.clone();
        last["metadata"]["resourceVersion"] = json!(self.now.head.to_string());
        let object = Arc::new(Stored {
            json: last.to_string().into_bytes(),
            value: last,
            revision: self.now.head,
            uid: before.uid.clone(),
            key: key.clone(),
        });
        self.log(object, true);
        Ok(())
    }

    pub(crate) fn lease(&self, node: &str) -> Option<&Value> {
        self.now.leases.get(node)
    }

    /// Creates (409 when it is there) or replaces (409 when it has changed, 404 when it is gone).
    pub(crate) fn write_lease(&mut self, node: &str, mut lease: Value, create: bool) -> Result<Value, Code> {
        match (self.now.leases.get(node), create) {
            (Some(_), true) => return Err(409),
            (None, false) => return Err(404),
            (Some(now), false)
                if now["metadata"]["resourceVersion"] != lease["metadata"]["resourceVersion"] =>
            {
                return Err(409);
            }
            _ => {}
        }
        self.now.head += 1;
        lease["metadata"]["resourceVersion"] = json!(self.now.head.to_string());
        self.now.leases.insert(node.to_owned(), lease.clone());
        Ok(lease)
    }

    /// Back to a backup. New uids stay new.
    pub(crate) fn restore(&mut self, backup: &Contents) {
        self.now = backup.clone();
        for log in self.log.values_mut().chain([&mut self.status_log]) {
            log.retain(|change| change.revision <= backup.head);
        }
        self.restores += 1;
    }

    pub(crate) fn status(&self, device: &ObjectKey) -> Option<&Arc<Stored>> {
        self.now.statuses.get(device)
    }

    pub(crate) fn statuses(&self) -> impl Iterator<Item = &Arc<Stored>> {
        self.now.statuses.values()
    }

    pub(crate) fn create_status(
        &mut self,
        device: &ObjectKey,
        mut status: Value,
    ) -> Result<Arc<Stored>, Code> {
        if self.now.statuses.contains_key(device) {
            return Err(409);
        }
        self.uids += 1;
        status["metadata"]["uid"] = json!(format!("u{}", self.uids));
        Ok(self.store_status(device, status))
    }

    /// A merge patch of the whole status, with its precondition.
    pub(crate) fn patch_device_status(
        &mut self,
        device: &ObjectKey,
        patch: &Value,
    ) -> Result<Arc<Stored>, Code> {
        let before = Arc::clone(self.status(device).ok_or(404_u16)?);
        for field in ["uid", "resourceVersion"] {
            let wanted = &patch["metadata"][field];
            if !wanted.is_null() && *wanted != before.value["metadata"][field] {
                return Err(409);
            }
        }
        let mut value = before.value.clone();
        merge(&mut value, patch);
        if value == before.value {
            return Ok(before);
        }
        Ok(self.store_status(device, value))
    }

    pub(crate) fn delete_status(&mut self, device: &ObjectKey) -> Result<(), Code> {
        let last = self.now.statuses.remove(device).ok_or(404_u16)?;
        self.now.head += 1;
        self.status_log.push(Change {
            revision: self.now.head,
            key: device.clone(),
            object: last,
            deleted: true,
        });
        Ok(())
    }

    fn store_status(&mut self, device: &ObjectKey, value: Value) -> Arc<Stored> {
        let object = self.stored(device.clone(), value);
        self.now.statuses.insert(device.clone(), Arc::clone(&object));
        self.status_log.push(Change {
            revision: object.revision,
            key: device.clone(),
            object: Arc::clone(&object),
            deleted: false,
        });
        object
    }

    fn store(&mut self, key: ObjectKey, value: Value) -> Arc<Stored> {
        let object = self.stored(key.clone(), value);
        self.now.objects.insert(key, Arc::clone(&object));
        self.log(Arc::clone(&object), false);
        object
    }

    fn stored(&mut self, key: ObjectKey, mut value: Value) -> Arc<Stored> {
        self.now.head += 1;
        value["metadata"]["resourceVersion"] = json!(self.now.head.to_string());
        Arc::new(Stored {
            json: value.to_string().into_bytes(),
            uid: value["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
            revision: self.now.head,
            key,
            value,
        })
    }

    fn log(&mut self, object: Arc<Stored>, deleted: bool) {
        self.log.entry(object.key.kind).or_default().push(Change {
            revision: object.revision,
            key: object.key.clone(),
            object,
            deleted,
        });
    }
}
