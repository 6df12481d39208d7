//! Everything that a watcher saw of one pod.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::Result;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{WatchEvent, WatchParams},
};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::task::JoinSet;

/// States that pass so quickly that a watcher may miss them.
const FLEETING: [&str; 2] = ["waiting ContainerCreating", "waiting PodInitializing"];
/// The API server ends a watch after this many seconds.
const WATCH: u32 = 290;

/// The versions of the one pod of a namespace; dropping it ends the watch.
pub(crate) struct Trail {
    seen: Arc<Mutex<Seen>>,
    _watch: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    pods: Vec<Value>,
    over: bool,
}

impl Trail {
    /// Watches from now on.
    pub(crate) async fn follow(pods: Api<Pod>) -> Result<Self> {
        let events = pods
            .watch(&WatchParams::default().timeout(WATCH), "0")
            .await?
            .boxed();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut watch = JoinSet::new();
        watch.spawn(take(events, seen.clone()));
        Ok(Self { seen, _watch: watch })
    }

    /// All versions, in order.
    pub(crate) fn pods(&self) -> Vec<Value> {
        self.seen.lock().pods.clone()
    }

    /// The newest version.
    pub(crate) fn last(&self) -> Option<Value> {
        self.seen.lock().pods.last().cloned()
    }

    /// Whether the pod is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.seen.lock().over
    }

    /// The phases, each time that they changed.
    pub(crate) fn phases(&self) -> Vec<String> {
        phases(&self.pods())
    }

    /// How containers waited and ended, whenever that was.
    pub(crate) fn states(&self) -> BTreeSet<String> {
        self.pods().iter().flat_map(states).collect()
    }
}

async fn take(mut events: impl Stream<Item = kube::Result<WatchEvent<Pod>>> + Unpin, seen: Arc<Mutex<Seen>>) {
    while let Some(event) = events.next().await {
        match event {
            Ok(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) => {
                seen.lock()
                    .pods
                    .push(serde_json::to_value(pod).unwrap_or_default());
            }
            Ok(WatchEvent::Deleted(_)) => seen.lock().over = true,
            Ok(WatchEvent::Bookmark(_)) => {}
            Ok(WatchEvent::Error(_)) | Err(_) => return,
        }
    }
}

fn phases(pods: &[Value]) -> Vec<String> {
    let mut phases: Vec<_> = pods
        .iter()
        .map(|pod| pod["status"]["phase"].as_str().unwrap_or("").to_owned())
        .collect();
    phases.dedup();
    phases
}

fn states(pod: &Value) -> Vec<String> {
    let status = &pod["status"];
    let lists = ["initContainerStatuses", "containerStatuses"].map(|list| status[list].as_array());
    let containers = lists.into_iter().flatten().flatten();
    let of = |container: &Value| {
        let name = container["name"].as_str().unwrap_or("").to_owned();
        ["state", "lastState"].map(|key| state(&container[key]).map(|state| format!("{name} {state}")))
    };
    containers.flat_map(of).flatten().collect()
}

/// How a container waits or has ended; running is no news.
fn state(state: &Value) -> Option<String> {
    let word = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let (waiting, ended) = (&state["waiting"], &state["terminated"]);
    let said = if waiting.is_object() {
        format!("waiting {}", word(&waiting["reason"]))
    } else if ended.is_object() {
        format!("ended {} {}", ended["exitCode"], word(&ended["reason"]))
    } else {
        return None;
    };
    (!FLEETING.contains(&said.as_str())).then_some(said)
}

#[cfg(test)]
mod unit {
    use serde_json::json;

    use super::*;

    #[test]
    fn phases_are_told_once_and_quick_states_not_at_all() {
        let pod = |phase: &str, state: Value| json!({ "status": { "phase": phase, "containerStatuses": [{ "name": "a", "state": state }] } });
        let creating = pod("Pending", json!({ "waiting": { "reason": "ContainerCreating" } }));
        let ended = pod(
            "Failed",
            json!({ "terminated": { "exitCode": 3, "reason": "Error" } }),
        );
        assert_eq!(
            phases(&[creating.clone(), creating.clone(), ended.clone()]),
            ["Pending", "Failed"]
        );
        assert!(states(&creating).is_empty());
        assert_eq!(states(&ended), ["a ended 3 Error"]);
    }
}
