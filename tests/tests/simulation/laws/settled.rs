//! What must be so when everything has come to rest: whatever is somewhere is everywhere.

use std::collections::{BTreeMap, BTreeSet};

use cloudcore::cluster::document::pod_status_patch;
use cloudcore::cluster::fence;
use protocol::desired::references;
use protocol::object::{Kind, ObjectKey, canonical, owned};
use serde_json::{Map, Value, json};

use crate::api::Stored;
use crate::objects;
use crate::world::World;

impl World {
    /// What is not yet as it must be in the end.
    pub(crate) fn unsettled(&self) -> Option<String> {
        (0..self.edges.len()).find_map(|e| self.unsettled_edge(e))
    }

    fn unsettled_edge(&self, e: usize) -> Option<String> {
        let edge = &self.edges[e];
        let node = edge.node.as_ref();
        let Some(process) = &edge.process else {
            return Some(format!("edge {e} is not up"));
        };
        let Some(session) = process.link.and_then(|id| {
            let link = self.links.get(&id)?;
            self.replicas[link.replica].sessions.get(&id)
        }) else {
            return Some(format!("edge {e} has no session"));
        };
        let lease = self.api.lease(node);
        if lease.and_then(fence::holder) != Some(session.name.as_str()) {
            return Some(format!(
                "the Lease of {node} is not its session's ({})",
                session.name
            ));
        }
        if let Some(kind) = Kind::ALL.into_iter().find(|kind| !process.replica.synced(*kind)) {
            return Some(format!("edge {e}: {kind}s are not synced"));
        }
        if process.outbox.pending() > 0 {
            return Some(format!("edge {e}: reports wait: {:?}", process.outbox.troubles()));
        }
        self.unequal(e)
            .or_else(|| self.unsaid(e))
            .or_else(|| self.not_running(e))
            .or_else(|| self.devices_unsettled(e))
    }

    /// The edge's map against what the API server has for it.
    fn unequal(&self, e: usize) -> Option<String> {
        let edge = &self.edges[e];
        let mut wanted: BTreeMap<ObjectKey, String> = BTreeMap::new();
        let mut pods = false;
        for pod in self.api.pods_of(edge.node.as_ref()) {
            pods = true;
            wanted.insert(pod.key.clone(), version(pod));
            for named in references(&pod.json).unwrap() {
                let found = self
                    .api
                    .get(&named)
                    .map_or_else(|| "absent".to_owned(), |found| version(found));
                wanted.insert(named, found);
            }
        }
        for device in self.api.list(Kind::Device) {
            if device.value["spec"]["nodeName"] != edge.node.as_ref() {
                continue;
            }
            wanted.insert(device.key.clone(), version(device));
            let model = device.value["spec"]["deviceModelRef"]["name"].as_str();
            let model = objects::key(Kind::DeviceModel, model.unwrap_or_default());
            if let Some(found) = self.api.get(&model) {
                wanted.insert(model, version(found));
            }
        }
        let services = self.api.list(Kind::Service).filter(|_| pods);
        let node = self.api.get(&ObjectKey::new(Kind::Node, "", edge.node.as_ref()));
        wanted.extend(
            services
                .chain(node)
                .map(|object| (object.key.clone(), version(object))),
        );
        let held: BTreeMap<ObjectKey, String> = edge
            .disk
            .image
            .entries
            .iter()
            .map(|(key, row)| match &row.object {
                Some(_) => (
                    key.clone(),
                    format!("{} {:?}", row.version.uid, row.version.digest),
                ),
                None => (key.clone(), "absent".to_owned()),
            })
            .collect();
        let keys: BTreeSet<&ObjectKey> = held.keys().chain(wanted.keys()).collect();
        let differs = keys.into_iter().find(|key| held.get(*key) != wanted.get(*key))?;
        Some(format!(
            "edge {e}: {differs} is {:?}, and the API server has {:?}",
            held.get(differs),
            wanted.get(differs)
        ))
    }

    /// What the edge says against what the API server shows.
    fn unsaid(&self, e: usize) -> Option<String> {
        let edge = &self.edges[e];
        let process = edge.process.as_ref()?;
        let node = self.api.get(&ObjectKey::new(Kind::Node, "", edge.node.as_ref()));
        let ready = node.and_then(|node| objects::condition(&node.value, "Ready"));
        if ready != Some("True") {
            return Some(format!("edge {e} is shown as {ready:?}"));
        }
        self.api.pods_of(edge.node.as_ref()).find_map(|pod| {
            let Some((_, status)) = process.statuses.get(&pod.uid) else {
                return Some(format!("edge {e} says nothing of {}", pod.key));
            };
            let reported: Map<String, Value> = serde_json::from_slice(status).unwrap();
            let patch = pod_status_patch(&pod.value, &reported);
            let same = owned::changes_nothing(&patch["status"], &pod.value["status"]);
            (!same).then(|| {
                format!(
                    "edge {e}: {} is shown as {}, not {}",
                    pod.key,
                    pod.value["status"],
                    json!(reported)
                )
            })
        })
    }

    fn not_running(&self, e: usize) -> Option<String> {
        let edge = &self.edges[e];
        let mut uids = BTreeSet::new();
        for pod in self.api.pods_of(edge.node.as_ref()) {
            uids.insert(pod.uid.clone());
            if pod.value["metadata"]["deletionTimestamp"].is_null()
                && let Some(amiss) = self.amiss(e, &pod.key, &pod.value)
            {
                return Some(format!("edge {e}: {amiss}"));
            }
        }
        let running = edge.runtime.running();
        let orphan = running.iter().find(|(uid, _)| !uids.contains(uid))?;
        Some(format!("edge {e}: pod {} runs, and nobody wants it", orphan.0))
    }
}

fn version(object: &Stored) -> String {
    let canonical = canonical(object.key.kind, &object.json).unwrap();
    format!("{} {:?}", object.uid, canonical.version.digest)
}
