//! A pod that gets another size while it runs.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use serde_json::{Value, json};
use tests::{EdgeMachine, Testbed, pods};

use crate::world::{EDGE, PATIENCE, World, apply, delete, pod, sleeping, until_pod};

crate::tests![a_pod_is_resized_where_it_runs_up_and_down];

const MI: u64 = 1 << 20;

fn resources(cpu: &str, memory: u64) -> Value {
    json!({ "requests": { "cpu": cpu, "memory": "16Mi" }, "limits": { "memory": format!("{memory}Mi") } })
}

async fn a_pod_is_resized_where_it_runs_up_and_down(world: &World) -> Result<()> {
    let (testbed, edge) = world.with_edge().await?;
    let name = world.name("sized");
    let mut sized = pod(&name, EDGE, sleeping());
    sized["spec"]["containers"][0]["resources"] = resources("50m", 64);
    apply(testbed, &sized).await?;
    pods::until_ready(&testbed.client(), &format!("app={name}"), 1, PATIENCE).await?;
    ensure_limits(edge, &until_limit(testbed, &name, "64Mi").await?, 64 * MI).await?;

    resize(testbed, &name, &resources("100m", 128)).await?;
    let pod = until_limit(testbed, &name, "128Mi").await?;
    ensure_limits(edge, &pod, 128 * MI).await?;

    resize(testbed, &name, &resources("50m", 96)).await?;
    let pod = until_limit(testbed, &name, "96Mi").await?;
    ensure_limits(edge, &pod, 96 * MI).await?;
    let restarts = pod
        .status
        .and_then(|s| s.container_statuses)
        .map(|s| s[0].restart_count);
    ensure!(restarts == Some(0), "it was restarted: {restarts:?}");

    delete(testbed, &["pod", &name]).await?;
    pods::until_gone(&testbed.client(), &format!("app={name}"), PATIENCE).await
}

async fn resize(testbed: &Testbed, name: &str, resources: &Value) -> Result<()> {
    let patch = json!({ "spec": { "containers": [{ "name": "main", "resources": resources }] } }).to_string();
    let words = ["patch", "pod", name, "--subresource", "resize", "--patch", &patch];
    testbed.kubectl(words).await.map(drop)
}

fn limit(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    Some(&status.resources.as_ref()?.limits.as_ref()?.get("memory")?.0)
}

fn condition(pod: &Pod, kind: &str) -> Option<PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == kind).cloned()
}

/// Until a limit is said to be set, and nothing of it is under way.
async fn until_limit(testbed: &Testbed, name: &str, memory: &str) -> Result<Pod> {
    let done = |pod: &Pod| {
        let open = ["PodResizePending", "PodResizeInProgress"].map(|kind| condition(pod, kind));
        limit(pod) == Some(memory) && open.iter().all(Option::is_none)
    };
    until_pod(testbed, name, done).await
}

/// The kernel's limits of the pod and of its one container.
async fn ensure_limits(edge: &EdgeMachine, pod: &Pod, bytes: u64) -> Result<()> {
    let uid = pod.metadata.uid.as_deref().context("no UID")?;
    let look = format!(
        "find /sys/fs/cgroup -path '*pod{uid}*' '(' -name memory.max -o -name memory.limit_in_bytes ')' \
         -exec cat '{{}}' + | sort"
    );
    let found = edge.machine.shell(&look).await?;
    let set = found.lines().filter(|line| *line == bytes.to_string()).count();
    ensure!(
        set == 2,
        "the pod and its container should be limited to {bytes}:\n{found}"
    );
    Ok(())
}
