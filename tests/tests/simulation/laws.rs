//! What must be true all the time; what must be so in the end is `settled.rs`'s.
//!
//! The world knows what really happened at the API server; a law is judged against that, never
//! against what a replica or an edge believes.

mod settled;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cloudcore::cluster::document::{NodeDocument, pod_status_patch};
use cloudcore::cluster::fence;
use protocol::desired::Commit;
use protocol::object::{Kind, ObjectKey, Revision, owned};
use protocol::reported::OutboxKey;
use serde_json::{Map, Value, json};

use super::api::Stored;
use super::devices::DeviceLaws;
use super::world::World;

/// The outbox's cap of events, and its keys.
const MOST_PENDING: usize = 1_000 + 64;

#[derive(Default)]
pub(crate) struct Laws {
    takes: u64,
    /// Which take of a Lease each session was.
    sessions: BTreeMap<String, u64>,
    /// Who holds a generation of a node's Lease, by the number of restores.
    generations: BTreeMap<(u64, String, u64), String>,
    /// The newest session of each node that wrote its Lease.
    newest: BTreeMap<String, u64>,
    /// The newest session that wrote each object, by uid.
    authors: BTreeMap<String, u64>,
    /// Every state that was ever shown.
    shown: BTreeMap<ObjectKey, Vec<(String, Value)>>,
    /// Pods whose end was asked for, or that are gone.
    ended: BTreeSet<String>,
    /// Images that the API server ever wanted of a pod.
    images: BTreeMap<String, BTreeSet<String>>,
    /// Incarnations that an edge has removed.
    buried: BTreeMap<usize, BTreeSet<String>>,
    pub(crate) devices: DeviceLaws,
    pub(crate) renewed: BTreeMap<String, Duration>,
    pub(crate) nodeless: BTreeMap<String, Duration>,
    pub(crate) rolled_back: bool,
    is_restored: bool,
    /// Desired streams that one half reset because of what the other said: never, for both are ours.
    pub(crate) resets: Vec<String>,
    pub(crate) diverged: u64,
    pub(crate) acknowledged: u64,
    pub(crate) commits: u64,
}

impl Laws {
    pub(crate) fn api_shows(&mut self, _now: Duration, object: &Stored) {
        if !matches!(object.key.kind, Kind::Pod | Kind::Node) {
            return;
        }
        let states = self.shown.entry(object.key.clone()).or_default();
        states.push((object.uid.clone(), object.value["status"].clone()));
        if object.key.kind == Kind::Pod {
            if !object.value["metadata"]["deletionTimestamp"].is_null() {
                self.ended.insert(object.uid.clone());
            }
            let image = object.value["spec"]["containers"][0]["image"].as_str();
            let images = self.images.entry(object.uid.clone()).or_default();
            images.insert(image.unwrap_or_default().to_owned());
        }
    }

    pub(crate) fn api_lost(&mut self, uid: &str) {
        self.ended.insert(uid.to_owned());
    }

    /// The take of a Lease that was just written.
    pub(crate) fn took(&self, session: &str) -> u64 {
        self.sessions.get(session).copied().unwrap_or_default()
    }

    /// One session a generation, and never an older session over a newer one.
    pub(crate) fn lease_written(&mut self, node: &str, lease: &Value, restores: u64) {
        let holder = fence::holder(lease).unwrap_or_default().to_owned();
        let generation = lease["spec"]["leaseTransitions"].as_u64().unwrap_or_default();
        let takes = &mut self.takes;
        let ordinal = *self.sessions.entry(holder.clone()).or_insert_with(|| {
            *takes += 1;
            *takes
        });
        let before = self
            .generations
            .entry((restores, node.to_owned(), generation))
            .or_insert_with(|| holder.clone());
        assert!(
            *before == holder,
            "generation {generation} of {node} is held by {before} and by {holder}"
        );
        let newest = self.newest.entry(node.to_owned()).or_default();
        assert!(
            ordinal >= *newest || self.is_restored,
            "the Lease of {node} was written by session {holder}, which is not the newest"
        );
        *newest = ordinal;
    }

    /// A session wrote an object: never over a newer session's write.
    pub(crate) fn wrote(&mut self, object: &Stored, ordinal: u64) {
        let author = self.authors.entry(object.uid.clone()).or_default();
        assert!(
            ordinal >= *author,
            "{} was written by session {ordinal} over what the newer session {author} had written",
            object.key
        );
        *author = ordinal;
    }

    pub(crate) fn dirty_keys(keys: usize) {
        assert!(keys <= 60, "the dirty set has {keys} keys, more than there are");
    }

    pub(crate) fn unanswered(reports: usize) {
        let most = protocol::reported::STATE_WINDOW + protocol::reported::EVENT_WINDOW;
        assert!(
            reports <= most,
            "{reports} reports are unanswered, more than the windows"
        );
    }

    pub(crate) fn pending(entries: usize) {
        assert!(entries <= MOST_PENDING, "the outbox has {entries} entries");
    }

    pub(crate) fn restored(&mut self) {
        self.is_restored = true;
        self.devices.restored();
        self.buried.clear();
        self.authors.clear();
        self.newest.clear();
    }

    pub(crate) fn rolled_back(&mut self, e: usize) {
        self.rolled_back = true;
        self.buried.remove(&e);
    }
}

/// What an edge stores and does.
impl World {
    /// Before a commit is written: nothing is removed, brought back or set back by a replica that lags.
    pub(crate) fn check_commit(&mut self, e: usize, commit: &Commit) {
        self.laws.commits += 1;
        let image = &self.edges[e].disk.image;
        let strict = !self.laws.is_restored;
        let buried = self.laws.buried.entry(e).or_default();
        for key in &commit.removes {
            let Some(row) = image.entries.get(key) else {
                continue;
            };
            let is_reference = matches!(key.kind, Kind::ConfigMap | Kind::Secret);
            if strict && !is_reference {
                let lives = self.api.lives(key, &row.version.uid);
                // A Service goes with the last pod of its namespace.
                // A device goes when it moves, and a model with the last device that names it.
                let needed = match key.kind {
                    Kind::Service | Kind::DeviceModel => false,
                    Kind::Device => self.api.get(key).is_some_and(|device| {
                        device.value["spec"]["nodeName"] == self.edges[e].node.as_ref()
                            && !self.laws.devices.has_moved(&device.uid)
                    }),
                    Kind::Pod | Kind::RuntimeClass | Kind::ConfigMap | Kind::Secret | Kind::Node => true,
                };
                assert!(!lives || !needed, "edge {e}: {key} was removed, but lives");
            }
            if key.kind == Kind::Pod {
                buried.insert(row.version.uid.clone());
            }
        }
        for object in &commit.puts {
            let (key, version) = (&object.key, &object.version);
            let before = image.entries.get(key).map(|row| &row.version);
            if key.kind == Kind::Pod {
                let back = buried.contains(&version.uid);
                assert!(
                    !back || !strict,
                    "edge {e}: {key} ({}) came back from the dead",
                    version.uid
                );
                if let Some(before) = before.filter(|before| before.uid != version.uid) {
                    buried.insert(before.uid.clone());
                }
            }
            if let Some(before) = before.filter(|before| strict && !before.uid.is_empty()) {
                assert!(
                    before.revision <= version.revision,
                    "edge {e}: {key} went back from {} to {}",
                    before.revision,
                    version.revision
                );
            }
        }
        for (kind, view) in &image.fences.views {
            let next = commit.fences.views.get(kind).copied().unwrap_or(Revision(0));
            assert!(next >= *view || !strict, "edge {e}: the fence of {kind}s fell");
        }
    }

    /// After: whatever the edge has accepted, it can start.
    pub(crate) fn check_closures(&self, e: usize) {
        let entries = &self.edges[e].disk.image.entries;
        for (key, row) in entries {
            let missing = row.references.iter().find(|named| !entries.contains_key(*named));
            assert!(missing.is_none(), "edge {e}: {key} is stored without {missing:?}");
        }
    }

    /// A container that is killed had a cause.
    pub(crate) fn check_kill(&self, e: usize, uid: &str, id: &str) {
        let observed = self.edges[e].runtime.observe(uid);
        let runs = observed.containers.iter().any(|c| c.id == id && c.run.may_run());
        let ended = self.laws.ended.contains(uid);
        let edited = self.laws.images.get(uid).is_some_and(|images| images.len() > 1);
        let exists = self.api.list(Kind::Pod).any(|pod| pod.uid == uid);
        let excused = self.laws.rolled_back || (self.laws.is_restored && !exists);
        assert!(
            !runs || ended || edited || excused,
            "edge {e}: container {id} of pod {uid} is killed without a cause"
        );
    }

    /// A pod that this edge has removed never starts again, once its list of pods is confirmed: before
    /// that, a worker goes on with the order that it had.
    pub(crate) fn check_start(&self, e: usize, uid: &str) {
        if !self.edges[e]
            .process
            .as_ref()
            .is_some_and(|process| process.synced)
        {
            return;
        }
        let buried = self
            .laws
            .buried
            .get(&e)
            .is_some_and(|buried| buried.contains(uid));
        assert!(!buried, "edge {e}: pod {uid} starts although it was removed");
    }

    /// What is said to be committed is, or was, at the API server.
    pub(crate) fn check_acknowledged(&mut self, e: usize, key: &OutboxKey, payload: &[u8]) {
        self.laws.acknowledged += 1;
        if self.laws.is_restored {
            return;
        }
        let node = &self.edges[e].node;
        let has = match key {
            OutboxKey::Node => {
                let document = NodeDocument::parse(node, payload).unwrap();
                let key = ObjectKey::new(Kind::Node, "", node.as_ref());
                self.ever(&key, None, |current| document.status_patch(current, None))
            }
            OutboxKey::Pod(pod) => {
                let reported: Map<String, Value> = serde_json::from_slice(payload).unwrap();
                let key = ObjectKey::new(Kind::Pod, pod.namespace.as_str(), pod.name.as_str());
                self.ever(&key, Some(&pod.uid), |current| {
                    pod_status_patch(current, &reported)
                })
            }
            OutboxKey::Gone(pod) => {
                let key = ObjectKey::new(Kind::Pod, pod.namespace.as_str(), pod.name.as_str());
                !self.api.lives(&key, &pod.uid)
            }
            OutboxKey::Device(device) => self.was_shown(device, payload),
            OutboxKey::Event { name, .. } => self.api.now.events.contains(name),
        };
        assert!(
            has,
            "edge {e}: {key} was acknowledged, and the API server never had it"
        );
    }

    fn ever(&self, key: &ObjectKey, uid: Option<&str>, patch: impl Fn(&Value) -> Value) -> bool {
        let states = self.laws.shown.get(key).into_iter().flatten().rev();
        let mut states = states.filter(|(of, _)| uid.is_none_or(|uid| uid == of));
        states.any(|(uid, status)| {
            let current = json!({"metadata": {"uid": uid, "resourceVersion": "0"}, "status": status});
            owned::changes_nothing(&patch(&current)["status"], status)
        })
    }
}
