//! One node's half of a case: apply, wait, look, delete, look again.

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Event, Namespace, Pod};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams},
};
use serde_json::{Value, json};
use tests::{
    cri_proxy::Recorder,
    machine::Machine,
    wait::{Look, until},
};
use tokio::time::sleep;

use crate::{
    case::{Case, Until},
    cri,
    evidence::Evidence,
    plain::Plain,
    trail::Trail,
};

/// How long a case may take to get where it is wanted.
const PATIENCE: Duration = Duration::from_secs(75);
/// How long a pod may take to go.
const GOING: Duration = Duration::from_secs(75);
/// Events are told by the way, after the status that they belong to: the edge waits up to five seconds for others.
const EVENTS_LAG: Duration = Duration::from_millis(6500);

/// A node, and what is recorded there.
pub(crate) struct Side<'a> {
    /// An administrator's.
    pub(crate) client: Client,
    /// The node.
    pub(crate) machine: &'a Machine,
    /// The calls to its runtime.
    pub(crate) recorder: &'a Recorder,
}

/// Carries a case out on one node, for the first time or once more.
pub(crate) async fn observe(side: &Side<'_>, case: &Case, look: usize) -> Result<Evidence> {
    let run = Run::apply(side, case, look).await;
    let run = run.with_context(|| format!("case {} on {}", case.name, side.machine.name()))?;
    let reached = run.wait().await;
    sleep(case.rest).await;
    let standing = run.trail.last();
    let logs = run.logs()?;
    let before = run.events().await?;
    run.delete().await?;
    sleep(EVENTS_LAG).await;
    let mut events = run.events().await?;
    // Whether a probe meets a container that is just being stopped is chance.
    events.retain(|event, _| before.contains_key(event) || !event.contains(" Unhealthy "));
    let mut plain = Plain::new(side.machine.name(), &run.namespace, &run.trail.pods());
    plain.call(&run.services, "SERVICE_IP");
    Ok(Evidence {
        reached: plain.text(&reached),
        unsupported: unsupported(&events),
        phases: run.trail.phases(),
        states: run.trail.states(),
        tree: plain.value(json!({
            "status": standing.as_ref().map(status),
            "at its end": run.trail.last().as_ref().map(status),
            "events": events,
            "cri": cri::tree(side.recorder, &run.uid),
            "printed": logs,
        })),
    })
}

/// A pod that is under way.
struct Run<'a> {
    side: &'a Side<'a>,
    case: &'a Case,
    namespace: String,
    name: String,
    uid: String,
    /// The addresses of the case's Services.
    services: Vec<String>,
    trail: Trail,
}

impl<'a> Run<'a> {
    async fn apply(side: &'a Side<'a>, case: &'a Case, look: usize) -> Result<Self> {
        let node = side.machine.name();
        let namespace = match look {
            1 => format!("{}-{node}", case.name),
            again => format!("{}-{node}-{again}", case.name),
        };
        let spaces: Api<Namespace> = Api::all(side.client.clone());
        let space = json!({ "metadata": { "name": namespace } });
        spaces
            .create(&PostParams::default(), &serde_json::from_value(space)?)
            .await?;
        let mut services = Vec::new();
        for object in &case.objects {
            services.extend(create(&side.client, &namespace, object.clone()).await?);
        }
        let trail = Trail::follow(Api::namespaced(side.client.clone(), &namespace)).await?;
        let pod: Pod = serde_json::from_value(case.pod_on(node))?;
        let pods: Api<Pod> = Api::namespaced(side.client.clone(), &namespace);
        // Refused until the namespace has its service account.
        let attempt = || async {
            pods.create(&PostParams::default(), &pod)
                .await
                .map(Look::Done)
                .map_err(Into::into)
        };
        let made = until("the pod accepted", Duration::from_secs(20), attempt).await?;
        Ok(Self {
            side,
            case,
            namespace,
            name: made.metadata.name.unwrap_or_default(),
            uid: made.metadata.uid.unwrap_or_default(),
            services,
            trail,
        })
    }

    /// Waits until the pod is where the case wants it; what is in the way otherwise.
    async fn wait(&self) -> String {
        let look = || async {
            let Some(pod) = self.trail.last() else {
                return Ok(Look::NotYet(String::from("no pod")));
            };
            let pod = serde_json::to_value(&pod["status"])?;
            let done = self.is_there(&pod).await? || waits_for(&pod, "UnsupportedPodFeature");
            Ok(Look::when(done, || pod.to_string()))
        };
        let waited = until(&format!("{:?}", self.case.until), PATIENCE, look).await;
        waited.map_or_else(|_| format!("not within {PATIENCE:?}"), |()| String::from("yes"))
    }

    async fn is_there(&self, status: &Value) -> Result<bool> {
        let phase = status["phase"].as_str().unwrap_or_default();
        Ok(match &self.case.until {
            Until::Ended => matches!(phase, "Succeeded" | "Failed") && !has_sandbox(status),
            Until::Running => phase == "Running",
            Until::Ready => is_true(status, "Ready"),
            Until::Waiting(reason) => waits_for(status, reason),
            Until::Restarts(count) => containers(status).any(|container| {
                let again = container["restartCount"].as_i64() >= Some(i64::from(*count));
                again && container["state"]["waiting"].is_null()
            }),
            Until::Event(reason) => self
                .events()
                .await?
                .keys()
                .any(|event| event.contains(&format!(" {reason} "))),
        })
    }

    async fn delete(&self) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.side.client.clone(), &self.namespace);
        pods.delete(&self.name, &DeleteParams::default()).await?;
        let gone = || async {
            Ok(Look::when(self.trail.is_over(), || {
                format!("{:?}", self.trail.phases())
            }))
        };
        until("the pod gone", GOING, gone).await
    }

    /// The pod's events, each a line; how often each was told does not count.
    async fn events(&self) -> Result<serde_json::Map<String, Value>> {
        let events: Api<Event> = Api::namespaced(self.side.client.clone(), &self.namespace);
        let mine = events
            .list(&ListParams::default().fields("involvedObject.kind=Pod"))
            .await?;
        let line = |event: &Event| {
            format!(
                "{} {} {} ({}): {}",
                event.type_.as_deref().unwrap_or(""),
                event.reason.as_deref().unwrap_or(""),
                event.involved_object.field_path.as_deref().unwrap_or("pod"),
                event
                    .source
                    .as_ref()
                    .and_then(|source| source.component.as_deref())
                    .unwrap_or(""),
                event.message.as_deref().unwrap_or(""),
            )
        };
        let lines: BTreeSet<_> = mine.items.iter().map(line).collect();
        Ok(lines.into_iter().map(|line| (line, json!("told"))).collect())
    }

    /// What the containers printed, by `container/attempt`.
    fn logs(&self) -> Result<Value> {
        let dir = self.side.machine.file("/var/log/pods");
        let dir = dir.join(format!("{}_{}_{}", self.namespace, self.name, self.uid));
        let mut logs = serde_json::Map::new();
        for container in fs::read_dir(&dir).into_iter().flatten().flatten() {
            for file in fs::read_dir(container.path())?.flatten() {
                let attempt = file
                    .path()
                    .file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                let key = format!("{}/{attempt}", container.file_name().to_string_lossy());
                logs.insert(key, json!(lines(&fs::read_to_string(file.path())?)));
            }
        }
        Ok(logs.into())
    }
}

/// The text of a runtime's log file, whose lines begin with a time, a stream and a tag. The runtime reads
/// the two streams by themselves, so that the order counts within each alone.
fn lines(log: &str) -> Vec<String> {
    let text = |line: &str| line.splitn(4, ' ').skip(1).collect::<Vec<_>>().join(" ");
    let mut lines: Vec<String> = log.lines().map(text).collect();
    lines.sort_by(|a, b| a.split(' ').next().cmp(&b.split(' ').next()));
    lines
}

/// A pod's status, with generations told by how far they are behind the pod's own: cloudcore's change of
/// an edge pod's tolerations is one generation more.
fn status(pod: &Value) -> Value {
    let mut status = pod["status"].clone();
    let newest = pod["metadata"]["generation"].as_i64().unwrap_or(0);
    for condition in items(&mut status, "conditions") {
        behind(condition, newest);
    }
    for list in ["initContainerStatuses", "containerStatuses"] {
        items(&mut status, list).for_each(crash_loop);
    }
    behind(&mut status, newest);
    status
}

fn items<'a>(object: &'a mut Value, list: &str) -> impl Iterator<Item = &'a mut Value> {
    object
        .get_mut(list)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

/// Between two starts a container shows its end as its state, or as its last state while it waits: which of
/// the two depends on when the agent looked last. That it waited at all is told by the trail.
fn crash_loop(container: &mut Value) {
    let waits = container["state"]["waiting"]["reason"] == "CrashLoopBackOff";
    let ended = container["state"]["terminated"].is_object() && container["restartCount"] != 0;
    if waits {
        container["state"] = container["lastState"].take();
    }
    if waits || ended {
        container["lastState"] = Value::Null;
    }
}

fn behind(object: &mut Value, newest: i64) {
    let Some(seen) = object["observedGeneration"].as_i64() else {
        return;
    };
    object["observedGeneration"] = json!(format!("{} behind", newest - seen));
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn is_true(status: &Value, condition: &str) -> bool {
    each(&status["conditions"]).any(|one| one["type"] == condition && one["status"] == "True")
}

/// Both agents stop the sandbox of a pod that has ended; which of them is told earlier is chance.
fn has_sandbox(status: &Value) -> bool {
    is_true(status, "PodReadyToStartContainers")
}

fn containers(status: &Value) -> impl Iterator<Item = &Value> {
    each(&status["initContainerStatuses"]).chain(each(&status["containerStatuses"]))
}

fn waits_for(status: &Value, reason: &str) -> bool {
    containers(status).any(|container| container["state"]["waiting"]["reason"] == reason)
}

/// What an edge node says of a pod that it does not run for want of a feature.
fn unsupported(events: &serde_json::Map<String, Value>) -> Option<String> {
    let event = events
        .keys()
        .find(|event| event.contains("UnsupportedPodFeature"))?;
    event.split_once("): ").map(|(_, message)| message.to_owned())
}

/// Makes an object; gives back its address in the cluster when it gets one.
async fn create(client: &Client, namespace: &str, object: Value) -> Result<Option<String>> {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    let resource = ApiResource {
        group: String::new(),
        version: "v1".into(),
        api_version: "v1".into(),
        plural: format!("{}s", kind.to_lowercase()),
        kind,
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let made = api
        .create(&PostParams::default(), &serde_json::from_value(object)?)
        .await?;
    Ok(made.data["spec"]["clusterIP"].as_str().map(str::to_owned))
}
