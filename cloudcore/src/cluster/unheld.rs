//! Pods that were deleted, and that their node has never had: nobody there would say that they are gone.
//!
//! What it is: the last delete of pods that are not sent, in the node's name. What it is not: the judgement that the
//! node does not hold a pod; that is the desired flow's, by the node's own inventory.
//!
//! A pod is removed only when all of this is so, and otherwise stays until `--force`: the node, connected, has said what
//! it holds and the pod is not in it; no node has ever reported anything of it; it is being deleted; and the session
//! still has the node's Lease. That it has changed meanwhile, or is another one, the API server itself sees.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use protocol::object::{Object, ObjectKey, Revision};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::{debug, info};

use super::Cluster;
use super::document::pod_as_cached;
use super::lease::Holder;
use super::pods::PodRef;
use super::write::WriteError;

/// Pods that wait for it: what is too much is looked at again when its node connects again.
const MAX_WAITING: usize = 1_024;

/// Pods of which it is known that they were removed: of each the watch may still tell.
const MAX_REMOVED: usize = 1_024;

/// Before the next, after the API server did not do it.
const PAUSE: Duration = Duration::from_secs(5);

/// So often it is tried again.
const TRIES: u8 = 100;

/// One that is to go.
#[derive(Clone, Debug)]
struct Leaving {
    by: Holder,
    pod: PodRef,
    /// As which it was judged.
    revision: Revision,
    tries: u8,
}

/// Those that wait to be removed.
#[derive(Debug, Default)]
pub(super) struct UnheldPods {
    waiting: Mutex<VecDeque<Leaving>>,
    /// The uids of those that were removed last.
    removed: Mutex<VecDeque<String>>,
    bell: Notify,
}

impl UnheldPods {
    /// It was judged now, whatever was before. The API server tells of a pod once more while it removes it.
    fn put(&self, leaving: Leaving) {
        if self.removed.lock().contains(&leaving.pod.uid) {
            return;
        }
        let mut waiting = self.waiting.lock();
        waiting.retain(|other| other.pod != leaving.pod);
        if waiting.len() < MAX_WAITING {
            waiting.push_back(leaving);
            drop(waiting);
            self.bell.notify_one();
        }
    }

    /// It is gone, or goes when its finalizers have; what was judged of it meanwhile is old.
    fn remove(&self, pod: &PodRef) {
        let mut removed = self.removed.lock();
        if removed.len() == MAX_REMOVED {
            removed.pop_front();
        }
        removed.push_back(pod.uid.clone());
        self.waiting.lock().retain(|other| other.pod != *pod);
    }

    /// It was tried, and waits once more, unless it was judged anew meanwhile.
    fn put_back(&self, leaving: Leaving) {
        let mut waiting = self.waiting.lock();
        if leaving.tries < TRIES && waiting.iter().all(|other| other.pod != leaving.pod) {
            let tries = leaving.tries + 1;
            waiting.push_back(Leaving { tries, ..leaving });
        }
    }
}

impl Cluster {
    /// The node of this session does not hold the pod, which is not sent: if it was deleted it may go.
    pub fn end_if_deleted(&self, by: &Holder, key: &ObjectKey) {
        let object = {
            let index = self.inner.index.read();
            index.pod(&by.node, key).map(|entry| entry.object.clone())
        };
        let Some(object) = object.filter(|pod| was_deleted_unseen(pod)) else {
            return;
        };
        let pod = PodRef {
            node: by.node.clone(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: object.version.uid.clone(),
        };
        self.inner.unheld.put(Leaving {
            by: by.clone(),
            pod,
            revision: object.version.revision,
            tries: 0,
        });
    }

    /// Removes them, for ever.
    pub(super) async fn remove_unheld(&self) {
        let unheld = &self.inner.unheld;
        loop {
            let next = unheld.waiting.lock().pop_front();
            let Some(leaving) = next else {
                unheld.bell.notified().await;
                continue;
            };
            let Leaving {
                by, pod, revision, ..
            } = &leaving;
            match self.remove_now(by, pod, *revision).await {
                Ok(()) => {
                    unheld.remove(pod);
                    info!(?pod, "removed a deleted pod that its node has never had");
                }
                Err(error) => {
                    debug!(?pod, error = &error as &dyn std::error::Error, "not removed");
                    if may_work_later(&error) {
                        unheld.put_back(leaving);
                        sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    async fn remove_now(&self, by: &Holder, pod: &PodRef, revision: Revision) -> Result<(), WriteError> {
        self.still_ours(by).await?;
        self.delete_pod_as_seen(pod, revision).await
    }
}

/// Whether a pod is being deleted and no node has ever said anything of it.
fn was_deleted_unseen(pod: &Object) -> bool {
    let body = pod.body.json().ok();
    let body: Option<Value> = body.and_then(|json| serde_json::from_slice(&json).ok());
    let (Some(body), Some(cached)) = (body, pod_as_cached(pod)) else {
        return false;
    };
    let status = &cached["status"];
    let statuses = [
        "containerStatuses",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ];
    let is_none = |field| status[field].as_array().is_none_or(Vec::is_empty);
    body["metadata"]["deletionTimestamp"].is_string()
        && matches!(status["phase"].as_str(), None | Some("Pending"))
        && status["startTime"].is_null()
        && statuses.into_iter().all(is_none)
}

/// Whether another try may help: a pod that has changed is judged anew, and a session that is over is another's.
const fn may_work_later(error: &WriteError) -> bool {
    matches!(error.code(), 429 | 500..)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{Method, StatusCode};
    use protocol::name::NodeName;
    use protocol::object::Kind;
    use serde_json::json;
    use tokio::time::timeout;

    use super::*;
    use crate::cluster::testing::cluster;

    /// What the API server is asked to delete of a pod that is not held, when the Lease is this session's.
    async fn deleted(deletion: Value, status: Value, lease: &'static str, failures: usize) -> Vec<Value> {
        let asked_for = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked_for);
        let cluster = cluster(move |asked| match asked.head.method {
            Method::DELETE => {
                assert_eq!(asked.head.uri.path(), "/api/v1/namespaces/shop/pods/web");
                let mut seen = seen.lock();
                seen.push(asked.body);
                if seen.len() <= failures {
                    return (StatusCode::SERVICE_UNAVAILABLE, json!({ "code": 503 }));
                }
                (StatusCode::OK, json!({}))
            }
            _ if asked.head.uri.path().contains("/leases/") => {
                let session = json!({ "tombolo.dev/session": lease });
                (StatusCode::OK, json!({ "metadata": { "annotations": session } }))
            }
            _ => (StatusCode::NOT_FOUND, json!({ "code": 404 })),
        });
        let node: NodeName = "e1".parse().unwrap();
        let _session = cluster.subscribe(&node);
        let key = ObjectKey::new(Kind::Pod, "shop", "web");
        let metadata =
            json!({ "name": "web", "namespace": "shop", "uid": "u", "deletionTimestamp": deletion });
        let mut pod = json!({ "metadata": metadata, "spec": { "nodeName": "e1" }, "status": status });
        let holder = Holder {
            node,
            session: "one".to_owned(),
        };
        // The second time as the API server tells of it while it removes it.
        for revision in ["7", "8"] {
            pod["metadata"]["resourceVersion"] = revision.into();
            cluster.saw_pod(&key, pod.to_string().as_bytes());
            cluster.end_if_deleted(&holder, &key);
            let _: Result<(), _> = timeout(10 * PAUSE, cluster.remove_unheld()).await;
        }
        let asked_for = asked_for.lock();
        asked_for.clone()
    }

    fn now() -> Value {
        json!("2026-01-01T00:00:00Z")
    }

    #[tokio::test(start_paused = true)]
    async fn a_deleted_pod_that_its_node_never_had_is_removed_as_it_was_judged() {
        let pending =
            json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "True" }] });
        let asked = deleted(now(), pending, "one", 0).await;
        assert_eq!(asked.len(), 1, "{asked:?}");
        assert_eq!(asked[0]["gracePeriodSeconds"], 0);
        assert_eq!(
            asked[0]["preconditions"],
            json!({ "uid": "u", "resourceVersion": "7" })
        );
        assert_eq!(
            deleted(now(), json!({}), "one", 2).await.len(),
            3,
            "until it works"
        );
    }

    #[test]
    fn what_is_told_of_a_pod_while_it_is_removed_removes_it_no_second_time() {
        let leaving = |uid: &str, revision| Leaving {
            by: Holder {
                node: "e1".parse().unwrap(),
                session: "one".to_owned(),
            },
            pod: PodRef {
                node: "e1".parse().unwrap(),
                namespace: "shop".to_owned(),
                name: "web".to_owned(),
                uid: uid.to_owned(),
            },
            revision: Revision(revision),
            tries: 0,
        };
        let unheld = UnheldPods::default();
        let waits = || unheld.waiting.lock().len();
        unheld.put(leaving("u", 7));
        let under_way = unheld.waiting.lock().pop_front().unwrap();
        unheld.put(leaving("u", 8));
        unheld.remove(&under_way.pod);
        assert_eq!(waits(), 0, "before the answer");
        unheld.put(leaving("u", 9));
        assert_eq!(waits(), 0, "after it");
        unheld.put(leaving("v", 10));
        assert_eq!(waits(), 1, "the next pod of that name");
        for number in 0..=MAX_REMOVED {
            unheld.remove(&leaving(&number.to_string(), 1).pod);
        }
        assert_eq!(unheld.removed.lock().len(), MAX_REMOVED);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_a_node_may_have_had_or_that_is_wanted_or_another_session_s_stays() {
        let none: Vec<Value> = Vec::new();
        let pending = || json!({ "phase": "Pending" });
        assert_eq!(deleted(Value::Null, pending(), "one", 0).await, none);
        assert_eq!(deleted(now(), pending(), "two", 0).await, none);
        for status in [
            json!({ "phase": "Running" }),
            json!({ "phase": "Pending", "startTime": "2026-01-01T00:00:00Z" }),
            json!({ "phase": "Pending", "containerStatuses": [{ "name": "c" }] }),
            json!({ "phase": "Pending", "initContainerStatuses": [{ "name": "c" }] }),
        ] {
            assert_eq!(deleted(now(), status, "one", 0).await, none);
        }
    }
}
