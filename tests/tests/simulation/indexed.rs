//! What the real index makes of what watches show.
//!
//! The model follows `cluster/seen.rs` and `cluster/named.rs` (which event does what).

use std::collections::BTreeSet;
use std::sync::Arc;

use cloudcore::cluster::index::{DeviceEntry, Index, Lookup, NodeEntry, PodEntry};
use cloudcore::cluster::status_entry;
use protocol::desired::references;
use protocol::name::NodeName;
use protocol::object::{Body, Kind, ObjectKey, Revision, canonical, canonical_after};

use super::api::{Change, Stored};

pub(crate) fn missing_nodes(index: &Index, seen: &BTreeSet<ObjectKey>) -> Vec<(String, Body)> {
    let held = index.node_names().filter_map(|name| index.node(name));
    let mut missing: Vec<_> = held
        .filter(|entry| !seen.contains(&entry.object.key))
        .map(|entry| (entry.object.key.name.clone(), entry.whole.clone()))
        .collect();
    missing.sort_by(|a, b| a.0.cmp(&b.0));
    missing
}

pub(crate) fn put_named(index: &mut Index, key: &ObjectKey, object: &Stored) {
    index.saw_named(key, Revision(object.revision));
    if let Ok(object) = canonical(key.kind, &object.json) {
        index.resolve(key, Lookup::Present(Arc::new(object)));
    }
}

pub(crate) fn put_status(index: &mut Index, object: &Stored, listing: bool) {
    if let Some(status) = status_entry(&object.json) {
        index.put_status(&object.key, status, listing);
    }
}

fn node_of(pod: &Stored) -> Option<NodeName> {
    pod.value["spec"]["nodeName"].as_str()?.parse().ok()
}

/// What a watch of a shared kind does with an object; whether a list counts it as seen.
pub(crate) fn put_shared(index: &mut Index, object: &Stored, listing: bool) -> bool {
    match object.key.kind {
        Kind::Pod => {
            let Some(node) = node_of(object).filter(|node| index.is_attached(node)) else {
                return false;
            };
            if let Some(pod) = pod_entry(index, &node, object) {
                index.put_pod(&node, pod);
            }
            index.pod(&node, &object.key).is_some()
        }
        Kind::Node => {
            if let Ok(canonical) = canonical(Kind::Node, &object.json) {
                let node = NodeEntry {
                    object: Arc::new(canonical),
                    whole: Body::compress(&object.json),
                    autonomous: true,
                };
                index.put_node(node, listing);
            }
            true
        }
        Kind::Device => {
            let device = serde_json::from_slice(&object.json);
            if let (Ok(canonical), Ok(device)) = (canonical(Kind::Device, &object.json), device) {
                index.put_device(DeviceEntry::new(Arc::new(canonical), &device));
            }
            true
        }
        Kind::Service | Kind::RuntimeClass | Kind::DeviceModel => {
            if let Ok(object) = canonical(object.key.kind, &object.json) {
                index.put(Arc::new(object));
            }
            true
        }
        Kind::ConfigMap | Kind::Secret => true,
    }
}

pub(crate) fn pod_entry(index: &Index, node: &NodeName, object: &Stored) -> Option<PodEntry> {
    let held = index.pod(node, &object.key).map(|pod| Arc::clone(&pod.object));
    Some(PodEntry {
        object: Arc::new(canonical_after(Kind::Pod, &object.json, held.as_deref()).ok()?),
        refs: references(&object.json).ok()?,
        withheld: false,
    })
}

/// What a watch of a shared kind does with a deletion; a Node that has to be made again.
pub(crate) fn gone_shared(index: &mut Index, change: &Change) -> Option<(String, Body)> {
    match change.key.kind {
        Kind::Pod => {
            let node = node_of(&change.object).filter(|node| index.is_attached(node));
            if let Some(node) = node {
                index.remove_pod(&node, &change.key, Revision(change.revision));
            }
            None
        }
        Kind::Node => {
            index.remove(&change.key);
            Some((change.key.name.clone(), Body::compress(&change.object.json)))
        }
        Kind::Service
        | Kind::RuntimeClass
        | Kind::ConfigMap
        | Kind::Secret
        | Kind::DeviceModel
        | Kind::Device => {
            index.remove(&change.key);
            None
        }
    }
}
