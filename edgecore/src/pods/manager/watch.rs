//! Seeing what the runtime holds: the list, and the events between two lists.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_cri::v1 as api;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::pods::sandbox_config::{POD_NAME, POD_NAMESPACE, POD_UID};
use crate::runtime::{Events, Labels, Remedy, Runtime, RuntimeError};

/// How long after a broken stream it is asked for again.
const AGAIN: Duration = Duration::from_secs(5);

/// A pod as a list shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) namespace: String,
    pub(super) name: String,
    /// (id, state) of every sandbox and container, sorted.
    states: Vec<(String, i32)>,
    /// Something of it may run.
    pub(super) alive: bool,
}

/// What the event stream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// Events come.
    Flowing,
    /// Events have stopped coming.
    Broken,
    /// Something changed in the pod with this UID.
    Changed(String),
}

/// Lists everything that carries a pod's UID, by UID.
pub(super) async fn see(runtime: &dyn Runtime) -> Result<BTreeMap<String, Seen>, RuntimeError> {
    let all = Labels::new;
    let (sandboxes, containers) =
        tokio::try_join!(runtime.list_sandboxes(all()), runtime.list_containers(all()))?;
    let mut seen = BTreeMap::new();
    for sandbox in sandboxes {
        let dead = sandbox.state == api::PodSandboxState::SandboxNotready as i32;
        note(&mut seen, &sandbox.labels, (sandbox.id, sandbox.state), dead);
    }
    for container in containers {
        let dead = container.state == api::ContainerState::ContainerExited as i32;
        note(
            &mut seen,
            &container.labels,
            (container.id, container.state),
            dead,
        );
    }
    for pod in seen.values_mut() {
        pod.states.sort();
    }
    Ok(seen)
}

/// What carries no UID belongs to somebody else.
fn note(seen: &mut BTreeMap<String, Seen>, labels: &Labels, state: (String, i32), dead: bool) {
    let Some(uid) = labels.get(POD_UID) else { return };
    let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
    let pod = seen.entry(uid.clone()).or_insert_with(|| Seen {
        namespace: label(POD_NAMESPACE),
        name: label(POD_NAME),
        ..Seen::default()
    });
    pod.alive |= !dead;
    pod.states.push(state);
}

/// The UIDs that two lists show differently.
pub(super) fn changed(before: &BTreeMap<String, Seen>, now: &BTreeMap<String, Seen>) -> Vec<String> {
    let differs = |uid: &&String| before.get(*uid) != now.get(*uid);
    let gone = before.keys().filter(|uid| !now.contains_key(*uid));
    now.keys().filter(differs).chain(gone).cloned().collect()
}

/// Follows the runtime's events for as long as somebody listens. A runtime without events is left alone.
pub(super) async fn follow(runtime: Arc<dyn Runtime>, notices: mpsc::Sender<Notice>) {
    loop {
        match runtime.events().await {
            Ok(events) => {
                if notices.send(Notice::Flowing).await.is_err() || !pass_on(events, &notices).await {
                    return;
                }
            }
            Err(error) if error.remedy() == Remedy::DoWithout => {
                info!("the runtime has no event stream; it is listed every second");
                return;
            }
            Err(error) => warn!(%error, "the runtime's events cannot be had"),
        }
        if notices.send(Notice::Broken).await.is_err() {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// False when nobody listens any more.
async fn pass_on(mut events: Events, notices: &mpsc::Sender<Notice>) -> bool {
    while let Some(Ok(event)) = events.next().await {
        if let Some(uid) = uid_of(&event)
            && notices.send(Notice::Changed(uid)).await.is_err()
        {
            return false;
        }
    }
    true
}

fn uid_of(event: &api::ContainerEventResponse) -> Option<String> {
    let sandbox = event.pod_sandbox_status.as_ref()?;
    Some(sandbox.metadata.as_ref()?.uid.clone())
}
