//! Pods that are not sent to their nodes: whoever made one reads why in its events.
//!
//! What it is: a short list of what is to be said, and its writing. What it is not: the judgement (`seen`, and the
//! desired flow's publisher).
//!
//! **Invariant:** of one pod no more than one Event in [`AGAIN`] is written, however often it changes, and one
//! after the other; what is too much is in the log alone.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use protocol::name::NodeName;
use protocol::object::ObjectKey;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::Cluster;
use super::api::{Actor, Call};

/// ConfigMaps and Secrets that one pod may name: each is a watch of its own at the API server.
pub(super) const MAX_REFERENCES: usize = 512;

/// ConfigMaps and Secrets that all pods of one node may name together: a device that is taken over cannot make its
/// pods, but whoever makes pods could have a replica hold a thousand times what one may name. 110 pods with 18 of their
/// own each, or 23 connections to the API server.
pub(super) const MAX_OF_NODE: usize = 2_048;

/// Between two Events of one pod: they are kept for an hour.
const AGAIN: Duration = Duration::from_mins(30);

/// Pods of which it is known what was said.
const MAX_SAID: usize = 1_024;

/// Between two writes.
const GAP: Duration = Duration::from_millis(100);

/// Why a pod is not sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unsent {
    /// It names so many ConfigMaps and Secrets.
    References(usize),
    /// With what it and those that wait before it name its node's pods would name too many: there is no room for it yet.
    Room,
    /// With what it names it does not fit one closure.
    Closure,
}

impl Unsent {
    const fn reason(self) -> &'static str {
        match self {
            Self::References(_) => "TooManyReferences",
            Self::Room => "TooManyReferencesOfNode",
            Self::Closure => "TooLarge",
        }
    }

    fn text(self, node: &NodeName) -> String {
        let what = match self {
            Self::References(names) => format!(
                "it names {names} ConfigMaps and Secrets, and a pod of an edge node may name {MAX_REFERENCES}"
            ),
            Self::Room => format!(
                "with what it and those that wait before it name, the pods of this node would name more than \
                 {MAX_OF_NODE} ConfigMaps and Secrets"
            ),
            Self::Closure => {
                "with the ConfigMaps and Secrets that it names it is more than 64 MiB (compressed), or than 4096 objects"
                    .to_owned()
            }
        };
        let remedy = match self {
            Self::References(_) => instead("put more into each of them"),
            Self::Closure => instead("name fewer or smaller ones"),
            Self::Room => {
                "It is sent when others have gone and its turn has come: put more into each of them, or have fewer such pods on this node"
                    .to_owned()
            }
        };
        format!("Not sent to node {node}, where what there is of it stays as it is: {what}. {remedy}")
    }
}

/// What to do about a pod that is never sent.
fn instead(remedy: &str) -> String {
    format!(
        "In what the pod is made from {remedy}, and delete this pod: it goes when the node is connected, and with \
         --force where the node has had it"
    )
}

/// What is to be written.
#[derive(Debug)]
struct Said {
    node: NodeName,
    pod: ObjectKey,
    uid: String,
    why: Unsent,
}

impl Said {
    fn event(&self, now: &str) -> Call {
        let namespace = &self.pod.namespace;
        let event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": { "namespace": namespace, "generateName": "unsent." },
            "involvedObject": { "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": self.pod.name,
                "uid": self.uid },
            "type": "Warning",
            "reason": self.why.reason(),
            "message": self.why.text(&self.node),
            "source": { "component": "cloudcore" },
            "reportingComponent": "cloudcore",
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
        });
        Call::post(
            format!("/api/v1/namespaces/{namespace}/events"),
            Value::to_string(&event).into_bytes(),
        )
    }
}

/// What was said of whom, by uid, and what waits to be written.
#[derive(Debug, Default)]
struct Book {
    said: HashMap<String, Instant>,
    waiting: Vec<Said>,
}

impl Book {
    /// Whether it is news.
    fn say(&mut self, said: Said, now: Instant) -> bool {
        self.said.retain(|_, at| now < *at + AGAIN);
        if self.said.contains_key(&said.uid) {
            return false;
        }
        // What waits has a place in what was said, so that both are bounded.
        if self.said.len() < MAX_SAID {
            self.said.insert(said.uid.clone(), now);
            self.waiting.push(said);
        }
        true
    }
}

/// Says of pods that they are not sent.
#[derive(Debug, Default)]
pub(super) struct UnsentPods {
    book: Mutex<Book>,
    bell: Notify,
}

impl Cluster {
    /// A pod is not sent to its node: its event says so, and the log.
    pub(super) fn say_unsent(&self, node: &NodeName, pod: &ObjectKey, uid: &str, why: Unsent) {
        let said = Said {
            node: node.clone(),
            pod: pod.clone(),
            uid: uid.to_owned(),
            why,
        };
        let unsent = &self.inner.unsent;
        if unsent.book.lock().say(said, Instant::now()) {
            warn!(%pod, "{}", why.text(node));
            unsent.bell.notify_one();
        }
    }

    /// The same of a pod that its node has no room for.
    pub(super) fn say_if_no_room(&self, node: &NodeName, pod: &ObjectKey) {
        let uid = {
            let index = self.inner.index.read();
            let held = index.pod(node, pod).filter(|_| index.has_no_room(node, pod));
            held.map(|entry| entry.object.version.uid.clone())
        };
        if let Some(uid) = uid {
            self.say_unsent(node, pod, &uid, Unsent::Room);
        }
    }

    /// The same of a pod that with all that it names is too large for the link.
    pub fn say_too_large(&self, node: &NodeName, pod: &ObjectKey) {
        let uid = {
            let index = self.inner.index.read();
            index.pod(node, pod).map(|entry| entry.object.version.uid.clone())
        };
        if let Some(uid) = uid {
            self.say_unsent(node, pod, &uid, Unsent::Closure);
        }
    }

    /// Writes what was said, for ever.
    pub(super) async fn write_unsent(&self) {
        let unsent = &self.inner.unsent;
        loop {
            let next = unsent.book.lock().waiting.pop();
            let Some(said) = next else {
                unsent.bell.notified().await;
                continue;
            };
            let now = Timestamp::try_from(self.clock().now()).unwrap_or_default();
            let call = said.event(&now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
            if let Err(error) = self.api().call(Actor::Cloudcore, call).await {
                debug!(pod = %said.pod, error = &error as &dyn std::error::Error, "an event was not written");
                unsent.book.lock().said.remove(&said.uid);
            }
            sleep(GAP).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{Method, StatusCode};
    use protocol::desired::{AbsentReason, Found, View};
    use protocol::object::{Kind, Revision};
    use tokio::time::timeout;

    use super::*;
    use crate::cluster::testing::cluster;

    fn pod(names: usize, revision: u64) -> String {
        pod_named("web", names, revision)
    }

    fn pod_named(pod: &str, names: usize, revision: u64) -> String {
        let volume = |index| json!({ "configMap": { "name": format!("{pod}{index}"), "optional": true } });
        let volumes: Vec<Value> = (0..names).map(volume).collect();
        let metadata =
            json!({ "name": pod, "namespace": "shop", "uid": "u", "resourceVersion": revision.to_string() });
        json!({ "metadata": metadata, "spec": { "nodeName": "e1", "volumes": volumes } }).to_string()
    }

    /// A cluster, and the events that are written to it.
    fn with_events() -> (Cluster, Arc<Mutex<Vec<Value>>>) {
        let events = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&events);
        let cluster = cluster(move |asked| {
            if asked.is(&Method::POST, "/api/v1/namespaces/shop/events") {
                seen.lock().push(asked.body);
            }
            (StatusCode::CREATED, json!({}))
        });
        (cluster, events)
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_names_too_much_is_not_sent_costs_no_watch_and_has_one_event_that_says_so() {
        let (cluster, events) = with_events();
        let node: NodeName = "e1".parse().unwrap();
        let _session = cluster.subscribe(&node);
        let (view, key) = (cluster.view(&node), ObjectKey::new(Kind::Pod, "shop", "web"));
        for revision in [5, 6] {
            cluster.saw_pod(&key, pod(MAX_REFERENCES + 1, revision).as_bytes());
        }
        assert!(matches!(view.find(&key), Found::Absent(AbsentReason::TooLarge)));
        assert!(view.closure(&key).is_empty() && view.keys(Kind::ConfigMap).is_empty());
        let _: Result<(), _> = timeout(AGAIN / 2, cluster.write_unsent()).await;
        let event = {
            let events = events.lock();
            assert_eq!(events.len(), 1, "{events:?}");
            events[0].clone()
        };
        assert_eq!(event["involvedObject"]["uid"], "u");
        let message = event["message"].as_str().unwrap();
        assert!(
            message.contains("513") && message.contains("--force"),
            "{message}"
        );

        cluster.saw_pod(&key, pod(MAX_REFERENCES, 7).as_bytes());
        assert!(matches!(view.find(&key), Found::Object(_)));
        assert_eq!(view.closure(&key).len(), MAX_REFERENCES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_its_node_has_no_room_for_is_not_sent_and_its_event_says_what_it_waits_for() {
        let (cluster, events) = with_events();
        let node: NodeName = "e1".parse().unwrap();
        let _session = cluster.subscribe(&node);
        let view = cluster.view(&node);
        let key = |pod: usize| ObjectKey::new(Kind::Pod, "shop", format!("p{pod}"));
        let last = MAX_OF_NODE / MAX_REFERENCES;
        for number in 0..=last {
            let pod = pod_named(&key(number).name, MAX_REFERENCES, 5 + number as u64);
            cluster.saw_pod(&key(number), pod.as_bytes());
        }
        assert_eq!(view.keys(Kind::ConfigMap).len(), MAX_OF_NODE);
        assert!(matches!(
            view.find(&key(last)),
            Found::Absent(AbsentReason::TooLarge)
        ));
        let _: Result<(), _> = timeout(AGAIN / 2, cluster.write_unsent()).await;
        let event = {
            let events = events.lock();
            assert_eq!(events.len(), 1, "{events:?}");
            events[0].clone()
        };
        assert_eq!(event["involvedObject"]["name"], key(last).name);
        let message = event["message"].as_str().unwrap();
        assert!(
            message.contains("more than 2048") && message.contains("when others have gone"),
            "{message}"
        );

        let gone = pod_named("p0", MAX_REFERENCES, 99);
        cluster.lost_pod(&key(0), Revision(99), gone.as_bytes());
        assert!(matches!(view.find(&key(last)), Found::Object(_)));
    }
}
