//! Keeps the pods of a cut node where they are.
//!
//! What it is: one patch per pod bound to a node that keeps its pods, which removes the limit from
//! the two tolerations that every pod is given at admission. What it is not: a controller of
//! tolerations that somebody chose; those are left alone.
//!
//! Adding a toleration would do nothing: of several that match a taint the first one counts, and
//! the limited ones are there first. A limit may be removed from a bound pod; nothing else may.
//!
//! A limit counts from when its node is cut off, so removing it has no hurry: a new pod's is left until
//! the pod has most likely been started, for each patch costs the API server and the device as much as a
//! status does, and many pods start at once.
//!
//! **Invariant:** a patch tests every byte that it rests on, so it can only ever remove a limit
//! that still equals the admission default.

mod queue;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::cluster::{Actor, Api, Call, Content, PodObserver};
use crate::gcra::{Rate, Rates};

use self::queue::Queue;

/// The taints of a node that is cut off, and what admission lets every pod tolerate of them.
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
/// Replicas spread out over this long, so that mostly one patches and the others see it done.
const SPREAD: Duration = Duration::from_secs(2);
/// How long a patch is put off: this share of the limit that it removes, and no longer than [`CALM_MOST`].
const CALM_SHARE: u32 = 15;
const CALM_MOST: Duration = Duration::from_secs(20);
/// After a refusal; doubles to [`RETRY_MOST`], so that a right that is missing costs little.
const RETRY: Duration = Duration::from_secs(5);
const RETRY_MOST: Duration = Duration::from_mins(5);
/// Patches under way at once: many are due together when a replica starts, and one may wait for its answer long.
const TOGETHER: usize = 8;
/// How often the log names a pod whose limit stays: what refuses one most often refuses them all.
const WARNINGS: Rate = Rate {
    every: Duration::from_secs(6),
    burst: 10,
};

/// What has to be done to one pod. Pure: [`Autonomy::run`] does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    path: String,
    operations: Value,
}

/// Decides what has to be done to a pod, given as the API server's JSON: nothing when no
/// toleration has the default limit, or when the pod is already going.
pub fn decide(pod: &[u8], default_seconds: i64) -> Option<Patch> {
    let pod: Pod<'_> = serde_json::from_slice(pod).ok()?;
    if pod.metadata.deletion_timestamp.is_some() || matches!(pod.status.phase, "Succeeded" | "Failed") {
        return None;
    }
    let limited = |toleration: &Toleration| toleration.is_default(default_seconds);
    let tolerations = pod.spec.tolerations.unwrap_or_default();
    let found: Vec<usize> = (0..tolerations.len())
        .filter(|at| limited(&tolerations[*at]))
        .collect();
    if found.is_empty() {
        return None;
    }
    let uid = json!({ "op": "test", "path": "/metadata/uid", "value": pod.metadata.uid });
    let steps = found.into_iter().flat_map(|at| tolerations[at].without_limit(at));
    let operations = std::iter::once(uid).chain(steps).collect();
    let Meta { namespace, name, .. } = pod.metadata;
    Some(Patch {
        path: format!("/api/v1/namespaces/{namespace}/pods/{name}"),
        operations,
    })
}

#[derive(Deserialize)]
struct Pod<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    spec: Spec,
    #[serde(borrow, default)]
    status: Status<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta<'a> {
    name: &'a str,
    namespace: &'a str,
    uid: &'a str,
    deletion_timestamp: Option<&'a str>,
}

#[derive(Deserialize)]
struct Spec {
    tolerations: Option<Vec<Toleration>>,
}

#[derive(Default, Deserialize)]
struct Status<'a> {
    #[serde(default)]
    phase: &'a str,
}

#[derive(Deserialize)]
struct Toleration {
    #[serde(default)]
    key: String,
    #[serde(default)]
    operator: String,
    #[serde(default)]
    effect: String,
    #[serde(rename = "tolerationSeconds")]
    limit: Option<i64>,
}

impl Toleration {
    fn is_default(&self, seconds: i64) -> bool {
        TAINTS.contains(&self.key.as_str())
            && self.operator == "Exists"
            && self.effect == "NoExecute"
            && self.limit == Some(seconds)
    }

    /// Removes the limit, if the toleration at that place still is this one.
    fn without_limit(&self, at: usize) -> [Value; 3] {
        let here = format!("/spec/tolerations/{at}");
        [
            json!({ "op": "test", "path": format!("{here}/key"), "value": self.key }),
            json!({ "op": "test", "path": format!("{here}/tolerationSeconds"), "value": self.limit }),
            json!({ "op": "remove", "path": format!("{here}/tolerationSeconds") }),
        ]
    }
}

/// The pods that wait for their patch.
pub struct Autonomy {
    default_seconds: i64,
    waiting: Mutex<Queue<PodName, Waiting>>,
    bell: Notify,
    warned: Rates<()>,
}

/// Namespace and name.
type PodName = (String, String);

struct Waiting {
    patch: Patch,
    /// How often it has been refused.
    refused: u32,
}

impl Autonomy {
    /// Removes limits that equal the admission default.
    pub fn new(default_seconds: i64) -> Arc<Self> {
        Arc::new(Self {
            default_seconds,
            waiting: Mutex::default(),
            bell: Notify::new(),
            warned: Rates::new(WARNINGS),
        })
    }

    /// Patches what waits, for ever.
    pub async fn run(&self, api: &Api) {
        loop {
            let next = self.next_due();
            let due = next.unwrap_or_else(|| Instant::now() + Duration::from_hours(1));
            tokio::select! {
                () = sleep_until(due), if next.is_some() => self.patch_due(api).await,
                () = self.bell.notified() => {}
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.waiting.lock().next_due()
    }

    fn take_due(&self) -> Option<(PodName, Waiting)> {
        self.waiting.lock().take_due(Instant::now())
    }

    async fn patch_due(&self, api: &Api) {
        stream::iter(std::iter::from_fn(|| self.take_due()))
            .for_each_concurrent(TOGETHER, |(key, waiting)| self.patch(api, key, waiting))
            .await;
    }

    async fn patch(&self, api: &Api, key: PodName, Waiting { patch, refused }: Waiting) {
        let body = patch.operations.to_string().into_bytes();
        let call = Call::patch(patch.path.clone(), Content::JsonPatch, body);
        let Err(error) = api.call(Actor::Cloudcore, call).await else {
            return;
        };
        // Gone, or changed meanwhile: then the watch tells of the pod again.
        if error.is_not_found() || error.is_conflict() || error.is_failed_test() {
            debug!(pod = patch.path, code = error.code(), "no longer as it was");
            return;
        }
        if self.may_name_one(Instant::now()) {
            let (namespace, name) = &key;
            warn!(
                pod = %format_args!("{namespace}/{name}"),
                error = &error as &dyn std::error::Error,
                "a limit could not be removed yet; of many such pods ten a minute are named"
            );
        }
        self.wait(key, patch, refused + 1, retry_after(refused));
    }

    /// Whether the log may name one more pod whose limit stays for now.
    fn may_name_one(&self, now: Instant) -> bool {
        self.warned.take(&(), now).is_ok()
    }

    fn wait(&self, key: PodName, patch: Patch, refused: u32, delay: Duration) {
        let due = Instant::now() + delay;
        let waiting = Waiting { patch, refused };
        // A newer decision, made meanwhile, stands.
        self.waiting.lock().insert(key, due, waiting);
        self.bell.notify_one();
    }
}

impl PodObserver for Autonomy {
    fn bound(&self, namespace: &str, name: &str, here: bool, json: &[u8]) {
        let key = (namespace.to_owned(), name.to_owned());
        let Some(patch) = decide(json, self.default_seconds) else {
            self.waiting.lock().remove(&key);
            return;
        };
        let held = self.waiting.lock().get(&key).map(|one| one.patch.clone());
        if held.as_ref() != Some(&patch) {
            // The replica that holds the node's session goes first.
            let spread = if here { Duration::ZERO } else { spread() };
            self.waiting.lock().remove(&key);
            self.wait(key, patch, 0, calm(self.default_seconds) + spread);
        }
    }

    fn gone(&self, namespace: &str, name: &str) {
        self.waiting
            .lock()
            .remove(&(namespace.to_owned(), name.to_owned()));
    }
}

/// How long a patch waits that has been refused so often before.
fn retry_after(refused: u32) -> Duration {
    RETRY
        .saturating_mul(2_u32.saturating_pow(refused))
        .min(RETRY_MOST)
}

/// How long a patch is put off when admission's limit is so many seconds.
fn calm(default_seconds: i64) -> Duration {
    let limit = Duration::from_secs(u64::try_from(default_seconds).unwrap_or_default());
    (limit / CALM_SHARE).min(CALM_MOST)
}

fn spread() -> Duration {
    use rand::RngExt;
    SPREAD.mul_f64(0.25 + rand::rng().random::<f64>())
}

#[cfg(test)]
mod tests;
