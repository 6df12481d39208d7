//! securityContext, as the runtime is told it.
//!
//! Pure but for the device's own list of CPUs, read once. **Invariant:** where pod and container both
//! speak, the container's word counts; what neither says is the runtime's safe default.

use std::sync::LazyLock;

use k8s_cri::v1::security_profile::ProfileType;
use k8s_cri::v1::{
    Capability, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, SeLinuxOption, SecurityProfile, SupplementalGroupsPolicy, UserNamespace,
};
use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext};

use super::config_error::ConfigError;
use super::images::PresentImage;
use super::spec::{self, NodeFacts};

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
        userns_options: Some(UserNamespace {
            mode: NamespaceMode::Node.into(),
            ..UserNamespace::default()
        }),
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
        supplemental_groups_policy: groups_policy(context).into(),
        selinux_options: selinux_options(context, None),
        privileged: spec::all_containers(pod).any(is_privileged),
        seccomp: Some(profile(ProfileType::RuntimeDefault)),
        ..LinuxSandboxSecurityContext::default()
    }
}

/// A container's security context.
pub fn container(
    facts: &NodeFacts,
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
    let (apparmor, apparmor_profile) = app_armor(of_pod, own)?;
    let proc_mount = ProcMount::of(own);
    // The last field is for runtimes that do not know the one before it.
    #[expect(
        deprecated,
        reason = "the kubelet sets it, and old runtimes read nothing else"
    )]
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
        supplemental_groups_policy: groups_policy(of_pod).into(),
        selinux_options: selinux_options(of_pod, own),
        no_new_privs: own.and_then(|own| own.allow_privilege_escalation) == Some(false),
        masked_paths: proc_mount.masked(),
        readonly_paths: proc_mount.readonly(),
        seccomp: Some(seccomp_profile(facts, seccomp)?),
        apparmor,
        apparmor_profile,
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

/// A profile of the device's own is a file below the kubelet's directory for them.
fn seccomp_profile(
    facts: &NodeFacts,
    wanted: Option<&SeccompProfile>,
) -> Result<SecurityProfile, ConfigError> {
    let Some(wanted) = wanted else {
        return Ok(profile(ProfileType::Unconfined));
    };
    match (wanted.type_.as_str(), wanted.localhost_profile.as_deref()) {
        ("RuntimeDefault", _) => Ok(profile(ProfileType::RuntimeDefault)),
        ("Localhost", Some(name)) if !name.is_empty() => {
            let root = facts.root_dir.join("seccomp");
            let file = root.join(name.trim_start_matches('/'));
            Ok(localhost(file.display().to_string()))
        }
        ("Localhost", _) => Err(ConfigError(
            "localhostProfile must be set if seccompProfile type is Localhost.".to_owned(),
        )),
        _ => Ok(profile(ProfileType::Unconfined)),
    }
}

/// The profile, and the same as older runtimes read it.
fn app_armor(
    of_pod: Option<&PodSecurityContext>,
    own: Option<&SecurityContext>,
) -> Result<(Option<SecurityProfile>, String), ConfigError> {
    let wanted = own.and_then(|own| own.app_armor_profile.as_ref());
    let Some(wanted) = wanted.or_else(|| of_pod.and_then(|pod| pod.app_armor_profile.as_ref())) else {
        return Ok((None, String::new()));
    };
    let (profile, old) = match (wanted.type_.as_str(), wanted.localhost_profile.as_deref()) {
        ("Unconfined", _) => (profile(ProfileType::Unconfined), "unconfined".to_owned()),
        ("Localhost", Some(name)) => (localhost(name.to_owned()), format!("localhost/{name}")),
        ("Localhost", None) => {
            return Err(ConfigError("missing localhost apparmor profile name".to_owned()));
        }
        _ => (profile(ProfileType::RuntimeDefault), "runtime/default".to_owned()),
    };
    Ok((Some(profile), old))
}

fn groups_policy(context: Option<&PodSecurityContext>) -> SupplementalGroupsPolicy {
    match context.and_then(|context| context.supplemental_groups_policy.as_deref()) {
        Some("Strict") => SupplementalGroupsPolicy::Strict,
        _ => SupplementalGroupsPolicy::Merge,
    }
}

/// The container's label as a whole, or the pod's.
fn selinux_options(
    of_pod: Option<&PodSecurityContext>,
    own: Option<&SecurityContext>,
) -> Option<SeLinuxOption> {
    let options = own.and_then(|own| own.se_linux_options.as_ref());
    let options = options.or_else(|| of_pod.and_then(|pod| pod.se_linux_options.as_ref()))?;
    let said = |part: &Option<String>| part.clone().unwrap_or_default();
    Some(SeLinuxOption {
        user: said(&options.user),
        role: said(&options.role),
        r#type: said(&options.type_),
        level: said(&options.level),
    })
}

/// How much of `/proc` a container sees.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ProcMount {
    Default,
    Unmasked,
}

impl ProcMount {
    fn of(own: Option<&SecurityContext>) -> Self {
        match own.and_then(|own| own.proc_mount.as_deref()) {
            Some("Unmasked") => Self::Unmasked,
            _ => Self::Default,
        }
    }

    fn masked(self) -> Vec<String> {
        match self {
            Self::Default => MASKED_PATHS.clone(),
            Self::Unmasked => Vec::new(),
        }
    }

    fn readonly(self) -> Vec<String> {
        match self {
            Self::Default => READONLY.map(str::to_owned).to_vec(),
            Self::Unmasked => Vec::new(),
        }
    }
}

fn profile(profile_type: ProfileType) -> SecurityProfile {
    SecurityProfile {
        profile_type: profile_type.into(),
        localhost_ref: String::new(),
    }
}

fn localhost(localhost_ref: String) -> SecurityProfile {
    SecurityProfile {
        profile_type: ProfileType::Localhost.into(),
        localhost_ref,
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
