//! What a container stands on besides its image: cgroup, volumes and sandbox.
//!
//! Volumes and the first images do not need the sandbox, so they are sought while it is made ([`Ahead`]). Volumes are
//! begun with the permit to start and not before: only the worker drives them, and a token that was asked for by a pod
//! that waits for its turn would be given up meanwhile. A volume that is known at once to be missing keeps the sandbox
//! from being made.
//!
//! **Invariant:** no container is made before the pod's volumes are mounted.

use std::convert::Infallible;
use std::fs;
use std::future::pending;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use k8s_cri::v1::PodSandboxConfig;
use k8s_openapi::api::core::v1::Container;
use tokio::time::Instant;
use tracing::warn;

use super::act::AFTER_FAILURE;
use super::orders::ordered_to_end_sooner;
use super::permit::{PATIENCE, made};
use super::pulling::Pulling;
use super::{Worker, earlier};
use crate::pods::cgroups::{CgroupError, Cgroups};
use crate::pods::desired::DesiredPod;
use crate::pods::events::Tone;
use crate::pods::lifecycle;
use crate::pods::observed;
use crate::pods::resources::{self, PodLimits};
use crate::pods::sandbox_config;
use crate::pods::spec;
use crate::pods::turns::keeping;
use crate::pods::volumes::{MountError, Mounted, PRIVATE};

/// The first and the longest wait after a failed mount.
const MOUNT_RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(122));

/// Work whose result may come before anybody asks for it.
pub(super) type Sought<T, E> = Shared<BoxFuture<'static, Result<T, E>>>;

/// What is sought while the sandbox is made. Each result is used once.
#[derive(Default)]
pub(super) struct Ahead {
    volumes: Option<Sought<Mounted, MountError>>,
    pub(super) pulling: Pulling,
    /// What the volumes were made from: the objects' generation, and the pod.
    objects: u64,
    pod: Option<Arc<DesiredPod>>,
}

impl Ahead {
    /// Works on the volumes; never ends.
    async fn pursue(&self) -> Infallible {
        if let Some(volumes) = &self.volumes {
            let _used_later = volumes.clone().await;
        }
        pending().await
    }

    fn take_volumes(&mut self) -> Option<Sought<Mounted, MountError>> {
        // A failure is not used: by now it may be mended.
        self.volumes.take().filter(|v| !matches!(v.peek(), Some(Err(_))))
    }
}

impl Worker {
    /// Whether it stands and is noted.
    pub(super) async fn create_sandbox(&mut self, attempt: u32) -> bool {
        let handler = match self.kit.runtime_handler(self.pod()) {
            Ok(handler) => handler,
            Err(missing) => return self.no_sandbox(&missing),
        };
        if !self.prepare().await {
            return false;
        }
        let built = sandbox_config::build(&self.kit.facts, self.pod(), attempt);
        for (reason, message) in &built.warnings {
            self.kit.events.pod(self.pod(), Tone::Warning, reason, message);
        }
        if !self.look_ahead(&built.config) {
            return false;
        }
        if attempt > 0 {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.kit
                .events
                .pod(self.pod(), Tone::Normal, "SandboxChanged", message);
        }
        if !self.take_permit().await || !self.begin_volumes() {
            return false;
        }
        let run = self.kit.runtime.run_sandbox(built.config, handler);
        let made = tokio::select! {
            biased;
            never = self.ahead.pursue() => match never {},
            made = made(&mut self.permit, self.orders.clone(), ("sandbox", run)) => made,
        };
        match made {
            Some(Ok(id)) => self.note_sandbox(&id).await,
            Some(Err(error)) => self.no_sandbox(&error),
            None => false,
        }
    }

    fn no_sandbox(&mut self, error: &dyn std::error::Error) -> bool {
        let message = format!("Failed to create pod sandbox: {error}");
        self.unprepared("FailedCreatePodSandBox", &message)
    }

    /// Sees what was just made, and nothing else of the pod.
    async fn note_sandbox(&mut self, id: &str) -> bool {
        let seen = observed::look_at_sandbox(self.kit.runtime.as_ref(), id, &mut self.memory).await;
        let Ok(Some(sandbox)) = seen else { return false };
        self.observed.note_sandbox(sandbox);
        true
    }

    /// Brings the pod's directory and cgroup into being.
    async fn prepare(&mut self) -> bool {
        if let Err(error) = self.ensure_cgroup().await {
            let message = format!("unable to ensure pod container exists: {}", error.whole());
            return self.unprepared("FailedCreatePodContainer", &message);
        }
        self.make_directories()
    }

    async fn ensure_cgroup(&self) -> Result<(), CgroupError> {
        self.limit_cgroup(resources::pod_limits(self.pod())).await
    }

    /// Makes the pod's cgroup, if need be, and limits it.
    pub(super) async fn limit_cgroup(&self, limits: PodLimits) -> Result<(), CgroupError> {
        let Some(cgroups) = &self.kit.cgroups else {
            return Ok(());
        };
        let (pod, uid) = (self.pod(), self.uid.clone());
        let qos = resources::qos(pod);
        let pages = resources::pod_huge_pages(pod, &self.kit.facts.huge_page_sizes);
        let ensure = move |cgroups: &Cgroups| {
            cgroups.ensure_pod(qos, &uid, &limits)?;
            cgroups.limit_huge_pages(qos, &uid, &pages)
        };
        cgroups.aside(ensure).await
    }

    fn make_directories(&mut self) -> bool {
        let dir = self.kit.facts.pod_dir(&self.uid).join("containers");
        match fs::DirBuilder::new().recursive(true).mode(PRIVATE).create(dir) {
            Ok(()) => true,
            Err(error) => self.unprepared("Failed", &format!("error making pod data directories: {error}")),
        }
    }

    /// The sandbox, or what it needs, could not be made.
    fn unprepared(&mut self, reason: &str, message: &str) -> bool {
        warn!(pod = spec::name(self.pod()), message, "the pod has no sandbox");
        self.kit.events.pod(self.pod(), Tone::Warning, reason, message);
        self.holds.sandbox = Some(Instant::now() + AFTER_FAILURE);
        false
    }

    /// Begins to seek the images of the first containers. False when a volume cannot be had now.
    fn look_ahead(&mut self, sandbox: &PodSandboxConfig) -> bool {
        self.mounted = None;
        if let Some(error) = self.kit.volumes.lacks(self.pod()) {
            return self.not_mounted(&error);
        }
        let first: Vec<Container> = self.first_containers().cloned().collect();
        for container in first {
            self.seek_ahead(&container, sandbox);
        }
        true
    }

    /// Begins the volumes, or goes on with them. False when one cannot be had now.
    fn begin_volumes(&mut self) -> bool {
        let unfinished = self
            .ahead
            .volumes
            .take()
            .filter(|volumes| volumes.peek().is_none());
        let volumes = unfinished.unwrap_or_else(|| self.seek_volumes());
        if let Some(Err(error)) = volumes.clone().now_or_never() {
            return self.not_mounted(&error);
        }
        self.ahead.volumes = Some(volumes);
        true
    }

    /// Those that start first in a new sandbox.
    fn first_containers(&self) -> impl Iterator<Item = &Container> {
        let first = match lifecycle::init_containers(self.pod()) {
            [] => lifecycle::main_containers(self.pod()),
            [first, ..] => std::slice::from_ref(first),
        };
        let runs = |c: &&Container| lifecycle::should_run(self.pod(), &self.observed, &self.history, &c.name);
        first.iter().filter(runs)
    }

    fn seek_volumes(&mut self) -> Sought<Mounted, MountError> {
        self.ahead.objects = self.objects_seen;
        self.ahead.pod = Some(Arc::clone(&self.order.desired));
        let (kit, desired) = (Arc::clone(&self.kit), Arc::clone(&self.order.desired));
        async move { kit.volumes.mount(&desired.pod).await }
            .boxed()
            .shared()
    }

    /// Brings the volumes to disk or up to date.
    pub(super) async fn mount(&mut self) -> bool {
        if !self.make_directories() {
            return false;
        }
        let ahead = self.ahead.take_volumes();
        let sought = self.sought_or_refreshed(ahead);
        let (mounted, trouble) = tokio::select! {
            // A token may take as long as the way to the cluster is: not worth the pod's turn.
            mounted = keeping(&mut self.permit, PATIENCE, sought) => mounted,
            () = ordered_to_end_sooner(self.orders.clone(), i64::MAX) => return false,
        };
        self.refresh_at = mounted.refresh_after.map(|after| Instant::now() + after);
        if let Some(trouble) = trouble {
            // What stood before stands still, and containers may start on it.
            self.mounted = self.mounted.take().map(|_| mounted);
            return self.not_mounted(&trouble);
        }
        self.holds.mount_failures = 0;
        self.mounted = Some(mounted);
        true
    }

    /// What was sought ahead; without that, every volume that can be had now.
    fn sought_or_refreshed(
        &self,
        ahead: Option<Sought<Mounted, MountError>>,
    ) -> impl Future<Output = (Mounted, Option<MountError>)> + use<> {
        let (kit, desired) = (Arc::clone(&self.kit), Arc::clone(&self.order.desired));
        let before = self.mounted.clone();
        let same = |pod: &Arc<DesiredPod>| Arc::ptr_eq(pod, &self.order.desired);
        let outdated = self.ahead.objects != self.objects_seen || !self.ahead.pod.as_ref().is_some_and(same);
        async move {
            let Some(ahead) = ahead else {
                return kit.volumes.refresh(&desired.pod, before.as_ref()).await;
            };
            match ahead.await {
                Ok(mounted) if outdated => {
                    let refresh_after = Some(Duration::ZERO);
                    (
                        Mounted {
                            refresh_after,
                            ..mounted
                        },
                        None,
                    )
                }
                Ok(mounted) => (mounted, None),
                Err(error) => (Mounted::default(), Some(error)),
            }
        }
    }

    fn not_mounted(&mut self, error: &MountError) -> bool {
        warn!(pod = spec::name(self.pod()), %error, "the volumes could not be mounted");
        self.kit
            .events
            .pod(self.pod(), Tone::Warning, "FailedMount", &error.to_string());
        let retry = MOUNT_RETRY.0 * 2_u32.saturating_pow(self.holds.mount_failures.min(8));
        self.holds.mount_failures += 1;
        let retry = Some(Instant::now() + retry.min(MOUNT_RETRY.1));
        if self.mounted.is_none() {
            self.holds.sandbox = retry;
        }
        self.refresh_at = earlier(self.refresh_at, retry);
        false
    }
}
