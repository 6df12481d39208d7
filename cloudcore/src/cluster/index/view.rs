//! What one node must hold, read from the index.

use std::sync::Arc;

use protocol::desired::{AbsentReason, Found, View};
use protocol::name::NodeName;
use protocol::object::{Kind, ObjectKey, Revision};

use super::{Index, Lookup};

/// One node's part of the index.
#[derive(Clone, Copy, Debug)]
pub struct IndexView<'a> {
    index: &'a Index,
    node: &'a NodeName,
}

impl Index {
    /// What a node must hold.
    pub const fn seen_by<'a>(&'a self, node: &'a NodeName) -> IndexView<'a> {
        IndexView { index: self, node }
    }
}

impl View for IndexView<'_> {
    fn keys(&self, kind: Kind) -> Vec<ObjectKey> {
        self.index.keys(self.node, kind)
    }

    fn find(&self, key: &ObjectKey) -> Found {
        if self.index.pod(self.node, key).is_some_and(|pod| pod.withheld) {
            return Found::Absent(AbsentReason::TooLarge);
        }
        match self.index.lookup(self.node, key) {
            Some(Lookup::Unknown) => Found::Unknown,
            Some(Lookup::Absent(reason)) => Found::Absent(*reason),
            Some(Lookup::Present(object)) => Found::Object(Arc::clone(object)),
            None => match self.index.object(self.node, key) {
                Some(object) => Found::Object(Arc::clone(object)),
                None => Found::Nothing,
            },
        }
    }

    fn closure(&self, pod: &ObjectKey) -> Vec<ObjectKey> {
        self.index
            .pod(self.node, pod)
            .map(|pod| pod.refs.iter().cloned().collect())
            .unwrap_or_default()
    }

    fn is_listed(&self, kind: Kind) -> bool {
        !matches!(kind, Kind::DeviceModel | Kind::Device) || self.index.devices_listed()
    }

    fn seen(&self, key: &ObjectKey) -> Revision {
        let seen = self.index.seen(key);
        seen.unwrap_or_else(|| self.revision(key.kind))
    }

    fn revision(&self, kind: Kind) -> Revision {
        self.index.view_revision(self.node, kind)
    }
}
