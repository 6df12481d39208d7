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

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::cluster::{Actor, Api, Call, Content, PodObserver};

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
    waiting: Mutex<BTreeMap<(String, String), Waiting>>,
    bell: Notify,
}

struct Waiting {
    patch: Patch,
    due: Instant,
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
        self.waiting.lock().values().map(|waiting| waiting.due).min()
    }

    fn take_due(&self) -> Option<((String, String), Waiting)> {
        let mut waiting = self.waiting.lock();
        let now = Instant::now();
        let key = waiting.iter().find(|(_, one)| one.due <= now)?.0.clone();
        waiting.remove(&key).map(|one| (key, one))
    }

    async fn patch_due(&self, api: &Api) {
        while let Some((key, Waiting { patch, refused, .. })) = self.take_due() {
            let body = patch.operations.to_string().into_bytes();
            let call = Call::patch(patch.path.clone(), Content::JsonPatch, body);
            let Err(error) = api.call(Actor::Cloudcore, call).await else {
                continue;
            };
            // Gone, or changed meanwhile: then the watch tells of the pod again.
            if error.is_not_found() || matches!(error.code(), 409 | 422) {
                debug!(pod = patch.path, code = error.code(), "no longer as it was");
                continue;
            }
            warn!(
                pod = patch.path,
                error = &error as &dyn std::error::Error,
                "a limit could not be removed yet"
            );
            self.wait(key, patch, refused + 1, retry_after(refused));
        }
    }

    fn wait(&self, key: (String, String), patch: Patch, refused: u32, delay: Duration) {
        let due = Instant::now() + delay;
        let waiting = Waiting { patch, due, refused };
        // A newer decision, made meanwhile, stands.
        self.waiting.lock().entry(key).or_insert(waiting);
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
mod tests {
    use super::*;

    fn limited(key: &str, seconds: i64) -> Value {
        json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds})
    }

    fn pod(tolerations: &[Value]) -> Vec<u8> {
        json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u"}, "spec": {"tolerations": tolerations}})
            .to_string()
            .into_bytes()
    }

    #[test]
    fn both_default_limits_are_removed_under_tests_and_nothing_else_is_touched() {
        let own = json!({"key": "mine", "operator": "Exists"});
        let pod = pod(&[own, limited(TAINTS[0], 300), limited(TAINTS[1], 300)]);
        let patch = decide(&pod, 300).unwrap();
        assert_eq!(patch.path, "/api/v1/namespaces/shop/pods/web");
        assert_eq!(
            patch.operations,
            json!([
                {"op": "test", "path": "/metadata/uid", "value": "u"},
                {"op": "test", "path": "/spec/tolerations/1/key", "value": TAINTS[0]},
                {"op": "test", "path": "/spec/tolerations/1/tolerationSeconds", "value": 300},
                {"op": "remove", "path": "/spec/tolerations/1/tolerationSeconds"},
                {"op": "test", "path": "/spec/tolerations/2/key", "value": TAINTS[1]},
                {"op": "test", "path": "/spec/tolerations/2/tolerationSeconds", "value": 300},
                {"op": "remove", "path": "/spec/tolerations/2/tolerationSeconds"},
            ])
        );
    }

    #[test]
    fn a_limit_that_somebody_chose_stays() {
        assert_eq!(
            decide(&pod(&[limited(TAINTS[0], 60), limited(TAINTS[1], 6000)]), 300),
            None
        );
        assert_eq!(
            decide(&pod(&[limited("example.com/maintenance", 300)]), 300),
            None
        );
        let one = decide(&pod(&[limited(TAINTS[0], 60), limited(TAINTS[1], 300)]), 300).unwrap();
        assert_eq!(one.operations.as_array().unwrap().len(), 4);
    }

    #[test]
    fn a_patched_pod_needs_nothing_and_neither_does_one_that_goes() {
        let unlimited = json!({"key": TAINTS[0], "operator": "Exists", "effect": "NoExecute"});
        assert_eq!(decide(&pod(&[unlimited]), 300), None);
        assert_eq!(decide(&pod(&[]), 300), None);
        let going = String::from_utf8(pod(&[limited(TAINTS[0], 300)])).unwrap();
        let going = going.replace(r#""uid""#, r#""deletionTimestamp":"2026-01-01T00:00:00Z","uid""#);
        assert_eq!(decide(going.as_bytes(), 300), None);
    }

    #[test]
    fn a_patch_that_is_refused_again_and_again_is_tried_ever_less_often() {
        let pauses: Vec<_> = (0..8).map(|refused| retry_after(refused).as_secs()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(retry_after(u32::MAX), RETRY_MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_another_replica_patched_is_left_alone() {
        let autonomy = Autonomy::new(300);
        autonomy.bound("shop", "web", false, &pod(&[limited(TAINTS[0], 300)]));
        assert!(autonomy.take_due().is_none(), "the session's replica goes first");
        autonomy.bound("shop", "web", false, &pod(&[]));
        tokio::time::advance(Duration::from_secs(30)).await;
        assert!(autonomy.take_due().is_none());
        autonomy.bound("shop", "web", true, &pod(&[limited(TAINTS[0], 300)]));
        tokio::time::advance(CALM_MOST).await;
        assert!(autonomy.take_due().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_is_started_before_it_is_patched_and_its_changes_put_nothing_off() {
        let autonomy = Autonomy::new(300);
        autonomy.bound("shop", "web", true, &pod(&[limited(TAINTS[0], 300)]));
        tokio::time::advance(Duration::from_secs(15)).await;
        assert!(autonomy.take_due().is_none());
        autonomy.bound("shop", "web", true, &pod(&[limited(TAINTS[0], 300)]));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(autonomy.take_due().is_some());
    }

    #[test]
    fn a_patch_is_put_off_for_a_small_part_of_the_limit_only() {
        assert_eq!(calm(300), Duration::from_secs(20));
        assert_eq!(calm(30), Duration::from_secs(2));
        assert_eq!(calm(i64::MAX), CALM_MOST);
        assert_eq!(calm(-1), Duration::ZERO);
    }
}
