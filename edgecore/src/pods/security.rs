//! securityContext, as the runtime is told it.
//!
//! Pure but for the device's own list of CPUs, read once. **Invariant:** where pod and container both
//! speak, the container's word counts; what neither says is the runtime's safe default.

use std::sync::LazyLock;

use k8s_cri::v1::security_profile::ProfileType;
use k8s_cri::v1::{
    Capability, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, SecurityProfile,
};
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext,
};

use super::container_config::ConfigError;
use super::images::PresentImage;
use super::spec;

const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The namespaces a pod shares with the device.
pub fn namespaces(pod: &Pod) -> NamespaceOption {
    let spec = spec::spec(pod);
    let says = |flag: Option<bool>| flag == Some(true);
    let mode = |host: bool| {
        if host {
            NamespaceMode::Node
        } else {
            NamespaceMode::Pod
        }
    };
    let pid = if says(spec.and_then(|spec| spec.host_pid)) {
        NamespaceMode::Node
    } else if says(spec.and_then(|spec| spec.share_process_namespace)) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    NamespaceOption {
        network: mode(spec::host_network(pod)).into(),
        ipc: mode(says(spec.and_then(|spec| spec.host_ipc))).into(),
        pid: pid.into(),
        ..NamespaceOption::default()
    }
}

/// The sandbox's security context. It runs with the runtime's own seccomp profile whatever the pod says.
pub fn sandbox(pod: &Pod) -> LinuxSandboxSecurityContext {
    let context = of_pod(pod);
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        run_as_user: context.and_then(|context| context.run_as_user).map(number),
        run_as_group: context.and_then(|context| context.run_as_group).map(number),
        supplemental_groups: groups(context),
        privileged: spec::all_containers(pod).any(is_privileged),
        seccomp: Some(profile(ProfileType::RuntimeDefault)),
        ..LinuxSandboxSecurityContext::default()
    }
}

/// A container's security context.
pub fn container(
    pod: &Pod,
    container: &Container,
    image: &PresentImage,
) -> Result<LinuxContainerSecurityContext, ConfigError> {
    verify_non_root(pod, container, image)?;
    let (of_pod, own) = (of_pod(pod), container.security_context.as_ref());
    let said_user = run_as_user(of_pod, own);
    let run_as_group = own
        .and_then(|own| own.run_as_group)
        .or_else(|| of_pod.and_then(|pod| pod.run_as_group));
    let seccomp = own.and_then(|own| own.seccomp_profile.as_ref());
    let seccomp = seccomp.or_else(|| of_pod.and_then(|pod| pod.seccomp_profile.as_ref()));
    let apparmor = own.and_then(|own| own.app_armor_profile.as_ref());
    let apparmor = apparmor.or_else(|| of_pod.and_then(|pod| pod.app_armor_profile.as_ref()));
    Ok(LinuxContainerSecurityContext {
        capabilities: own.and_then(capabilities),
        privileged: is_privileged(container),
        namespace_options: Some(namespaces(pod)),
        run_as_user: said_user.or(image.uid).map(number),
        run_as_username: if said_user.is_none() {
            named_user(image)
        } else {
            String::new()
        },
        run_as_group: run_as_group.map(number),
        readonly_rootfs: own.and_then(|own| own.read_only_root_filesystem) == Some(true),
        supplemental_groups: groups(of_pod),
        no_new_privs: own.and_then(|own| own.allow_privilege_escalation) == Some(false),
        masked_paths: MASKED_PATHS.clone(),
        readonly_paths: READONLY.map(str::to_owned).to_vec(),
        seccomp: Some(seccomp_profile(seccomp)),
        apparmor: apparmor.map(apparmor_profile),
        ..LinuxContainerSecurityContext::default()
    })
}

fn verify_non_root(pod: &Pod, container: &Container, image: &PresentImage) -> Result<(), ConfigError> {
    let (of_pod, own) = (of_pod(pod), container.security_context.as_ref());
    let demanded = own
        .and_then(|own| own.run_as_non_root)
        .or_else(|| of_pod.and_then(|pod| pod.run_as_non_root));
    if demanded != Some(true) {
        return Ok(());
    }
    let named = format!("{}_{}({})", spec::name(pod), spec::namespace(pod), spec::uid(pod));
    let place = format!("(pod: {named:?}, container: {})", container.name);
    match (run_as_user(of_pod, own), image.uid) {
        (Some(0), _) => Err(ConfigError(format!(
            "container's runAsUser breaks non-root policy {place}"
        ))),
        (None, None) if !image.username.is_empty() => Err(ConfigError(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {place}",
            image.username
        ))),
        (None, Some(0)) => Err(ConfigError(format!(
            "container has runAsNonRoot and image will run as root {place}"
        ))),
        _ => Ok(()),
    }
}

fn of_pod(pod: &Pod) -> Option<&PodSecurityContext> {
    spec::spec(pod).and_then(|spec| spec.security_context.as_ref())
}

fn run_as_user(of_pod: Option<&PodSecurityContext>, own: Option<&SecurityContext>) -> Option<i64> {
    own.and_then(|own| own.run_as_user)
        .or_else(|| of_pod.and_then(|pod| pod.run_as_user))
}

/// An image's user counts by its number where it has one.
fn named_user(image: &PresentImage) -> String {
    if image.uid.is_some() {
        String::new()
    } else {
        image.username.clone()
    }
}

fn groups(context: Option<&PodSecurityContext>) -> Vec<i64> {
    let Some(context) = context else { return Vec::new() };
    context
        .fs_group
        .into_iter()
        .chain(context.supplemental_groups.iter().flatten().copied())
        .collect()
}

fn is_privileged(container: &Container) -> bool {
    container
        .security_context
        .as_ref()
        .and_then(|context| context.privileged)
        == Some(true)
}

fn capabilities(context: &SecurityContext) -> Option<Capability> {
    let capabilities = context.capabilities.as_ref()?;
    Some(Capability {
        add_capabilities: capabilities.add.clone().unwrap_or_default(),
        drop_capabilities: capabilities.drop.clone().unwrap_or_default(),
        ..Capability::default()
    })
}

fn seccomp_profile(wanted: Option<&SeccompProfile>) -> SecurityProfile {
    match wanted.map(|wanted| wanted.type_.as_str()) {
        Some("RuntimeDefault") => profile(ProfileType::RuntimeDefault),
        _ => profile(ProfileType::Unconfined),
    }
}

fn apparmor_profile(wanted: &AppArmorProfile) -> SecurityProfile {
    match wanted.type_.as_str() {
        "Unconfined" => profile(ProfileType::Unconfined),
        _ => profile(ProfileType::RuntimeDefault),
    }
}

fn profile(profile_type: ProfileType) -> SecurityProfile {
    SecurityProfile {
        profile_type: profile_type.into(),
        localhost_ref: String::new(),
    }
}

fn number(value: i64) -> Int64Value {
    Int64Value { value }
}

/// The fixed list, and the thermal counters of every CPU that has them.
static MASKED_PATHS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let cpus = std::fs::read_dir("/sys/devices/system/cpu")
        .into_iter()
        .flatten()
        .flatten();
    let mut thermal: Vec<_> = cpus
        .map(|cpu| cpu.path().join("thermal_throttle"))
        .filter(|path| path.exists())
        .map(|path| path.display().to_string())
        .collect();
    thermal.sort();
    MASKED.into_iter().map(str::to_owned).chain(thermal).collect()
});

#[cfg(test)]
mod tests;
