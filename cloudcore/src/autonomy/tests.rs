//! What is patched, when, and what the answers mean.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use kube::client::Body;
use tokio::time::{advance, sleep};

use super::*;
use crate::cluster::Impersonation;
use crate::cluster::testing::client;

fn limited(key: &str, seconds: i64) -> Value {
    json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds})
}

fn pod(tolerations: &[Value]) -> Vec<u8> {
    named("web", tolerations)
}

fn named(name: &str, tolerations: &[Value]) -> Vec<u8> {
    json!({"metadata": {"name": name, "namespace": "shop", "uid": "u"}, "spec": {"tolerations": tolerations}})
        .to_string()
        .into_bytes()
}

/// Pods whose patches are due.
async fn due(names: impl IntoIterator<Item = impl AsRef<str>>) -> Arc<Autonomy> {
    let autonomy = Autonomy::new(300);
    for name in names {
        let name = name.as_ref();
        autonomy.bound("shop", name, true, &named(name, &[limited(TAINTS[0], 300)]));
    }
    advance(CALM_MOST).await;
    autonomy
}

fn names(autonomy: &Autonomy) -> Vec<String> {
    let waiting = autonomy.waiting.lock();
    waiting.keys().map(|(_, name)| name.clone()).collect()
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
    advance(Duration::from_secs(30)).await;
    assert!(autonomy.take_due().is_none());
    autonomy.bound("shop", "web", true, &pod(&[limited(TAINTS[0], 300)]));
    advance(CALM_MOST).await;
    assert!(autonomy.take_due().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_started_before_it_is_patched_and_its_changes_put_nothing_off() {
    let autonomy = Autonomy::new(300);
    autonomy.bound("shop", "web", true, &pod(&[limited(TAINTS[0], 300)]));
    advance(Duration::from_secs(15)).await;
    assert!(autonomy.take_due().is_none());
    autonomy.bound("shop", "web", true, &pod(&[limited(TAINTS[0], 300)]));
    advance(Duration::from_secs(5)).await;
    assert!(autonomy.take_due().is_some());
}

#[test]
fn a_patch_is_put_off_for_a_small_part_of_the_limit_only() {
    assert_eq!(calm(300), Duration::from_secs(20));
    assert_eq!(calm(30), Duration::from_secs(2));
    assert_eq!(calm(i64::MAX), CALM_MOST);
    assert_eq!(calm(-1), Duration::ZERO);
}

/// As API servers write them: the first of a patch's failed test, the second of a policy.
const TEST_FAILED: &str = "the server rejected our request due to an error in our request";
const POLICY: &str = "pods \"kept\" is forbidden: ValidatingAdmissionPolicy 'frozen' with binding 'all' denied request: it is frozen";

#[tokio::test(start_paused = true)]
async fn a_policy_s_refusal_is_tried_again_and_a_pod_that_has_changed_is_not() {
    let autonomy = due(["changed", "conflict", "forbidden", "gone", "kept"]).await;
    let api = client(|asked| {
        let (code, reason, message) = match asked.head.uri.path().rsplit_once('/').unwrap().1 {
            "changed" => (422, "Invalid", TEST_FAILED),
            "conflict" => (409, "Conflict", "changed meanwhile"),
            "forbidden" => (403, "Forbidden", "no right"),
            "gone" => (404, "NotFound", "gone"),
            _ => (422, "Invalid", POLICY),
        };
        let said = json!({ "code": code, "reason": reason, "message": message });
        (StatusCode::from_u16(code).unwrap(), said)
    });
    let api = Api::new(api, Impersonation::Classic);
    autonomy.patch_due(&api).await;
    assert_eq!(names(&autonomy), ["forbidden", "kept"]);
}

#[tokio::test(start_paused = true)]
async fn some_patches_are_under_way_at_once_and_never_more() {
    let autonomy = due((0..3 * TOGETHER).map(|at| format!("pod-{at}"))).await;
    let (under_way, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = (Arc::clone(&under_way), Arc::clone(&most));
    let service = tower::service_fn(move |_: Request<Body>| {
        let (under_way, most) = counted.clone();
        async move {
            most.fetch_max(under_way.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            sleep(Duration::from_secs(1)).await;
            under_way.fetch_sub(1, Ordering::Relaxed);
            Ok::<_, Infallible>(Response::new(Full::new(bytes::Bytes::from_static(b"{}"))))
        }
    });
    let api = Api::new(kube::Client::new(service, "default"), Impersonation::Classic);
    autonomy.patch_due(&api).await;
    assert_eq!(most.load(Ordering::Relaxed), TOGETHER);
    assert!(names(&autonomy).is_empty());
}

#[test]
fn of_many_pods_whose_limits_stay_some_are_named() {
    let (autonomy, now) = (Autonomy::new(300), Instant::now());
    let named = |now| (0..60).filter(|_| autonomy.may_name_one(now)).count();
    assert_eq!(named(now), 10);
    assert_eq!(named(now + WARNINGS.every), 1);
}
