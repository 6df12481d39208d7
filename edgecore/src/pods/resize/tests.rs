//! What is given, in which order it is set, and what is said of it.

use k8s_cri::v1::LinuxContainerResources;
use serde_json::{Value, json};

use super::*;
use crate::pods::observed::{ContainerObserved, PodObserved, Run};
use crate::pods::resources::PodLimits;

const MI: i64 = 1 << 20;

fn amounts(cpu: &str, memory: &str) -> Value {
    json!({"cpu": cpu, "memory": memory})
}

/// A Burstable pod of containers with a request and a limit of each, the latter twice the former.
fn pod(containers: &[(&str, i64, i64)]) -> Pod {
    let containers: Vec<Value> = containers
        .iter()
        .map(|(name, cpu, memory)| {
            let of = |times: i64| amounts(&format!("{}m", cpu * times), &format!("{}Mi", memory * times));
            json!({"name": name, "image": "i", "resources": {"requests": of(1), "limits": of(2)}})
        })
        .collect();
    serde_json::from_value(json!({
        "metadata": {"name": "p", "uid": "u", "generation": 2},
        "spec": {"containers": containers},
    }))
    .unwrap()
}

fn desired(pod: &Pod) -> Arc<DesiredPod> {
    Arc::new(DesiredPod {
        pod: pod.clone(),
        refused: None,
    })
}

fn running(pod: &Pod) -> PodObserved {
    let containers = lifecycle::main_containers(pod).iter().map(|c| ContainerObserved {
        id: format!("id-{}", c.name),
        name: c.name.clone(),
        sandbox: "s".to_owned(),
        run: Run::Running,
        ..ContainerObserved::default()
    });
    PodObserved {
        sandboxes: Vec::new(),
        containers: containers.collect(),
    }
}

/// What containers have that were made from `pod`.
fn set(pod: &Pod) -> Sizes {
    sizes(pod)
        .into_iter()
        .map(|(name, size)| (format!("id-{name}"), size))
        .collect()
}

fn memory(step: &Step) -> (&str, i64) {
    match step {
        Step::Pod(PodLimits { memory, .. }) => ("pod", memory.unwrap() / MI),
        Step::Container { name, size, .. } => (name, size.limits.memory.unwrap() / MI),
    }
}

fn order(before: &[(&str, i64, i64)], after: &[(&str, i64, i64)]) -> Vec<(String, i64)> {
    let (before, after) = (pod(before), pod(after));
    let steps = steps(&after, &running(&after), &set(&before), true);
    steps
        .iter()
        .map(memory)
        .map(|(who, memory)| (who.to_owned(), memory))
        .collect()
}

fn named(steps: &[(&str, i64)]) -> Vec<(String, i64)> {
    steps
        .iter()
        .map(|(who, memory)| ((*who).to_owned(), *memory))
        .collect()
}

#[test]
fn a_pod_grows_before_its_containers_and_shrinks_after_them() {
    assert_eq!(
        order(&[("c", 100, 64)], &[("c", 100, 128)]),
        named(&[("pod", 256), ("c", 256)])
    );
    assert_eq!(
        order(&[("c", 100, 128)], &[("c", 100, 64)]),
        named(&[("c", 128), ("pod", 128)])
    );
}

#[test]
fn containers_that_shrink_come_before_those_that_grow() {
    assert_eq!(
        order(
            &[("a", 100, 64), ("b", 100, 128)],
            &[("a", 100, 128), ("b", 100, 64)]
        ),
        named(&[("b", 128), ("a", 256), ("pod", 384)])
    );
}

#[test]
fn memory_that_grows_and_processors_that_shrink_are_never_too_tight_between() {
    let (before, after) = (pod(&[("c", 400, 64)]), pod(&[("c", 100, 128)]));
    let steps = steps(&after, &running(&after), &set(&before), true);
    let Some(Step::Pod(first)) = steps.first() else {
        panic!("{steps:?}")
    };
    assert_eq!((first.cpu_quota_us, first.memory), (Some(80_000), Some(256 * MI)));
    assert_eq!(steps.last(), Some(&Step::Pod(resources::pod_limits(&after))));
}

#[test]
fn a_pod_that_has_what_it_was_given_needs_nothing() {
    let pod = pod(&[("c", 100, 64)]);
    assert_eq!(steps(&pod, &running(&pod), &set(&pod), false), []);
    let unknown = steps(&pod, &running(&pod), &Sizes::new(), false);
    assert_eq!(unknown, [], "nor does one of which nothing is known");
}

#[test]
fn a_container_that_does_not_run_is_made_with_its_size() {
    let (before, after) = (pod(&[("c", 100, 64)]), pod(&[("c", 100, 128)]));
    let mut observed = running(&after);
    observed.containers[0].run = Run::Exited;
    let steps = steps(&after, &observed, &set(&before), true);
    assert!(steps.iter().all(|step| matches!(step, Step::Pod(_))), "{steps:?}");
}

#[test]
fn a_policy_asks_for_a_new_start_only_for_its_own_resource() {
    let restarting = |memory: i64, cpu: i64| {
        let mut pod = pod(&[("c", cpu, memory)]);
        let container = &mut pod.spec.as_mut().unwrap().containers[0];
        container.resize_policy = serde_json::from_value(json!([
            {"resourceName": "cpu", "restartPolicy": "NotRequired"},
            {"resourceName": "memory", "restartPolicy": "RestartContainer"}]))
        .unwrap();
        pod
    };
    let had = set(&restarting(64, 100));
    let grown = |pod: &Pod| outgrown(pod, &running(pod), &had).into_iter().collect::<Vec<_>>();
    assert_eq!(grown(&restarting(64, 200)), Vec::<String>::new());
    assert_eq!(grown(&restarting(128, 100)), ["id-c"]);
    assert_eq!(
        grown(&pod(&[("c", 100, 128)])),
        Vec::<String>::new(),
        "without a policy"
    );
}

fn judged(before: (i64, i64), after: (i64, i64), others: (i64, i64)) -> Result<(), (&'static str, String)> {
    let pods = [before, after].map(|(cpu, memory)| pod(&[("c", cpu, memory)]));
    let allocatable: Resources = [("cpu", "4"), ("memory", "4Gi")]
        .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
        .into();
    let others = Amounts {
        cpu_milli: Some(others.0),
        memory: Some(others.1 * MI),
    };
    judge(&pods[1], &pods[0], &allocatable, others).map_err(|pending| {
        assert_eq!(pending.generation, Some(2));
        (pending.reason, pending.message)
    })
}

#[test]
fn a_size_is_given_while_the_node_has_it() {
    assert_eq!(judged((100, 64), (3000, 64), (1000, 0)), Ok(()));
    let (reason, message) = judged((100, 64), (3001, 64), (1000, 0)).unwrap_err();
    assert_eq!(reason, DEFERRED);
    assert_eq!(
        message,
        "Node didn't have enough resource: cpu, requested: 3001, used: 1000, capacity: 4000"
    );
    let (reason, message) = judged((100, 64), (100, 5000), (0, 0)).unwrap_err();
    assert_eq!(reason, INFEASIBLE);
    assert!(message.starts_with("Node didn't have enough capacity: memory, requested: 5242880000"));
}

#[test]
fn what_a_pod_has_as_a_whole_is_not_changed_in_place() {
    let before = pod(&[("c", 100, 64)]);
    let mut wanted = before.clone();
    let whole = json!({"limits": amounts("1", "1Gi")});
    wanted.spec.as_mut().unwrap().resources = serde_json::from_value(whole).unwrap();
    let kept = allocated(&desired(&wanted), &sizes(&before), Some(&before));
    assert_eq!(kept.pod.spec, before.spec);
    assert!(differs(&wanted, &kept.pod));
    let pending = judge(&wanted, &kept.pod, &Resources::new(), Amounts::default()).unwrap_err();
    assert_eq!(pending.reason, INFEASIBLE);
}

#[test]
fn a_pod_may_always_shrink() {
    assert_eq!(judged((3000, 64), (2000, 64), (9000, 9000)), Ok(()));
    let (reason, _) = judged((3000, 64), (2000, 65), (9000, 9000)).unwrap_err();
    assert_eq!(reason, DEFERRED);
}

#[test]
fn of_two_pods_that_want_the_same_rest_one_gets_it() {
    let ledger = Ledger::default();
    let half = Amounts {
        cpu_milli: Some(500),
        memory: None,
    };
    let judge = |others: Amounts| {
        if others.cpu_milli.unwrap_or(0) > 0 {
            Err(())
        } else {
            Ok(())
        }
    };
    assert_eq!(ledger.claim("a", half, judge), Ok(()));
    assert_eq!(ledger.claim("a", half, judge), Ok(()), "its own does not count");
    assert_eq!(ledger.claim("b", half, judge), Err(()));
    let freed = ledger.freed();
    assert!(!freed.has_changed().unwrap());
    ledger.release("a");
    assert!(freed.has_changed().unwrap(), "who waits is woken");
    assert_eq!(ledger.claim("b", half, judge), Ok(()));
    ledger.keep(|uid| uid != "b");
    assert_eq!(ledger.claim("a", half, judge), Ok(()));
}

fn told(pod: &Pod, requests: &Value, resources: &Value) -> PodStatus {
    let name = &lifecycle::main_containers(pod)[0].name;
    serde_json::from_value(
        json!({"containerStatuses": [{"name": name, "image": "i", "imageID": "", "ready": true,
        "restartCount": 0, "containerID": "containerd://id-c",
        "allocatedResources": requests, "resources": resources}]}),
    )
    .unwrap()
}

#[test]
fn what_was_given_and_set_is_known_from_the_last_status() {
    let wanted = pod(&[("c", 100, 64)]);
    let small = json!({"requests": amounts("50m", "32Mi"), "limits": amounts("0.1", "64Mi")});
    let status = told(&wanted, &amounts("50m", "32Mi"), &small);
    let given = given_before(&wanted, Some(&status));
    assert_eq!(given["c"].requests.memory, Some(32 * MI));
    assert_eq!(given["c"].limits.cpu_milli, Some(100));
    assert_eq!(set_before(Some(&status))["id-c"], given["c"]);
    let under_way = told(&wanted, &amounts("400m", "32Mi"), &small);
    let given = given_before(&wanted, Some(&under_way));
    assert_eq!(
        given["c"].requests.cpu_milli,
        Some(50),
        "a request above the limit that is set was not given as it stands"
    );
    assert_eq!(given_before(&wanted, None), sizes(&wanted));
}

#[test]
fn a_pod_is_worked_on_as_it_was_given() {
    let wanted = desired(&pod(&[("c", 100, 128)]));
    let given = sizes(&pod(&[("c", 100, 64)]));
    let pod = allocated(&wanted, &given, None);
    let said = serde_json::to_value(lifecycle::main_containers(&pod.pod)[0].resources.as_ref()).unwrap();
    assert_eq!(
        said,
        json!({"requests": amounts("100m", "64Mi"), "limits": amounts("200m", "128Mi")})
    );
    assert!(differs(&wanted.pod, &pod.pod));
    let same = allocated(&wanted, &sizes(&wanted.pod), Some(&wanted.pod));
    assert!(Arc::ptr_eq(&same, &wanted), "what has its size is not copied");
}

#[test]
fn other_resources_and_the_words_of_a_spec_stay() {
    let base: ResourceRequirements = serde_json::from_value(json!({
        "requests": {"cpu": "1000m", "memory": "64Mi", "ephemeral-storage": "1Gi"}}))
    .unwrap();
    let size = Size {
        requests: Amounts {
            cpu_milli: Some(1000),
            memory: Some(1500 * MI),
        },
        limits: Amounts {
            cpu_milli: Some(1500),
            memory: None,
        },
    };
    assert_eq!(
        serde_json::to_value(size.within(Some(&base))).unwrap(),
        json!({"requests": {"cpu": "1000m", "memory": "1500Mi", "ephemeral-storage": "1Gi"},
            "limits": {"cpu": "1500m"}})
    );
    assert_eq!(Size::default().within(None), None);
}

#[test]
fn a_limit_below_what_is_used_is_refused_before_anything_is_written() {
    let before = pod(&[("a", 100, 64), ("b", 100, 64)]);
    let judge = |after: &[(&str, i64, i64)], of_a: u64, of_pod: u64| {
        let after = pod(after);
        let (set, observed) = (set(&before), running(&after));
        let steps = steps(&after, &observed, &set, true);
        too_small(&tighter(&after, &observed, &set, &steps), |who| match who {
            None => Some(of_pod << 20),
            Some("id-a") => Some(of_a << 20),
            Some(other) => panic!("{other} does not shrink"),
        })
    };
    let shrinks = [("a", 100, 32), ("b", 100, 64)];
    assert_eq!(judge(&shrinks, 63, 191), None);
    assert_eq!(
        judge(&shrinks, 64, 100).unwrap(),
        "cannot decrease memory limits: attempting to set container \"a\" memory limit (67108864) below current usage (67108864)"
    );
    let both = judge(&shrinks, 64, 192).unwrap();
    assert!(
        both.contains("[attempting to set pod memory limit (201326592)"),
        "{both}"
    );
    let moves = [("a", 100, 32), ("b", 100, 128)];
    assert_eq!(judge(&moves, 1, 500), None, "the pod as a whole grows");
}

#[test]
fn what_the_runtime_shows_counts_where_it_is_something_else() {
    let size = sizes(&pod(&[("c", 100, 64)]))["c"];
    let made = LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 20_000,
        cpu_shares: 102,
        memory_limit_in_bytes: 128 * MI,
        ..Default::default()
    };
    assert_eq!(seen_by_runtime(size, &made, &made), size);
    let shown = LinuxContainerResources {
        cpu_quota: 5_000,
        cpu_shares: 51,
        memory_limit_in_bytes: 32 * MI,
        ..made.clone()
    };
    let seen = seen_by_runtime(size, &made, &shown);
    assert_eq!(
        (seen.requests.cpu_milli, seen.requests.memory),
        (Some(50), Some(64 * MI))
    );
    assert_eq!(
        (seen.limits.cpu_milli, seen.limits.memory),
        (Some(50), Some(32 * MI))
    );
    let silent = LinuxContainerResources::default();
    assert_eq!(seen_by_runtime(size, &made, &silent), size, "it does not tell");
}

#[test]
fn an_event_tells_the_sizes_as_the_kubelet_does() {
    let told = summary(&pod(&[("c", 100, 64)]), Some(3), Some("no"));
    assert_eq!(
        told,
        r#"{"containers":[{"name":"c","resources":{"limits":{"cpu":"200m","memory":"128Mi"},"requests":{"cpu":"100m","memory":"64Mi"}}}],"generation":3,"error":"no"}"#
    );
}
