//! Which pods have a worker.
//!
//! The model follows `pods/manager` (one worker a uid, none while another uid of the name is there, nothing ends for
//! being missing before the list is confirmed).

use std::collections::BTreeSet;
use std::sync::Arc;

use edgecore::pods::desired::DesiredPod;
use k8s_openapi::api::core::v1::Pod;
use protocol::object::{Kind, Object};

use super::{Worker, decode, uid_of};
use crate::world::World;

impl World {
    /// What is held has changed.
    pub(crate) fn load_pods(&mut self, e: usize) {
        let edge = &mut self.edges[e];
        let Some(process) = &mut edge.process else { return };
        let held = &edge.disk.image.entries;
        let rows = held
            .iter()
            .filter(|(key, row)| key.kind == Kind::Pod && row.object.is_some());
        let mut pods = std::collections::BTreeMap::new();
        for (key, row) in rows {
            let object = row.object.as_ref().unwrap();
            let known = process.pods.get(key).filter(|known| is_version(known, object));
            pods.insert(key.clone(), known.map_or_else(|| decode(object), Arc::clone));
        }
        process.pods = pods;
        self.follow(e);
    }

    /// Gives every wanted pod its worker; who is not wanted ends, once the list is confirmed.
    pub(crate) fn follow(&mut self, e: usize) {
        let edge = &mut self.edges[e];
        let Some(process) = &mut edge.process else { return };
        let mut wake = BTreeSet::new();
        for pod in process.pods.values() {
            let uid = uid_of(&pod.pod).to_owned();
            if let Some(worker) = process.workers.get_mut(&uid) {
                if worker.removed || !Arc::ptr_eq(&worker.pod, pod) {
                    (worker.pod, worker.removed) = (Arc::clone(pod), false);
                    wake.insert(uid);
                }
                continue;
            }
            let name = &pod.pod.metadata.name;
            if process
                .workers
                .values()
                .any(|other| other.pod.pod.metadata.name == *name)
            {
                continue;
            }
            let said = process.statuses.get(&uid);
            let reported = said.and_then(|(_, status)| serde_json::from_slice(status).ok());
            process
                .workers
                .insert(uid.clone(), Worker::new(Arc::clone(pod), false, reported));
            wake.insert(uid);
        }
        if process.synced {
            let wanted: BTreeSet<&str> = process.pods.values().map(|pod| uid_of(&pod.pod)).collect();
            for (uid, worker) in &mut process.workers {
                if !wanted.contains(uid.as_str()) && !std::mem::replace(&mut worker.removed, true) {
                    wake.insert(uid.clone());
                }
            }
            let orphan =
                |uid: &&String| !wanted.contains(uid.as_str()) && !process.workers.contains_key(*uid);
            let orphans: Vec<String> = edge.runtime.pods.keys().filter(orphan).cloned().collect();
            for uid in orphans {
                process
                    .workers
                    .insert(uid.clone(), Worker::new(bare(&uid), true, None));
                wake.insert(uid);
            }
        }
        for uid in wake {
            self.work(e, &uid);
        }
        self.forget_strangers(e);
    }

    /// Removed pods that came and went before they had a worker.
    fn forget_strangers(&mut self, e: usize) {
        let edge = &mut self.edges[e];
        let Some(process) = &mut edge.process else { return };
        let strange =
            |uid: &&str| !process.workers.contains_key(*uid) && !edge.runtime.pods.contains_key(*uid);
        let strangers: Vec<String> = process
            .replica
            .terminating()
            .filter(strange)
            .map(str::to_owned)
            .collect();
        for uid in &strangers {
            process.replica.terminated(uid);
        }
        if !strangers.is_empty() {
            self.pump_replica(e);
        }
    }

    pub(crate) fn work_all(&mut self, e: usize) {
        let workers = self.edges[e]
            .process
            .iter()
            .flat_map(|process| process.workers.keys());
        for uid in workers.cloned().collect::<Vec<_>>() {
            self.work(e, &uid);
        }
    }
}

fn is_version(known: &DesiredPod, object: &Object) -> bool {
    // The canonical body has no resourceVersion, so versions are told apart by their whole content.
    let again = decode(object);
    known.pod == again.pod
}

fn bare(uid: &str) -> Arc<DesiredPod> {
    let mut pod = Pod::default();
    pod.metadata.uid = Some(uid.to_owned());
    pod.metadata.name = Some(format!("orphan-{uid}"));
    Arc::new(DesiredPod { pod, refused: None })
}
