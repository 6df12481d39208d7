//! What a replica writes for a node: the real patches, the real order of requests, modelled requests.
//!
//! Follows `cluster/pods.rs` and `nodes.rs`; what a session has begun is dropped with it, but for a
//! request that is on its way.

use cloudcore::cluster::attempt::{Ask, Attempt};
use cloudcore::cluster::document::{NodeDocument, pod_as_cached, pod_status_patch};
use cloudcore::cluster::fence;
use cloudcore::cluster::index::Index;
use cloudcore::cluster::shown::compare;
use cloudcore::reported::{Job, Refusal, Shown, refused};
use protocol::name::NodeName;
use protocol::object::{Kind, ObjectKey, Revision};
use protocol::reported::{OutboxKey, PodIdentity};
use serde_json::{Map, Value};
use tokio::time::Instant;

use std::sync::Arc;

use super::api::{Code, Stored};
use super::cloud::{Replica, ReportedHalf};
use super::devices;
use super::indexed::{pod_entry, put_shared};
use super::world::World;

/// A write under way in a session.
pub(crate) struct Under {
    pub(crate) r: usize,
    pub(crate) id: u64,
    pub(crate) stream: u64,
    pub(crate) node: NodeName,
    pub(crate) session: String,
    ordinal: u64,
    pub(crate) job: Job,
    attempt: Attempt,
    current: Option<Value>,
}

/// How a write ended: done, or refused with a code, for good or not.
pub(crate) type End = Result<(), (Code, bool)>;

fn pod_key(pod: &PodIdentity) -> ObjectKey {
    ObjectKey::new(Kind::Pod, pod.namespace.as_str(), pod.name.as_str())
}

/// What the API server shows of a key, as far as the replica knows.
pub(crate) fn shown(
    index: &Index,
    node: &NodeName,
    (key, payload): (&OutboxKey, &[u8]),
    now: Instant,
) -> Shown {
    match key {
        OutboxKey::Node => {
            let (Some(current), Ok(document)) =
                (cached_node(index, node), NodeDocument::parse(node, payload))
            else {
                return Shown::Nothing;
            };
            let patch = document.status_patch(&current, None);
            compare(&patch["status"], &current["status"])
        }
        OutboxKey::Pod(pod) => {
            let current =
                cached_pod(index, node, pod).filter(|current| current["metadata"]["uid"] == *pod.uid);
            let (Some(current), Ok(reported)) = (current, serde_json::from_slice::<Map<_, _>>(payload))
            else {
                return Shown::Nothing;
            };
            let patch = pod_status_patch(&current, &reported);
            compare(&patch["status"], &current["status"])
        }
        OutboxKey::Device(device) => devices::shown(index, node, (device, payload), now),
        OutboxKey::Gone(_) | OutboxKey::Event { .. } => Shown::Nothing,
    }
}

fn cached_pod(index: &Index, node: &NodeName, pod: &PodIdentity) -> Option<Value> {
    pod_as_cached(&index.pod(node, &pod_key(pod))?.object)
}

fn cached_node(index: &Index, node: &NodeName) -> Option<Value> {
    serde_json::from_slice(&index.node(node.as_ref())?.whole.json().ok()?).ok()
}

impl World {
    pub(crate) fn start_job(&mut self, r: usize, id: u64, stream: u64, job: Job) {
        let Some(session) = self.replicas[r].sessions.get(&id) else {
            return;
        };
        let mut under = Under {
            r,
            id,
            stream,
            node: session.node.clone(),
            session: session.name.clone(),
            ordinal: session.ordinal,
            attempt: Attempt::default(),
            current: None,
            job,
        };
        self.say(|| format!("replica {r}: writes {} (link {id})", under.job.key));
        let index = &self.replicas[r].index;
        match under.job.key.clone() {
            OutboxKey::Pod(pod) => {
                under.current = cached_pod(index, &under.node, &pod);
                let ask = Attempt::first(under.current.as_ref().map(|current| self.covers(&under, current)));
                self.ask(under, ask);
            }
            OutboxKey::Node => match cached_node(index, &under.node) {
                Some(current) => {
                    let ask = Attempt::first(Some(self.covers(&under, &current)));
                    under.current = Some(current);
                    self.ask(under, ask);
                }
                None => self.register(under),
            },
            OutboxKey::Gone(pod) => self.delete_pod(under, pod),
            OutboxKey::Device(device) => self.write_device(under, device),
            OutboxKey::Event { name, .. } => self.request(
                r,
                move |world| {
                    world.api.now.events.insert(name);
                    Ok(())
                },
                move |world, result| world.finish(under, result.map_err(|code| (code, false))),
            ),
        }
    }

    fn ask(&mut self, under: Under, ask: Ask) {
        match ask {
            Ask::Lease => self.ask_lease(under),
            Ask::Read => self.ask_read(under),
            Ask::Write => self.ask_write(under),
        }
    }

    fn ask_lease(&mut self, under: Under) {
        self.still_ours(under, |world, under, ours| match ours {
            Ok(()) => world.go_on(under, Attempt::after_lease()),
            Err(code) => world.finish(under, Err((code, false))),
        });
    }

    /// As `Cluster::still_ours`.
    pub(crate) fn still_ours(
        &mut self,
        under: Under,
        then: impl FnOnce(&mut Self, Under, Result<(), Code>) + 'static,
    ) {
        let node = under.node.clone();
        self.request(
            under.r,
            move |world| Ok(world.api.lease(node.as_ref()).cloned()),
            move |world, read| {
                let ours = match read {
                    Ok(Some(lease)) if fence::holder(&lease) == Some(under.session.as_str()) => Ok(()),
                    Ok(Some(_)) => Err(409),
                    Ok(None) => Err(503),
                    Err(code) => Err(code),
                };
                then(world, under, ours);
            },
        );
    }

    fn ask_read(&mut self, mut under: Under) {
        let key = match &under.job.key {
            OutboxKey::Pod(pod) => pod_key(pod),
            OutboxKey::Node | OutboxKey::Gone(_) | OutboxKey::Device(_) | OutboxKey::Event { .. } => {
                ObjectKey::new(Kind::Node, "", under.node.as_ref())
            }
        };
        let is_pod = key.kind == Kind::Pod;
        self.request(
            under.r,
            move |world| Ok(world.api.get(&key).cloned()),
            move |world, read| match read {
                Ok(Some(found)) => {
                    under.current = Some(found.value.clone());
                    if is_pod {
                        world.refresh(under.r, &under.node, &found);
                    }
                    let ask = under.attempt.after_read(world.covers(&under, &found.value));
                    world.go_on(under, ask);
                }
                Ok(None) => world.finish(under, Err((404, true))),
                Err(code) => world.finish(under, Err((code, false))),
            },
        );
    }

    fn ask_write(&mut self, mut under: Under) {
        let current = under.current.clone().unwrap_or_default();
        let (key, patch) = match &under.job.key {
            OutboxKey::Pod(pod) => {
                if current["metadata"]["uid"] != *pod.uid {
                    return self.finish(under, Err((409, true)));
                }
                let reported = serde_json::from_slice(&under.job.payload).unwrap_or_default();
                (pod_key(pod), pod_status_patch(&current, &reported))
            }
            OutboxKey::Node | OutboxKey::Gone(_) | OutboxKey::Device(_) | OutboxKey::Event { .. } => {
                let document = NodeDocument::parse(&under.node, &under.job.payload).unwrap();
                let key = ObjectKey::new(Kind::Node, "", under.node.as_ref());
                (key, document.status_patch(&current, None))
            }
        };
        let ordinal = under.ordinal;
        self.request(
            under.r,
            move |world| world.patch_as_node(ordinal, &key, &patch),
            move |world, result| match result {
                Ok(written) => {
                    world.wrote_own(&under, &written);
                    world.refresh(under.r, &under.node, &written);
                    world.finish(under, Ok(()));
                }
                Err(409) => match under.attempt.after_conflict() {
                    Some(ask) => world.go_on(under, ask),
                    None => world.finish(under, Err((409, false))),
                },
                Err(404) if under.job.key == OutboxKey::Node => world.register(under),
                Err(code) => world.finish(under, Err((code, code == 404))),
            },
        );
    }

    fn register(&mut self, mut under: Under) {
        let document = NodeDocument::parse(&under.node, &under.job.payload).unwrap();
        let made = document.registration(&under.node, None);
        let key = ObjectKey::new(Kind::Node, "", under.node.as_ref());
        self.request(
            under.r,
            move |world| match world.api.create(Kind::Node, made) {
                Ok(made) => {
                    world.api_changed(&made);
                    Ok(made)
                }
                Err(code) => Err(code),
            },
            move |world, result| match result {
                Ok(made) => {
                    world.wrote_own(&under, &made);
                    world.refresh(under.r, &under.node, &made);
                    world.finish(under, Ok(()));
                }
                Err(409) => world.request(
                    under.r,
                    move |world| world.api.get(&key).cloned().ok_or(404),
                    move |world, read| match read {
                        Ok(found) => {
                            under.current = Some(found.value.clone());
                            let ask = Attempt::first(Some(world.covers(&under, &found.value)));
                            world.go_on(under, ask);
                        }
                        Err(code) => world.finish(under, Err((code, code == 404))),
                    },
                ),
                Err(code) => world.finish(under, Err((code, false))),
            },
        );
    }

    fn delete_pod(&mut self, under: Under, pod: PodIdentity) {
        let key = pod_key(&pod);
        self.request(
            under.r,
            move |world| {
                if !world.api.lives(&key, &pod.uid) {
                    return Err(404);
                }
                let asked = world
                    .api
                    .get(&key)
                    .is_some_and(|pod| !pod.value["metadata"]["deletionTimestamp"].is_null());
                assert!(
                    asked || world.api.restores > 0 || world.laws.rolled_back,
                    "pod {pod} is deleted for its node, and nobody had asked for that"
                );
                world.remove(&key)
            },
            move |world, result| match result {
                Ok(()) | Err(404 | 409) => world.finish(under, Ok(())),
                Err(code) => world.finish(under, Err((code, false))),
            },
        );
    }

    /// A status write by a session.
    fn patch_as_node(&mut self, ordinal: u64, key: &ObjectKey, patch: &Value) -> Result<Arc<Stored>, Code> {
        let before = self.api.get(key).map(|object| object.revision);
        let written = self.api.patch_status(key, patch)?;
        if before != Some(written.revision) {
            self.say(|| format!("API: {key} (uid {}) written by session {ordinal}", written.uid));
            self.laws.wrote(&written, ordinal);
            self.api_changed(&written);
        }
        Ok(written)
    }

    /// The answer to a request is newer than what the watch has told.
    fn refresh(&mut self, r: usize, node: &NodeName, object: &Stored) {
        let index = &mut self.replicas[r].index;
        if object.key.kind == Kind::Pod {
            if let Some(entry) = pod_entry(index, node, object) {
                index.refresh_pod(node, entry);
            }
        } else {
            let held = index
                .node(node.as_ref())
                .map(|entry| entry.object.version.revision.0);
            if held.is_none_or(|held| held < object.revision) {
                put_shared(index, object, false);
            }
        }
    }

    fn covers(&self, under: &Under, state: &Value) -> bool {
        let proof = self.replicas[under.r].leases.get(&under.node);
        proof.is_some_and(|proof| proof.covers(&under.session, state))
    }

    fn wrote_own(&mut self, under: &Under, object: &Stored) {
        if let Some(proof) = self.replicas[under.r].leases.get_mut(&under.node) {
            proof.wrote(&under.session, Revision(object.revision));
        }
    }

    fn go_on(&mut self, under: Under, ask: Ask) {
        if self.reported_half(under.r, under.id, under.stream).is_some() {
            self.ask(under, ask);
        }
    }

    pub(crate) fn finish(&mut self, under: Under, end: End) {
        let now = self.instant();
        let Under {
            r,
            id,
            stream,
            job,
            node,
            ..
        } = under;
        let result = end.map_err(|(code, permanent)| Refusal {
            code: refused(&job.key, permanent, code),
            text: code.to_string(),
        });
        let Replica { index, sessions, .. } = &mut self.replicas[r];
        let half = sessions
            .get_mut(&id)
            .and_then(|session| session.reported.as_mut());
        let Some(half) = half.filter(|half| half.stream == stream) else {
            return;
        };
        let ReportedHalf { desk, .. } = half;
        desk.done(job, result, &|key: &_, payload: &[u8]| {
            shown(index, &node, (key, payload), now)
        });
        self.index_changed(r);
    }
}
