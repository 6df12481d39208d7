//! Stops every pod of this node and removes what it left on the disk.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_cri::v1::{PodSandbox, PodSandboxMetadata};
use tokio::time::{sleep, timeout};

use crate::cli::Paths;
use crate::config::RuntimeEndpoint;
use crate::network::{conflist, netlink};
use crate::pods::cgroups::{CgroupDriver, CgroupLayout, Cgroups};
use crate::pods::manager::{clean_links, logs_on_disk};
use crate::pods::volumes::removal;
use crate::runtime::{Cri, Labels, Runtime};

/// The label by which Kubernetes' pods are known at the runtime.
const POD_UID: &str = "io.kubernetes.pod.uid";
/// How long a container gets to end by itself.
const GRACE_SECONDS: i64 = 10;
/// How long the runtime may take for one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long until it is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often cgroups are tried that do not go.
const CGROUP_TRIES: u32 = 5;

/// The container runtime, which gets `patience` to answer; nothing where there is no socket. One that is silent
/// may run containers, and those would go on without the node, its network and their volumes.
pub(super) async fn runtime(endpoint: &RuntimeEndpoint, patience: Duration) -> anyhow::Result<Option<Cri>> {
    if !endpoint.socket().try_exists().unwrap_or(true) {
        println!("[!!] there is no container runtime at {endpoint}; its pods, if any, are left to it");
        return Ok(None);
    }
    let cri = Cri::new(&endpoint.to_string())?;
    let mut why = String::from("no answer");
    let answer = async {
        loop {
            let error = match timeout(ANSWER, cri.version()).await {
                Ok(Ok(_)) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {} s", ANSWER.as_secs()),
            };
            if std::mem::replace(&mut why, error) == "no answer" {
                println!("     waiting for the container runtime at {endpoint}");
            }
            sleep(PAUSE).await;
        }
    };
    if timeout(patience, answer).await.is_err() {
        bail!(
            "the container runtime at {endpoint} does not answer ({why}), so its pods cannot be stopped; nothing \
             was changed\n\
             \x20 start it, and run this again\n\
             \x20 where it is gone for good: add --force"
        );
    }
    Ok(Some(cri))
}

/// Stops and removes all pods. What could not be removed from the disk is added to `troubles`.
pub(super) async fn stop_all(
    runtime: Option<&dyn Runtime>,
    paths: &Paths,
    troubles: &mut Vec<String>,
) -> anyhow::Result<()> {
    if let Some(runtime) = runtime {
        let stopped = stop_sandboxes(runtime).await?;
        println!("[ok] {stopped} pods are stopped and removed");
    }
    clear(&paths.kubelet_dir().join("pods"), troubles);
    clear_logs(paths, troubles);
    // What devices said lies there so that it outlives the service. It is not to outlive the node.
    if let (Some(run), Some(name)) = (paths.run_dir().parent(), paths.run_dir().file_name()) {
        take_down(run, name, troubles);
    }
    Ok(())
}

async fn stop_sandboxes(runtime: &dyn Runtime) -> anyhow::Result<usize> {
    let containers = runtime
        .list_containers(Labels::new())
        .await
        .context("the list of containers")?;
    for container in containers
        .iter()
        .filter(|found| found.labels.contains_key(POD_UID))
    {
        let stopped = runtime.stop_container(&container.id, GRACE_SECONDS).await;
        stopped.with_context(|| format!("container {}", container.id))?;
    }
    let sandboxes = runtime
        .list_sandboxes(Labels::new())
        .await
        .context("the list of pods")?;
    let ours: Vec<_> = sandboxes
        .iter()
        .filter(|found| found.labels.contains_key(POD_UID))
        .collect();
    for sandbox in &ours {
        stop_sandbox(runtime, sandbox).await?;
    }
    Ok(ours.len())
}

async fn stop_sandbox(runtime: &dyn Runtime, sandbox: &PodSandbox) -> anyhow::Result<()> {
    let PodSandboxMetadata { name, namespace, .. } = sandbox.metadata.clone().unwrap_or_default();
    let pod = || format!("pod {namespace}/{name}");
    runtime.stop_sandbox(&sandbox.id).await.with_context(pod)?;
    runtime.remove_sandbox(&sandbox.id).await.with_context(pod)?;
    println!("[ok] {} is stopped", pod());
    Ok(())
}

/// Removes the logs of pods, those of which the runtime knows nothing any more too, and the links to them.
fn clear_logs(paths: &Paths, troubles: &mut Vec<String>) {
    let dir = paths.pod_logs();
    for (_, logs) in logs_on_disk(&dir) {
        take_down(&dir, logs.file_name().unwrap_or_default(), troubles);
    }
    clean_links(&paths.log_links());
}

/// Removes what the pod network that join wrote left: its bridge and its addresses.
pub(super) fn remove_network(paths: &Paths, troubles: &mut Vec<String>) {
    take_down(&paths.at("var/lib/cni/networks"), OsStr::new("tombolo"), troubles);
    let addresses = paths.addresses();
    if let (Some(run), Some(name)) = (addresses.parent(), addresses.file_name()) {
        take_down(run, name, troubles);
    }
    if !paths.is_machine() {
        return;
    }
    if let Err(error) = netlink::remove_device(conflist::BRIDGE) {
        troubles.push(format!(
            "the bridge {} could not be removed: {error}",
            conflist::BRIDGE
        ));
    }
}

/// Removes the cgroups that pods were in, in either layout: which one it was, the runtime may not tell any more. What is
/// in use is somebody else's by now, and is left.
pub(super) async fn remove_cgroups(root: &str) {
    for driver in [CgroupDriver::Systemd, CgroupDriver::Cgroupfs] {
        // Without a cgroup file system there is nothing to remove.
        let Ok(cgroups) = Cgroups::detect(CgroupLayout::new(root, driver)) else {
            return;
        };
        let cgroups = Arc::new(cgroups);
        let mut removed = cgroups.aside(Cgroups::remove_all).await;
        for _ in 1..CGROUP_TRIES {
            if removed.is_ok() {
                break;
            }
            // The kernel takes a moment to let go of the last process.
            sleep(PAUSE).await;
            removed = cgroups.aside(Cgroups::remove_all).await;
        }
        if let Err(error) = removed {
            println!(
                "[!!] a cgroup of pods is left until the next boot: {}",
                error.whole()
            );
        }
    }
}

/// Removes the pods' directories, with what is mounted in them.
fn clear(pods: &Path, troubles: &mut Vec<String>) {
    let entries = match std::fs::read_dir(pods) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => {
            troubles.push(format!("{} cannot be read: {error}", pods.display()));
            return;
        }
        Ok(entries) => entries,
    };
    for entry in entries.flatten() {
        take_down(pods, &entry.file_name(), troubles);
    }
    // It may be a link or a mount point of the operator's, and an empty one harms nobody.
    let _ = std::fs::remove_dir(pods);
}

fn take_down(parent: &Path, name: &OsStr, troubles: &mut Vec<String>) {
    if let Err(error) = removal::take_down(parent, name) {
        let path = parent.join(name);
        troubles.push(format!("{} could not be removed: {error}", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::FakeRuntime;

    async fn sandbox(runtime: &FakeRuntime, name: &str, labels: &[(&str, &str)]) {
        let config = k8s_cri::v1::PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                namespace: "default".to_owned(),
                uid: format!("uid-{name}"),
                attempt: 0,
            }),
            labels: labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            ..k8s_cri::v1::PodSandboxConfig::default()
        };
        runtime.run_sandbox(config, String::new()).await.unwrap();
    }

    #[tokio::test]
    async fn pods_are_stopped_with_their_logs_and_what_is_no_pod_stays() {
        let root = std::env::temp_dir().join(format!("tombolo-reset-{}", std::process::id()));
        let paths = Paths::below(root.clone());
        let logs = paths.pod_logs().join("default_hello_uid-hello/web");
        std::fs::create_dir_all(&logs).unwrap();
        let runtime = FakeRuntime::default();
        sandbox(&runtime, "hello", &[(POD_UID, "uid-hello")]).await;
        sandbox(&runtime, "other", &[("app", "not Kubernetes")]).await;

        let forgotten = paths.pod_logs().join("default_gone_uid-gone");
        let foreign = paths.pod_logs().join("README");
        let link = paths.log_links().join("hello_default_web-1.log");
        std::fs::create_dir_all(&forgotten).unwrap();
        std::fs::write(&foreign, "").unwrap();
        std::fs::create_dir_all(paths.log_links()).unwrap();
        std::os::unix::fs::symlink(&logs, &link).unwrap();
        let journal = paths.run_dir().join("devices/boot.log");
        std::fs::create_dir_all(journal.parent().unwrap()).unwrap();
        std::fs::write(&journal, "").unwrap();

        let mut troubles = Vec::new();
        stop_all(Some(&runtime), &paths, &mut troubles).await.unwrap();
        assert_eq!(troubles, Vec::<String>::new());
        assert_eq!(runtime.sandboxes(), 1);
        assert!(!logs.exists() && !forgotten.exists() && foreign.exists());
        assert!(!link.is_symlink(), "it leads nowhere");
        assert!(!paths.run_dir().exists());
        std::fs::remove_dir_all(root).unwrap();
    }

    #[tokio::test]
    async fn a_pod_that_does_not_stop_is_named() {
        let runtime = FakeRuntime::default();
        sandbox(&runtime, "hello", &[(POD_UID, "uid-hello")]).await;
        runtime.fail_next("StopPodSandbox", "device or resource busy");
        let stopped = stop_sandboxes(&runtime).await;
        let told = format!("{:#}", stopped.unwrap_err());
        assert!(told.contains("default/hello") && told.contains("busy"), "{told}");
    }
}
