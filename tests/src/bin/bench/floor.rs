//! The floor: what the container runtime alone takes for a pod, with no agent around it.
//!
//! It is asked for the pod that every node asks for: its namespaces, the sandbox's seccomp profile (the filter
//! alone takes runc about as long as two network plugins), the paths of `/proc` that are masked or read-only, and
//! the mounts of the hosts file, of the termination message and of the token. What they hold is there before.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, DnsConfig, ImageSpec, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, Mount, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata,
    RemovePodSandboxRequest, RunPodSandboxRequest, SecurityProfile, StartContainerRequest, StatusRequest,
    StopPodSandboxRequest, runtime_service_client::RuntimeServiceClient, security_profile::ProfileType,
};
use tests::{
    EdgeMachine, containerd,
    wait::{Look, until},
};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::{
    stage::PATIENCE,
    starts::{IMAGE, SLEEP},
};

/// Starts side by side in a burst: about two a core is what loses least.
const PARALLEL: usize = 4;

/// What a container with the default `procMount` does not see, and what it may only read, as the kubelet says it.
const MASKED: &str = "/proc/asound /proc/acpi /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats \
    /proc/timer_list /proc/timer_stats /proc/sched_debug /proc/scsi /sys/firmware /sys/devices/virtual/powercap";
const READONLY: &str = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger";
/// What stands for a pod's hosts file, termination message and token on the machine, and where each
/// container has it.
const MOUNTS: [(&str, &str, bool); 3] = [
    ("/var/lib/floor/hosts", "/etc/hosts", false),
    ("/var/lib/floor/message", "/dev/termination-log", false),
    (
        "/var/lib/floor/token",
        "/var/run/secrets/kubernetes.io/serviceaccount",
        true,
    ),
];

/// A machine's runtime.
pub(crate) struct Floor {
    runtime: RuntimeServiceClient<Channel>,
    cgroup: String,
}

impl Floor {
    /// The runtime of a machine that runs no agent; returns when it has a pod network.
    pub(crate) async fn on(device: &EdgeMachine) -> Result<Self> {
        let machine = &device.machine;
        machine
            .shell("mkdir -p /var/lib/floor/token && touch /var/lib/floor/hosts /var/lib/floor/message")
            .await?;
        let socket = containerd::ENDPOINT.trim_start_matches("unix://");
        // The machine's /run, seen from the host.
        let endpoint = format!("unix:///proc/{}/root{socket}", machine.pid()?);
        let floor = Self {
            runtime: RuntimeServiceClient::connect(endpoint).await?,
            cgroup: format!("{}/pods", machine.cgroup().path()),
        };
        until("a runtime with a pod network", PATIENCE, || floor.ready()).await?;
        Ok(floor)
    }

    async fn ready(&self) -> Result<Look<()>> {
        let answer = self.runtime.clone().status(StatusRequest::default()).await?;
        let conditions = answer.into_inner().status.unwrap_or_default().conditions;
        // There may be others, which only complain.
        let holds = |kind| conditions.iter().any(|one| one.r#type == kind && one.status);
        let ready = holds("RuntimeReady") && holds("NetworkReady");
        Ok(Look::when(ready, || format!("{conditions:?}")))
    }

    /// Runs a sandbox and a container in it; the time ends when the container is started.
    pub(crate) async fn start(&self, index: u16) -> Result<Duration> {
        let sandbox = self.sandbox(index);
        let started = Instant::now();
        let pod_sandbox_id = Box::pin(self.run(sandbox)).await.context("the runtime alone")?;
        let took = started.elapsed();
        self.remove(pod_sandbox_id).await?;
        Ok(took)
    }

    /// Runs many at once, [`PARALLEL`] side by side; returns when each was started, in order, and how long
    /// taking all of them down took.
    pub(crate) async fn burst(&self, count: u16) -> Result<(Vec<Duration>, Duration)> {
        let began = Instant::now();
        let runs = stream::iter(1..=count).map(|index| async move {
            let id = Box::pin(self.run(self.sandbox(index))).await?;
            anyhow::Ok((began.elapsed(), id))
        });
        let started: Vec<(Duration, String)> = runs.buffer_unordered(PARALLEL).try_collect().await?;
        let (mut times, ids): (Vec<_>, Vec<_>) = started.into_iter().unzip();
        times.sort_unstable();
        let began = Instant::now();
        let removals = stream::iter(ids).map(|id| self.remove(id));
        removals.buffer_unordered(PARALLEL).try_collect::<()>().await?;
        Ok((times, began.elapsed()))
    }

    async fn run(&self, sandbox: PodSandboxConfig) -> Result<String> {
        let mut runtime = self.runtime.clone();
        let request = RunPodSandboxRequest {
            config: Some(sandbox.clone()),
            ..Default::default()
        };
        let pod_sandbox_id = runtime
            .run_pod_sandbox(request)
            .await?
            .into_inner()
            .pod_sandbox_id;
        let request = CreateContainerRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
            config: Some(container()),
            sandbox_config: Some(sandbox),
        };
        let container_id = runtime.create_container(request).await?.into_inner().container_id;
        runtime
            .start_container(StartContainerRequest { container_id })
            .await?;
        Ok(pod_sandbox_id)
    }

    async fn remove(&self, pod_sandbox_id: String) -> Result<()> {
        let mut runtime = self.runtime.clone();
        let stop = StopPodSandboxRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
        };
        runtime.stop_pod_sandbox(stop).await?;
        runtime
            .remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id })
            .await?;
        Ok(())
    }

    fn sandbox(&self, index: u16) -> PodSandboxConfig {
        let name = format!("floor-{index}");
        PodSandboxConfig {
            hostname: name.clone(),
            log_directory: format!("/var/log/pods/default_{name}_{index}"),
            metadata: Some(PodSandboxMetadata {
                name,
                uid: index.to_string(),
                namespace: String::from("default"),
                attempt: 0,
            }),
            dns_config: Some(DnsConfig::default()),
            labels: HashMap::from([(String::from("app"), String::from("floor"))]),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup.clone(),
                security_context: Some(confined()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

/// What the kubelet asks of every sandbox.
fn confined() -> LinuxSandboxSecurityContext {
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces()),
        seccomp: Some(SecurityProfile {
            profile_type: ProfileType::RuntimeDefault.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn namespaces() -> NamespaceOption {
    NamespaceOption {
        network: NamespaceMode::Pod.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

fn paths(list: &str) -> Vec<String> {
    list.split_whitespace().map(str::to_owned).collect()
}

fn container() -> ContainerConfig {
    let mount = |(host_path, container_path, readonly): (&str, &str, bool)| Mount {
        host_path: host_path.to_owned(),
        container_path: container_path.to_owned(),
        readonly,
        ..Default::default()
    };
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: String::from("main"),
            attempt: 0,
        }),
        image: Some(ImageSpec {
            image: IMAGE.to_owned(),
            ..Default::default()
        }),
        command: SLEEP.map(str::to_owned).to_vec(),
        log_path: String::from("main/0.log"),
        mounts: MOUNTS.map(mount).to_vec(),
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources {
                cpu_shares: 2,
                oom_score_adj: 1000,
                ..Default::default()
            }),
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(namespaces()),
                masked_paths: paths(MASKED),
                readonly_paths: paths(READONLY),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}
