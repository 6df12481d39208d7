//! A container as the runtime is told it, as the kubelet tells it.
//!
//! [`build`] puts the parts together: environment, mounts, resources, security. The only files it writes are
//! the container's own (log directory, hosts file, termination message, sub paths).
//!
//! **Invariant:** labels and annotations are those by which a restarted edgecore finds the container again.

mod mounts;

use std::collections::HashMap;
use std::io;

use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, HugepageLimit, ImageSpec, LinuxContainerConfig,
    LinuxContainerResources,
};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::env::{self, EnvInput, Environment};
use super::expansion::{Room, TooLong, expand};
use super::hooks;
use super::images::PresentImage;
use super::kernel;
use super::resources::{self, QUOTA_PERIOD_US};
use super::sandbox_config::identity_labels;
use super::security;
use super::spec::{self, NodeFacts, Objects};
use super::termination::{PATH_ANNOTATION, POLICY_ANNOTATION};
use super::volumes::Mounted;

pub use super::config_error::ConfigError;
pub(super) use mounts::recursive_read_only;

/// Label: the container's name.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation: [`container_hash`].
pub const HASH: &str = "io.kubernetes.container.hash";
/// Annotation: how often the container has been restarted.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Annotation: the pod's terminationGracePeriodSeconds.
pub const TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Annotation: the pod's deletionGracePeriodSeconds.
pub const DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
/// Annotation: the container's preStop hook as JSON, for when its pod is no longer known.
pub const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
/// Annotation: the container's ports as JSON.
pub const PORTS: &str = "io.kubernetes.container.ports";

/// Everything that goes into a container's config.
#[derive(Clone, Copy)]
pub struct ContainerInput<'a> {
    /// The node.
    pub facts: &'a NodeFacts,
    /// The objects the pod names.
    pub objects: &'a dyn Objects,
    /// The pod.
    pub pod: &'a Pod,
    /// One of its containers, init or not.
    pub container: &'a Container,
    /// The restart count it starts with.
    pub attempt: u32,
    /// The sandbox's addresses (the device's own for pods on the host network).
    pub pod_ips: &'a [String],
    /// Its image.
    pub image: &'a PresentImage,
    /// The pod's volumes.
    pub volumes: &'a Mounted,
    /// Whether the pod's handler can make mounts read-only all the way down.
    pub recursive_read_only: bool,
}

/// Writes the files the container needs (log directory, hosts file, termination message file, sub paths) and
/// says how the runtime must make it. Blocking, but short: a few small files.
pub fn build(input: &ContainerInput<'_>) -> Result<ContainerConfig, ConfigError> {
    let ContainerInput {
        facts,
        objects,
        pod,
        container,
        pod_ips,
        ..
    } = *input;
    let mut room = Room::default();
    let input_of_env = EnvInput {
        facts,
        objects,
        pod,
        container,
        pod_ips,
    };
    let environment = env::build(&input_of_env, &mut room).map_err(|error| ConfigError(error.to_string()))?;
    let command = expanded("command", container.command.as_deref(), &environment, &mut room)?;
    let args = expanded("args", container.args.as_deref(), &environment, &mut room)?;
    let security_context = security::container(facts, pod, container, input.image)?;
    make_log_dir(input)?;
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: container.name.clone(),
            attempt: input.attempt,
        }),
        image: Some(image(input)),
        command,
        args,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: environment.key_values(),
        mounts: mounts::build(input, &environment, &mut room)?,
        labels: labels(pod, container),
        annotations: annotations(pod, container, input.attempt),
        log_path: format!("{}/{}.log", container.name, input.attempt),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(LinuxContainerConfig {
            resources: Some(linux_resources(facts, pod, container)),
            security_context: Some(security_context),
        }),
        ..ContainerConfig::default()
    })
}

/// What identifies a container's version: a change of it restarts the container. As with the kubelet, only
/// the name and the image count.
pub fn container_hash(container: &Container) -> String {
    let identity = serde_json::json!({"image": container.image, "name": container.name}).to_string();
    let hash = identity.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    format!("{hash:x}")
}

/// The limits the runtime sets on a container.
pub fn linux_resources(facts: &NodeFacts, pod: &Pod, container: &Container) -> LinuxContainerResources {
    let (requests, limits) = (
        resources::requests(container),
        resources::effective_limits(pod, container),
    );
    let pages = resources::container_huge_pages(pod, container, &facts.huge_page_sizes);
    let hugepage_limits = pages.into_iter().map(|(size, limit)| HugepageLimit {
        page_size: resources::page_size(size),
        limit,
    });
    let shares = requests.cpu_milli.or(limits.cpu_milli).unwrap_or(0);
    let memory_limit_in_bytes = limits.memory.unwrap_or(0);
    LinuxContainerResources {
        cpu_period: QUOTA_PERIOD_US,
        cpu_quota: resources::cpu_quota(limits.cpu_milli.unwrap_or(0)),
        cpu_shares: i64::try_from(resources::cpu_shares(shares)).unwrap_or(i64::MAX),
        memory_limit_in_bytes,
        memory_swap_limit_in_bytes: kernel::swap_limit(memory_limit_in_bytes),
        oom_score_adj: resources::oom_score(pod, container, facts.memory_capacity),
        hugepage_limits: hugepage_limits.collect(),
        unified: kernel::unified(),
        ..LinuxContainerResources::default()
    }
}

fn image(input: &ContainerInput<'_>) -> ImageSpec {
    ImageSpec {
        image: input.image.image_ref.clone(),
        user_specified_image: input.container.image.clone().unwrap_or_default(),
        ..ImageSpec::default()
    }
}

fn expanded(
    place: &str,
    words: Option<&[String]>,
    environment: &Environment,
    room: &mut Room,
) -> Result<Vec<String>, TooLong> {
    let place = || place.to_owned();
    let mut expand = |word| expand(word, |name| environment.value(name), room, place);
    words
        .unwrap_or_default()
        .iter()
        .map(|word| expand(word))
        .collect()
}

fn labels(pod: &Pod, container: &Container) -> HashMap<String, String> {
    let mut labels = identity_labels(pod);
    labels.insert(CONTAINER_NAME.to_owned(), container.name.clone());
    labels
}

fn annotations(pod: &Pod, container: &Container, attempt: u32) -> HashMap<String, String> {
    let grace = spec::spec(pod).and_then(|spec| spec.termination_grace_period_seconds);
    let ports = container.ports.as_ref().filter(|ports| !ports.is_empty());
    let said = [
        (HASH, Some(container_hash(container))),
        (RESTART_COUNT, Some(attempt.to_string())),
        (
            PATH_ANNOTATION,
            Some(container.termination_message_path.clone().unwrap_or_default()),
        ),
        (
            POLICY_ANNOTATION,
            Some(container.termination_message_policy.clone().unwrap_or_default()),
        ),
        (
            DELETION_GRACE,
            pod.metadata
                .deletion_grace_period_seconds
                .map(|seconds| seconds.to_string()),
        ),
        (TERMINATION_GRACE, grace.map(|seconds| seconds.to_string())),
        (
            PRE_STOP,
            hooks::pre_stop(container).and_then(|hook| serde_json::to_string(hook).ok()),
        ),
        (PORTS, ports.and_then(|ports| serde_json::to_string(ports).ok())),
    ];
    said.into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect()
}

fn make_log_dir(input: &ContainerInput<'_>) -> Result<(), ConfigError> {
    let dir = input.facts.pod_log_dir(input.pod).join(&input.container.name);
    let failed = |error: io::Error| {
        ConfigError::io(
            &format!(
                "create container log directory for container {} failed",
                input.container.name
            ),
            &error,
        )
    };
    std::fs::create_dir_all(dir).map_err(failed)
}

#[cfg(test)]
mod tests;
