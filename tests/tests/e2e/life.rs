//! What happens to containers at their start and end, and to what they write: hooks, sidecars, logs.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    EdgeMachine, Testbed, pods,
    wait::{Look, until},
};

use crate::world::{EDGE, PATIENCE, World, apply, delete, pod, sleeping, until_pod};

crate::tests![
    hooks_run_after_the_start_and_before_the_end,
    a_post_start_hook_that_fails_is_told_and_the_container_does_not_run,
    a_sidecar_runs_beside_the_others_and_ends_after_them,
    a_sidecar_does_not_keep_a_pod_that_is_done,
    a_log_that_grows_long_is_rotated_and_the_container_writes_on,
];

/// A pod whose containers write to one file on the device, which the tests read.
fn diary(name: &str) -> Value {
    let mut diary = pod(name, EDGE, sleeping());
    diary["spec"]["terminationGracePeriodSeconds"] = json!(20);
    let path = diary_path(name);
    diary["spec"]["volumes"] =
        json!([{ "name": "diary", "hostPath": { "path": path, "type": "DirectoryOrCreate" } }]);
    diary["spec"]["containers"][0] = writing("main");
    diary
}

fn diary_path(name: &str) -> String {
    format!("/var/tmp/{name}")
}

/// A container that notes its start and its end.
fn writing(name: &str) -> Value {
    let mut container = sleeping();
    let script = format!(
        "trap 'echo {name} ends >> /diary/pages; exit 0' TERM; echo {name} starts >> /diary/pages; \
         while true; do sleep 1; done"
    );
    container["name"] = json!(name);
    container["command"] = json!(["busybox", "sh", "-c", script]);
    container["volumeMounts"] = json!([{ "name": "diary", "mountPath": "/diary" }]);
    container
}

fn noting(words: &str) -> Value {
    json!({ "exec": { "command": ["busybox", "sh", "-c", format!("echo {words} >> /diary/pages; sleep 2")] } })
}

async fn pages(edge: &EdgeMachine, name: &str) -> Result<Vec<String>> {
    let read = format!("cat {}/pages", diary_path(name));
    let text = edge.machine.shell(&read).await?;
    Ok(text.lines().map(str::to_owned).collect())
}

async fn end(testbed: &Testbed, name: &str) -> Result<()> {
    delete(testbed, &["pod", name]).await?;
    pods::until_gone(&testbed.client(), &format!("app={name}"), PATIENCE).await
}

async fn hooks_run_after_the_start_and_before_the_end(world: &World) -> Result<()> {
    let (testbed, edge) = world.with_edge().await?;
    let name = world.name("hooks");
    let mut hooked = diary(&name);
    hooked["spec"]["containers"][0]["lifecycle"] =
        json!({ "postStart": noting("hello"), "preStop": noting("goodbye") });
    apply(testbed, &hooked).await?;
    until_pod(testbed, &name, pods::is_ready).await?;
    let mut at_start = pages(edge, &name).await?;
    // A hook and its container's own process start side by side.
    at_start.sort();
    ensure!(at_start == ["hello", "main starts"], "{at_start:?}");
    end(testbed, &name).await?;
    let all = pages(edge, &name).await?;
    ensure!(all[2..] == ["goodbye", "main ends"], "{all:?}");
    Ok(())
}

async fn a_post_start_hook_that_fails_is_told_and_the_container_does_not_run(world: &World) -> Result<()> {
    let (testbed, _) = world.with_edge().await?;
    let name = world.name("hooks");
    let mut hooked = pod(&name, EDGE, sleeping());
    hooked["spec"]["restartPolicy"] = json!("Never");
    hooked["spec"]["containers"][0]["lifecycle"] =
        json!({ "postStart": { "exec": { "command": ["busybox", "false"] } } });
    apply(testbed, &hooked).await?;
    // The container leaves its stop signal with exit code 0, and the policy lets it rest.
    until_pod(testbed, &name, |pod| {
        matches!(pods::phase(pod), "Succeeded" | "Failed")
    })
    .await?;
    // Events are told a little later than statuses.
    until("the event FailedPostStartHook", PATIENCE, || async {
        let only = format!("involvedObject.name={name}");
        let events = testbed
            .kubectl(["get", "events", "--field-selector", &only])
            .await?;
        Ok(Look::when(events.contains("FailedPostStartHook"), || {
            events.clone()
        }))
    })
    .await?;
    end(testbed, &name).await
}

async fn a_sidecar_runs_beside_the_others_and_ends_after_them(world: &World) -> Result<()> {
    let (testbed, edge) = world.with_edge().await?;
    let name = world.name("sidecar");
    let mut with_sidecar = diary(&name);
    let mut sidecar = writing("side");
    sidecar["restartPolicy"] = json!("Always");
    sidecar["startupProbe"] =
        json!({ "exec": { "command": ["busybox", "grep", "side", "/diary/pages"] }, "periodSeconds": 1 });
    let mut init = writing("init");
    init["command"] = json!(["busybox", "sh", "-c", "echo init ran >> /diary/pages"]);
    with_sidecar["spec"]["initContainers"] = json!([sidecar, init]);
    apply(testbed, &with_sidecar).await?;
    let pod = until_pod(testbed, &name, pods::is_ready).await?;
    let statuses = pod
        .status
        .and_then(|status| status.init_container_statuses)
        .context("no statuses of init containers")?;
    ensure!(
        statuses[0].started == Some(true) && statuses[0].ready,
        "{statuses:?}"
    );
    end(testbed, &name).await?;
    let all = pages(edge, &name).await?;
    let expected = ["side starts", "init ran", "main starts", "main ends", "side ends"];
    ensure!(all == expected, "{all:?}");
    Ok(())
}

async fn a_sidecar_does_not_keep_a_pod_that_is_done(world: &World) -> Result<()> {
    let (testbed, _) = world.with_edge().await?;
    let name = world.name("sidecar");
    let mut job = pod(&name, EDGE, sleeping());
    let mut sidecar = sleeping();
    sidecar["name"] = json!("side");
    sidecar["restartPolicy"] = json!("Always");
    job["spec"]["restartPolicy"] = json!("Never");
    job["spec"]["initContainers"] = json!([sidecar]);
    job["spec"]["containers"][0]["command"] = json!(["busybox", "true"]);
    apply(testbed, &job).await?;
    until_pod(testbed, &name, |pod| pods::phase(pod) == "Succeeded").await?;
    end(testbed, &name).await
}

async fn a_log_that_grows_long_is_rotated_and_the_container_writes_on(world: &World) -> Result<()> {
    let (testbed, edge) = world.with_edge().await?;
    let name = world.name("talker");
    let mut talker = sleeping();
    let script = "trap 'exit 0' TERM; busybox yes 'a line that is not long' | busybox head -n 300000; \
                  while true; do echo still here; sleep 1; done";
    talker["command"] = json!(["busybox", "sh", "-c", script]);
    apply(testbed, &pod(&name, EDGE, talker)).await?;
    let read = format!("cd /var/log/pods/default_{name}_*/main && ls -l && tail -n 1 0.log");
    until("a rotated log, and a new one that grows", PATIENCE, || async {
        let files = edge.machine.shell(&read).await?;
        let rotated = files.contains("0.log.20") && files.trim_end().ends_with("still here");
        Ok(Look::when(rotated, || files.clone()))
    })
    .await?;
    end(testbed, &name).await?;
    until("its logs gone", PATIENCE, || async {
        let left = edge.machine.shell("ls /var/log/pods").await?;
        Ok(Look::when(!left.contains(&name), || left.clone()))
    })
    .await
}
