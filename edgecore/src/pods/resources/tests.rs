//! The kubelet's numbers for the same pods.

use super::*;

fn pod(containers: &str) -> Pod {
    serde_json::from_str(&format!(r#"{{"spec":{{"containers":{containers}}}}}"#)).unwrap()
}

#[test]
fn qos_classes_follow_requests_and_limits() {
    assert_eq!(qos(&pod(r#"[{"name":"a"}]"#)), Qos::BestEffort);
    let guaranteed = r#"[{"name":"a","resources":{"requests":{"cpu":"1","memory":"1Gi"},"limits":{"cpu":"1000m","memory":"1024Mi"}}}]"#;
    assert_eq!(qos(&pod(guaranteed)), Qos::Guaranteed);
    assert_eq!(
        qos(&pod(r#"[{"name":"a","resources":{"requests":{"cpu":"1"}}}]"#)),
        Qos::Burstable
    );
    let one_without = r#"[{"name":"a","resources":{"requests":{"cpu":"1","memory":"1"},"limits":{"cpu":"1","memory":"1"}}},{"name":"b"}]"#;
    assert_eq!(qos(&pod(one_without)), Qos::Burstable);
}

#[test]
fn shares_quotas_and_scores_keep_the_kubelets_bounds() {
    assert_eq!(
        [0, 1, 100, 1000, 10_000_000].map(cpu_shares),
        [2, 2, 102, 1024, 262_144]
    );
    assert_eq!([0, 1, 50, 500].map(cpu_quota), [0, 1000, 5000, 50_000]);
    let burstable = pod(r#"[{"name":"a","resources":{"requests":{"memory":"1Gi"}}}]"#);
    let container = &burstable.spec.as_ref().unwrap().containers[0];
    assert_eq!(oom_score(&burstable, container, 4 << 30), 750);
    assert_eq!(oom_score(&burstable, container, 1 << 30), 3);
    assert_eq!(oom_score(&burstable, container, 1 << 60), 999);
}

#[test]
fn a_pods_own_cgroup_is_limited_only_when_every_container_is() {
    let both = r#"[{"name":"a","resources":{"requests":{"cpu":"100m"},"limits":{"memory":"64Mi","cpu":"1"}}},
                   {"name":"b","resources":{"limits":{"memory":"64Mi"}}}]"#;
    let limits = pod_limits(&pod(both));
    assert_eq!(
        limits,
        PodLimits {
            cpu_shares: 102,
            cpu_quota_us: None,
            memory: Some(128 << 20)
        }
    );
    assert_eq!(pod_limits(&pod(r#"[{"name":"a"}]"#)).cpu_shares, 2);
}

#[test]
fn the_greatest_init_container_counts_when_it_asks_for_more() {
    let pod: Pod = serde_json::from_str(
        r#"{"spec":{"initContainers":[{"name":"i","resources":{"requests":{"cpu":"2"}}}],
            "containers":[{"name":"a","resources":{"requests":{"cpu":"1","memory":"1"}}}]}}"#,
    )
    .unwrap();
    assert_eq!(
        pod_requests(&pod),
        Amounts {
            cpu_milli: Some(2000),
            memory: Some(1)
        }
    );
}

#[test]
fn sidecars_count_beside_all_that_starts_after_them() {
    let pod: Pod = serde_json::from_str(
        r#"{"spec":{"initContainers":[
                {"name":"s","restartPolicy":"Always","resources":{"requests":{"cpu":"1"}}},
                {"name":"i","resources":{"requests":{"cpu":"3"}}}],
            "containers":[{"name":"a","resources":{"requests":{"cpu":"2"}}}]}}"#,
    )
    .unwrap();
    assert_eq!(pod_requests(&pod).cpu_milli, Some(4000));
    let small = r#"{"spec":{"initContainers":[{"name":"s","restartPolicy":"Always","resources":{"requests":{"cpu":"1"}}}],
        "containers":[{"name":"a","resources":{"requests":{"cpu":"2"}}}]}}"#;
    assert_eq!(
        pod_requests(&serde_json::from_str(small).unwrap()).cpu_milli,
        Some(3000)
    );
}

#[test]
fn a_sidecar_is_not_killed_before_the_main_containers() {
    let pod: Pod = serde_json::from_str(
        r#"{"spec":{"initContainers":[{"name":"s","restartPolicy":"Always","resources":{"requests":{"memory":"64Mi"}}}],
            "containers":[{"name":"a","resources":{"requests":{"memory":"1Gi"}}}]}}"#,
    )
    .unwrap();
    let sidecar = &pod.spec.as_ref().unwrap().init_containers.as_ref().unwrap()[0];
    assert_eq!(oom_score(&pod, sidecar, 4 << 30), 750);
}

const OF_POD: &str = r#"{"spec":{"overhead":{"cpu":"100m","memory":"32Mi"},
    "resources":{"requests":{"cpu":"1","memory":"1Gi"},"limits":{"cpu":"2","memory":"2Gi"}},
    "containers":[{"name":"a","resources":{"requests":{"memory":"512Mi"}}},{"name":"b","resources":{"limits":{"cpu":"500m"}}}]}}"#;

#[test]
fn what_the_pod_itself_says_stands_in_the_place_of_the_sum_and_overhead_comes_on_top() {
    let pod: Pod = serde_json::from_str(OF_POD).unwrap();
    assert_eq!(
        pod_requests(&pod),
        Amounts {
            cpu_milli: Some(1100),
            memory: Some((1 << 30) + (32 << 20))
        }
    );
    assert_eq!(
        pod_limits(&pod),
        PodLimits {
            cpu_shares: 1126,
            cpu_quota_us: Some(210_000),
            memory: Some((2 << 30) + (32 << 20))
        }
    );
    assert_eq!(
        sandbox_amounts(&pod).1,
        Amounts {
            cpu_milli: Some(2000),
            memory: Some(2 << 30)
        }
    );
    let [a, b] = pod.spec.as_ref().unwrap().containers.as_slice() else {
        panic!("two containers");
    };
    assert_eq!(
        effective_limits(&pod, a),
        Amounts {
            cpu_milli: Some(2000),
            memory: Some(2 << 30)
        }
    );
    assert_eq!(effective_limits(&pod, b).cpu_milli, Some(500));
    // Half of the 512 MiB that no container asks for.
    assert_eq!(oom_score(&pod, a, 4 << 30), 1000 - 187);
    assert_eq!(oom_score(&pod, b, 4 << 30), 1000 - 62);
}

#[test]
fn the_pods_own_resources_make_its_class() {
    let class = |resources: &str| {
        let pod = format!(r#"{{"spec":{{"resources":{resources},"containers":[{{"name":"a"}}]}}}}"#);
        qos(&serde_json::from_str(&pod).unwrap())
    };
    assert_eq!(
        class(r#"{"requests":{"cpu":"1","memory":"1"},"limits":{"cpu":"1","memory":"1"}}"#),
        Qos::Guaranteed
    );
    assert_eq!(class(r#"{"requests":{"cpu":"1"}}"#), Qos::Burstable);
    assert_eq!(class(r#"{"limits":{"cpu":"1"}}"#), Qos::Burstable);
    assert_eq!(class("{}"), Qos::BestEffort);
}

#[test]
fn overhead_adds_to_limits_that_there_are_and_makes_none() {
    let pod: Pod = serde_json::from_str(
        r#"{"spec":{"overhead":{"cpu":"100m","memory":"32Mi"},
            "containers":[{"name":"a","resources":{"requests":{"cpu":"1"},"limits":{"memory":"64Mi"}}}]}}"#,
    )
    .unwrap();
    let limits = pod_limits(&pod);
    assert_eq!(
        (limits.cpu_shares, limits.cpu_quota_us, limits.memory),
        (1126, None, Some(96 << 20))
    );
}

#[test]
fn huge_pages_are_limited_to_what_was_asked_for_of_each_size() {
    const SIZES: [u64; 2] = [2 << 20, 1 << 30];
    let pod: Pod = serde_json::from_str(
        r#"{"spec":{"containers":[
            {"name":"a","resources":{"requests":{"hugepages-2Mi":"4Mi"},"limits":{"hugepages-2Mi":"4Mi"}}},
            {"name":"b","resources":{"requests":{"hugepages-2Mi":"2Mi"},"limits":{"hugepages-2Mi":"2Mi"}}}]}}"#,
    )
    .unwrap();
    assert_eq!(
        pod_huge_pages(&pod, &SIZES),
        HugePages::from([(2 << 20, 6 << 20), (1 << 30, 0)])
    );
    let a = &pod.spec.as_ref().unwrap().containers[0];
    assert_eq!(
        container_huge_pages(&pod, a, &SIZES),
        HugePages::from([(2 << 20, 4 << 20), (1 << 30, 0)])
    );
    assert_eq!(SIZES.map(page_size), ["2MB", "1GB"]);
    assert_eq!(page_size(64 << 10), "64KB");
}
