//! A machine's containerd: its configuration, its images, and what it holds.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};

use crate::{
    cache::{Archive, Cache},
    command,
    machine::{Machine, Service, disk::RUNTIME},
    wait::{Look, until},
};

/// Where containerd listens, as the machine sees it.
pub const ENDPOINT: &str = "unix:///run/containerd/containerd.sock";
/// How long an import may take.
const IMPORT: Duration = Duration::from_mins(3);

/// Writes containerd's configuration and installs it as a service.
pub fn install(machine: &Machine, cache: &Cache) -> Result<()> {
    let root = machine.dir().join(RUNTIME);
    fs::create_dir_all(&root)?;
    let config = machine.dir().join("containerd.toml");
    fs::write(&config, configuration(cache, &root)?)?;
    let args = [String::from("--config"), config.to_string_lossy().into_owned()];
    let service =
        Service::new("containerd", &cache.program("containerd")?, args).with_env("PATH", path(cache));
    machine.install(service)
}

/// The search path of programs on a machine: the cache first, for the shim and runc.
pub fn path(cache: &Cache) -> String {
    format!(
        "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        cache.path()
    )
}

fn configuration(cache: &Cache, root: &Path) -> Result<String> {
    if cache.is_old() {
        return old_configuration(cache, root);
    }
    let pause = cache.image("pause")?.tag;
    let (root, runc, cni) = (root.display(), cache.program("runc")?, cache.cni()?);
    Ok(format!(
        r#"version = 3
root = "{root}"
state = "/run/containerd"

[grpc]
address = "/run/containerd/containerd.sock"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime"]
disable_apparmor = true
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{}"]
conf_dir = "/etc/cni/net.d"

[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{}"
SystemdCgroup = false
"#,
        cni.display(),
        runc.display(),
    ))
}

/// What containerd 1.6 reads.
fn old_configuration(cache: &Cache, root: &Path) -> Result<String> {
    let pause = cache.image("pause")?.tag;
    let (root, runc, cni) = (root.display(), cache.program("runc")?, cache.cni()?);
    Ok(format!(
        r#"version = 2
root = "{root}"
state = "/run/containerd"

[grpc]
address = "/run/containerd/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
disable_apparmor = true
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{}"
conf_dir = "/etc/cni/net.d"

[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{}"
SystemdCgroup = false
"#,
        cni.display(),
        runc.display(),
    ))
}

/// Waits until containerd serves pods.
pub async fn ready(machine: &Machine, cache: &Cache) -> Result<()> {
    let what = format!("containerd of {}", machine.name());
    until(&what, Duration::from_secs(30), || async {
        ctr(machine, cache, &["version"]).await.map(Look::Done)
    })
    .await
    .map(drop)
    .with_context(|| format!("its log is {}", machine.log("containerd").display()))
}

/// Gives the machine an image.
pub async fn import(machine: &Machine, cache: &Cache, archive: &Archive) -> Result<()> {
    let path = archive.path().to_string_lossy().into_owned();
    ctr(machine, cache, &["images", "import", &path]).await.map(drop)
}

/// Runs `ctr` for the images and containers of pods.
pub async fn ctr(machine: &Machine, cache: &Cache, words: &[&str]) -> Result<String> {
    let mut command = machine.command(cache.program("ctr")?)?;
    command.args(["--namespace", "k8s.io"]).args(words);
    command::run_within(IMPORT, command).await
}

/// The ids of the pods' containers and sandboxes that have a process.
pub async fn running(machine: &Machine, cache: &Cache) -> Result<Vec<String>> {
    let listed = ctr(machine, cache, &["tasks", "list"]).await?;
    let rows = listed
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    Ok(rows
        .filter(|row| row.last() == Some(&"RUNNING"))
        .map(|row| row[0].to_owned())
        .collect())
}

/// The containers of pods whose name in the pod is `container`, ended ones too.
pub async fn named(machine: &Machine, cache: &Cache, container: &str) -> Result<Vec<String>> {
    labelled(machine, cache, ("io.kubernetes.container.name", container)).await
}

/// The containers and sandboxes that carry a label.
pub async fn labelled(machine: &Machine, cache: &Cache, (label, value): (&str, &str)) -> Result<Vec<String>> {
    // Quoted: a UID may begin with a digit, which the filter's grammar takes for a number.
    let filter = format!("labels.\"{label}\"==\"{value}\"");
    let listed = ctr(machine, cache, &["containers", "list", "--quiet", &filter]).await?;
    Ok(listed.split_whitespace().map(str::to_owned).collect())
}

/// Those of them that have a running process.
pub async fn running_named(machine: &Machine, cache: &Cache, container: &str) -> Result<Vec<String>> {
    let running = running(machine, cache).await?;
    let mut named = named(machine, cache, container).await?;
    named.retain(|id| running.contains(id));
    named.sort_unstable();
    Ok(named)
}
