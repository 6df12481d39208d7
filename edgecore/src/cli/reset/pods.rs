//! Stops every pod of this node and removes what it left on the disk.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use k8s_cri::v1::{PodSandbox, PodSandboxMetadata};
use nix::mount::{MntFlags, umount2};
use tokio::time::timeout;

use crate::cli::Paths;
use crate::network::{conflist, netlink};
use crate::runtime::{Cri, Labels, Runtime};

/// The label by which Kubernetes' pods are known at the runtime.
const POD_UID: &str = "io.kubernetes.pod.uid";
/// How long a container gets to end by itself.
const GRACE_SECONDS: i64 = 10;
/// How long the runtime may take to introduce itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// Stops and removes all pods; a runtime that does not answer has none that could be stopped.
pub(super) async fn stop_all(endpoint: &str, paths: &Paths) -> anyhow::Result<()> {
    let cri = Cri::new(endpoint)?;
    if matches!(timeout(PATIENCE, cri.version()).await, Ok(Ok(_))) {
        let stopped = stop_sandboxes(&cri, paths).await?;
        println!("[ok] {stopped} pods are stopped and removed");
    } else {
        println!("[!!] no container runtime answers at {endpoint}; its pods, if any, are left to it");
    }
    clear(&paths.kubelet_dir().join("pods"));
    Ok(())
}

async fn stop_sandboxes(runtime: &dyn Runtime, paths: &Paths) -> anyhow::Result<usize> {
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
        stop_sandbox(runtime, sandbox, paths).await?;
    }
    Ok(ours.len())
}

async fn stop_sandbox(runtime: &dyn Runtime, sandbox: &PodSandbox, paths: &Paths) -> anyhow::Result<()> {
    let PodSandboxMetadata {
        name, namespace, uid, ..
    } = sandbox.metadata.clone().unwrap_or_default();
    let pod = || format!("pod {namespace}/{name}");
    runtime.stop_sandbox(&sandbox.id).await.with_context(pod)?;
    runtime.remove_sandbox(&sandbox.id).await.with_context(pod)?;
    println!("[ok] {} is stopped", pod());
    if !uid.is_empty() && [&namespace, &name, &uid].iter().all(|part| !part.contains('/')) {
        remove_tree(&paths.pod_logs().join(format!("{namespace}_{name}_{uid}")));
    }
    Ok(())
}

/// Removes what the pod network that join wrote left: its bridge and its addresses.
pub(super) fn remove_network(paths: &Paths) {
    remove_tree(&paths.at("var/lib/cni/networks/tombolo"));
    if !paths.is_machine() {
        return;
    }
    if let Err(error) = netlink::remove_device(conflist::BRIDGE) {
        println!(
            "[!!] the bridge {} could not be removed: {error}",
            conflist::BRIDGE
        );
    }
}

fn remove_tree(dir: &Path) {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            println!("[!!] {} could not be removed: {error}", dir.display());
        }
        _ => {}
    }
}

/// Unmounts what is mounted below `dir`, deepest first, and removes the directory, but never
/// anything on a file system that could not be unmounted.
fn clear(dir: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut failed = false;
    for point in mounts_below(&mounts, dir).into_iter().rev() {
        if let Err(error) = umount2(Path::new(&point), MntFlags::UMOUNT_NOFOLLOW) {
            println!("[!!] {point} could not be unmounted: {error}");
            failed = true;
        }
    }
    if failed {
        println!("[!!] {} is left as it is", dir.display());
        return;
    }
    remove_tree(dir);
}

/// Mount points below `dir`, in the order they were mounted.
fn mounts_below(mountinfo: &str, dir: &Path) -> Vec<String> {
    let points = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape);
    points
        .filter(|point| Path::new(point).starts_with(dir) && Path::new(point) != dir)
        .collect()
}

/// The kernel writes blanks in paths as `\040`.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::FakeRuntime;

    #[test]
    fn only_mounts_of_pods_are_found_in_the_order_they_were_made() {
        let table = "\
22 1 0:20 / / rw - ext4 /dev/sda rw
40 22 0:41 / /var/lib/kubelet/pods/a/volumes/v rw - tmpfs tmpfs rw
41 40 0:42 / /var/lib/kubelet/pods/a/volumes/v/x\\040y rw - tmpfs tmpfs rw
42 22 0:43 / /var/lib/kubelet/podsomething rw - tmpfs tmpfs rw
";
        assert_eq!(
            mounts_below(table, Path::new("/var/lib/kubelet/pods")),
            [
                "/var/lib/kubelet/pods/a/volumes/v",
                "/var/lib/kubelet/pods/a/volumes/v/x y"
            ]
        );
    }

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

        assert_eq!(stop_sandboxes(&runtime, &paths).await.unwrap(), 1);
        assert_eq!(runtime.sandboxes(), 1);
        assert!(!paths.pod_logs().join("default_hello_uid-hello").exists());
        std::fs::remove_dir_all(root).unwrap();
    }

    #[tokio::test]
    async fn a_pod_that_does_not_stop_is_named() {
        let runtime = FakeRuntime::default();
        sandbox(&runtime, "hello", &[(POD_UID, "uid-hello")]).await;
        runtime.fail_next("StopPodSandbox", "device or resource busy");
        let paths = Paths::below(std::env::temp_dir().join("tombolo-reset-none"));
        let told = format!("{:#}", stop_sandboxes(&runtime, &paths).await.unwrap_err());
        assert!(told.contains("default/hello") && told.contains("busy"), "{told}");
    }
}
