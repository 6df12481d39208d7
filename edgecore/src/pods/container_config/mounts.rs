//! A container's mounts: its volumes, the hosts file, the place for its last words.
//!
//! **Invariant:** a mount names a volume that is there, or the container is not made.

use std::path::PathBuf;

use k8s_cri::v1::{Mount, MountPropagation};
use k8s_openapi::api::core::v1::{Pod, Volume, VolumeMount};

use super::super::env::Environment;
use super::super::expansion::{Room, expand};
use super::super::volumes::subpath::{self, Naming};
use super::super::volumes::{MountedVolume, file};
use super::super::{hosts, spec, termination};
use super::{ConfigError, ContainerInput};

const ETC_HOSTS: &str = "/etc/hosts";

/// All mounts, in the order the kubelet has them.
pub(super) fn build(
    input: &ContainerInput<'_>,
    environment: &Environment,
    room: &mut Room,
) -> Result<Vec<Mount>, ConfigError> {
    let wanted = input.container.volume_mounts.as_deref().unwrap_or_default();
    let mut mounts = Vec::with_capacity(wanted.len() + 2);
    for (index, mount) in wanted.iter().enumerate() {
        mounts.push(volume(input, (environment, room), (mount, index))?);
    }
    if !wanted.iter().any(|mount| mount.mount_path == ETC_HOSTS) {
        let hosts = hosts::write(input.facts, input.pod, input.pod_ips);
        let path = hosts.map_err(|error| ConfigError::io("write the pod's hosts file", &error))?;
        mounts.push(Mount {
            selinux_relabel: input.facts.selinux,
            ..plain(ETC_HOSTS.to_owned(), &path)
        });
    }
    mounts.extend(termination_message(input)?);
    Ok(mounts)
}

fn volume(
    input: &ContainerInput<'_>,
    (environment, room): (&Environment, &mut Room),
    (mount, index): (&VolumeMount, usize),
) -> Result<Mount, ConfigError> {
    let container = &input.container.name;
    let found = input.volumes.volumes.get(&mount.name);
    let volume = found.ok_or_else(|| {
        ConfigError(format!(
            "cannot find volume {:?} to mount into container {container:?}",
            mount.name
        ))
    })?;
    let host_path = match sub_path(environment, room, mount)? {
        Some(sub_path) => bind_sub_path(input, volume, (mount, index), &sub_path)?,
        None => volume.host_path.clone(),
    };
    let readonly = mount.read_only == Some(true) || volume.read_only;
    let recursive_read_only = recursive_read_only(mount, input.recursive_read_only)
        .map_err(|why| ConfigError(format!("failed to resolve recursive read-only mode: {why}")))?;
    Ok(Mount {
        readonly,
        recursive_read_only,
        selinux_relabel: input.facts.selinux && is_ours(input.pod, &mount.name),
        propagation: propagation(mount).into(),
        ..plain(absolute(&mount.mount_path), &host_path)
    })
}

/// A directory of the device keeps its labels; what was made for the pod gets the container's.
fn is_ours(pod: &Pod, volume: &str) -> bool {
    let volumes = spec::spec(pod).and_then(|spec| spec.volumes.as_deref());
    let of_device = |known: &&Volume| known.name == volume && known.host_path.is_some();
    !volumes.unwrap_or_default().iter().any(|known| of_device(&known))
}

/// Whether later mounts of the device show in the container, and the container's on the device.
fn propagation(mount: &VolumeMount) -> MountPropagation {
    match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => MountPropagation::PropagationBidirectional,
        _ => MountPropagation::PropagationPrivate,
    }
}

/// Whether a mount is read-only all the way down, given whether the pod's handler can make it so.
pub(in crate::pods) fn recursive_read_only(mount: &VolumeMount, possible: bool) -> Result<bool, String> {
    let Some(mode) = mount
        .recursive_read_only
        .as_deref()
        .filter(|mode| *mode != "Disabled")
    else {
        return Ok(false);
    };
    let asked = format!("volume {:?} requested recursive read-only mode", mount.name);
    if mount.read_only != Some(true) {
        return Err(format!("{asked}, but it is not read-only"));
    }
    if let Some(other) = mount.mount_propagation.as_deref().filter(|mode| *mode != "None") {
        return Err(format!(
            "{asked}, but it is not compatible with propagation {other:?}"
        ));
    }
    match mode {
        "IfPossible" => Ok(possible),
        "Enabled" if possible => Ok(true),
        "Enabled" => Err(format!("{asked}, but it is not supported by the runtime")),
        other => Err(format!("unknown recursive read-only mode {other:?}")),
    }
}

fn bind_sub_path(
    input: &ContainerInput<'_>,
    volume: &MountedVolume,
    (mount, index): (&VolumeMount, usize),
    sub_path: &str,
) -> Result<PathBuf, ConfigError> {
    let container = &input.container.name;
    let own = input
        .facts
        .pod_dir(spec::uid(input.pod))
        .join("volume-subpaths")
        .join(&mount.name);
    let target = own.join(container).join(index.to_string());
    let naming = if is_ours(input.pod, &mount.name) {
        Naming::Relative
    } else {
        Naming::Full
    };
    subpath::bind((&volume.host_path, naming), sub_path, &target).map_err(|cause| {
        let volume = &mount.name;
        ConfigError(format!(
            "failed to prepare subPath for volumeMount {volume:?} of container {container:?}: {cause}"
        ))
    })
}

/// `subPath`, or `subPathExpr` with every reference resolved.
fn sub_path(
    environment: &Environment,
    room: &mut Room,
    mount: &VolumeMount,
) -> Result<Option<String>, ConfigError> {
    let Some(expression) = mount
        .sub_path_expr
        .as_deref()
        .filter(|expression| !expression.is_empty())
    else {
        return Ok(mount.sub_path.clone().filter(|path| !path.is_empty()));
    };
    let missing = std::cell::RefCell::new(Vec::new());
    let value_of = |name: &str| {
        let value = environment.value(name);
        if value.is_none_or(str::is_empty) {
            missing.borrow_mut().push(format!("missing value for {name:?}"));
        }
        value
    };
    let place = || format!("subPathExpr of volumeMount {:?}", mount.name);
    let path = expand(expression, value_of, room, place)?;
    let missing = missing.into_inner();
    if missing.is_empty() {
        Ok(Some(path))
    } else {
        Err(ConfigError(missing.join(", ")))
    }
}

/// The file for the container's last words, empty at each start.
fn termination_message(input: &ContainerInput<'_>) -> Result<Option<Mount>, ConfigError> {
    let Some(inside) = input
        .container
        .termination_message_path
        .as_deref()
        .filter(|path| !path.is_empty())
    else {
        return Ok(None);
    };
    let uid = spec::uid(input.pod);
    let path = termination::path(input.facts, uid, &input.container.name, input.attempt);
    let failed = |error| ConfigError::io("make the termination message file", &error);
    let mut dir = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(dir.recursive(true), 0o750);
    dir.create(input.facts.container_dir(uid, &input.container.name))
        .map_err(failed)?;
    file::overwrite(&path, b"", 0o666).map_err(failed)?;
    Ok(Some(Mount {
        selinux_relabel: input.facts.selinux,
        ..plain(absolute(inside), &path)
    }))
}

fn plain(container_path: String, host_path: &std::path::Path) -> Mount {
    Mount {
        container_path,
        host_path: host_path.display().to_string(),
        propagation: MountPropagation::PropagationPrivate.into(),
        ..Mount::default()
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}
